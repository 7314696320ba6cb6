"""Evaluation: prompts, judges, statistics, and the runner that brings them together."""
