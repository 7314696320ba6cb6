"""Quality metrics, one file each: sums over blocks of held-out activations, and what they come to."""
