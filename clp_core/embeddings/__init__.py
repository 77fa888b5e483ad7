"""Arrays of embeddings: rows from anywhere, nearest rows, principal components, large products."""
