"""The commands of `edge-fleet`: their options; what they do is in the modules that they call."""
