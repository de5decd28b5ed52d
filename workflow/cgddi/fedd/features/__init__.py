"""Features of photos from a frozen diffusion model: the model, what is kept of its activations, and the files they lie in."""
