"""Many recipes for one or several models, tried side by side: which are worth having, and which one to take."""
