"""FEDD (Carrión and Norouzi, MICCAI 2023): lesion masks and malignancy from the features of a frozen diffusion model."""
