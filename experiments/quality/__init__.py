"""Comparisons of quality, with the data and the budget held equal."""
