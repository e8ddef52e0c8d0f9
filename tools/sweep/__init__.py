"""Run notebooks once for each point of a parameter grid: `sweep.sweep`; its results: `board`."""
