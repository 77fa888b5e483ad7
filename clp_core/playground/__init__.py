"""The playground: prompts to several checkpoints, side by side."""
