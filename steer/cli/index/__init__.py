"""``steer index``."""
