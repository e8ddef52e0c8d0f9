"""Notebooks run once for each point of a parameter grid: `sweep.sweep` and, for its results, `board`."""
