"""The documents that others rely on, and the plan compiled from them."""
