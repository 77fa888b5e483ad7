"""A helper model where none exists: its tokenizer, its size, its pretraining."""
