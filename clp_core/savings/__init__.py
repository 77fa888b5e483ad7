"""Runs against a baseline: learning curves, and the tokens that a transfer saves."""
