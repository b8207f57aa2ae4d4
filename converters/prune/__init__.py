"""Pruning: the schedule, and its way through each framework."""
