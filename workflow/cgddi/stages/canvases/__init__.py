"""The kept healthy images of a cohort, pooled once into one archive."""
