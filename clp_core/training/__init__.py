"""Continued pretraining: options, plan, the run itself, its metrics and checkpoints."""
