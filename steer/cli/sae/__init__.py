"""``steer sae``: SAEs as files. One file a verb."""
