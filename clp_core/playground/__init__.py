"""Prompts to checkpoints, side by side."""
