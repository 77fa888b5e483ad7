"""Scores of models: bits per byte, samples, cloze questions and word translation."""
