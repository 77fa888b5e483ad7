"""Model cards: what a README.md says of a model, and under which licence."""
