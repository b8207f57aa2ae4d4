"""The commands of `edge-convert` that have a module of their own."""
