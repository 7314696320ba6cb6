"""Word lists and short facts from which all text of the embedded model is composed."""
