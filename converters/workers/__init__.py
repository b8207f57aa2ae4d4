"""Worker processes: each runs one model in one runtime, one quantizer, or one framework."""
