"""The Hugging Face Hub: ids, downloads, what goes wrong with them, and access tokens."""
