"""Counters and the health page shared by supervisor and serving."""
