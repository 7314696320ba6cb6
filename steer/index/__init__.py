"""The feature index: what each latent of an SAE does on a text, on disk, read in milliseconds."""
