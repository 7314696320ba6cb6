"""``steer plan``: steering plans as files. One file a verb."""
