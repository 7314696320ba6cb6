"""Finding the latents that carry a behaviour."""
