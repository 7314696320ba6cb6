"""What an SAE is worth on a language model: reconstruction, loss, probes, absorption."""
