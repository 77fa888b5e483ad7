"""What the process runs on: versions of code and packages, memory, GPUs, signals."""
