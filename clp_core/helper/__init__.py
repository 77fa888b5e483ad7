"""A helper where none exists: its tokenizer, its size, its pretraining."""
