"""The Hugging Face Hub: ids, downloads, their errors, access tokens."""
