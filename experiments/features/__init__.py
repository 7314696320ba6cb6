"""Comparisons of the ways to find latents."""
