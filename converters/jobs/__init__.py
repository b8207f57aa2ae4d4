"""What worker processes do: `child` answers the messages of `converters.workers`, the others carry them out."""
