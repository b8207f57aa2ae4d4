"""From a recipe to a package: the float files, every variant of them, what each is worth, and the report."""
