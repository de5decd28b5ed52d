"""The toy world: a procedural photo generator and a tiny Stable-Diffusion-shaped base model.

``world`` writes DDI-format data sets (no torch needed); ``pretrain`` rebuilds the base model in
``config/toy/model`` from a generic procedural corpus that holds none of the toy diseases.
"""
