"""Which variants to make of a source, and making them."""
