"""From text to activations: what SAEs and directions are fitted on."""
