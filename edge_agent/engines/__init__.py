"""Runtimes behind one interface; found through the entry point group edge_agent.engines."""
