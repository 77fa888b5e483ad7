"""Tokenizers as AutoTokenizer reads them, their vocabularies, and what two of them have in common."""
