"""Scores of models: bits per byte, samples, and tasks beside predicting text."""
