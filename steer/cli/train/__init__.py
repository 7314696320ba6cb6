"""``steer train``: its options, how they meet a config file, and what it prints."""
