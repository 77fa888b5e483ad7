"""Comparison of runs with a baseline: learning curves, and the training tokens that a transfer saves."""
