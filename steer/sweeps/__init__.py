"""Sweeps: a study of several ways of steering, at several strengths, on several tasks, cell by cell."""
