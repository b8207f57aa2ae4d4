"""Pre- and postprocessing written into a model's graph."""
