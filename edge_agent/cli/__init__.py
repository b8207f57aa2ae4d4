"""The operator's commands; thin."""
