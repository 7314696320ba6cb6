"""``steer find``: which latents carry a behaviour. One file a verb."""
