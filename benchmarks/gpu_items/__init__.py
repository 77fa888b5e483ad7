"""The items of ``benchmarks/gpu.py``: one module per item, and what they share."""
