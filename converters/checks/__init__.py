"""How far a variant is from the source model, and whether that is good enough."""
