"""What pages read of an embedding space: prepared rows, neighbour graphs, layouts, movement of rows."""
