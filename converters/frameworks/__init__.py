"""Frameworks that models are trained with: one module each, found by name, imported only when used."""
