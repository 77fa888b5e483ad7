"""Export of runs as plain model folders, and pushes to the Hub."""
