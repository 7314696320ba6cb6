"""The embedded model: a small chat model that refuses, its training text and its prompt sets."""
