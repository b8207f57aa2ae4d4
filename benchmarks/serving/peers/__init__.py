"""Other servers with the same model, each installed into a virtual environment of its own."""
