"""The supervisor and its short-lived children: what this device runs, and keeping it running."""
