"""What a model or package is made of, and how two of them differ."""
