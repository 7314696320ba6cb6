"""Which latent is it? Rankings of all latents by what is asked, fused by rank, each hit with its reasons."""
