"""The commands of `edge-convert`: each adds its parser and runs."""
