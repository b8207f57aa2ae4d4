"""What is on disk: blobs, state, events."""
