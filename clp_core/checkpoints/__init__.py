"""Model folders of Hugging Face: read and written by rows, their names, formats and configurations."""
