"""Where text comes from, one file a kind: every source is read lazily, again and again, and from any position."""
