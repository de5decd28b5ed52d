"""The pixel networks on diffusion features: ensemble, training pixels, training, and masks."""
