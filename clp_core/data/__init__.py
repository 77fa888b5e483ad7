"""Texts: files in every form, documents, tokenised blocks, held-out parts and contamination."""
