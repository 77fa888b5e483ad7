"""Continued pretraining: from options and a plan to a run, its figures and its checkpoints."""
