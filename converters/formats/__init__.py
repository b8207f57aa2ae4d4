"""Model files: which format one has, what is in it, and rewriting it."""
