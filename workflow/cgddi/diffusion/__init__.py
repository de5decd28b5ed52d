"""The diffusion engine: one backbone interface, cached encoders, a resumable training loop and a batched sampler."""
