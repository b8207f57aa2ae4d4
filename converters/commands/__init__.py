"""The commands of `edge-convert`, a module each: its arguments, and the thin call behind it."""
