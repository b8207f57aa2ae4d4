"""Where a store's files lie: a folder, or a bucket behind an fsspec URL."""
