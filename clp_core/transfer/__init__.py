"""The transfer: two checkpoints in, a target out, and where each of its rows comes from."""
