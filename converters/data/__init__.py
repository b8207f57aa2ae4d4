"""The samples of a conversion: read, checked against the model, split, generated."""
