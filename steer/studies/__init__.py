"""Whole studies: from a model to results and a report."""
