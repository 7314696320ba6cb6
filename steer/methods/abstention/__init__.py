"""Abstaining from questions about chosen concepts: the techniques of SELECT (arXiv 2412.07430)."""
