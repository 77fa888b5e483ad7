"""What pages show of an embedding space: prepared rows, neighbour graphs, layouts, movement of rows."""
