"""Language models: where their activations are, how they are read and edited, how they are prompted."""
