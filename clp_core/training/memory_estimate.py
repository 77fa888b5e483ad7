"""What a model's training takes: operations a token, and bytes of weights, optimiser, activations and logits.

The counts are of a decoder block with the usual parts and of attention that keeps no matrix of scores (SDPA). They are
an estimate; the page says so, and ``benchmarks/training.py`` prints what was measured beside it.
"""

from __future__ import annotations

BYTES_OF_STATE = 16
"""A float32 weight, its gradient, and AdamW's two moments."""
BYTES_OF_BUCKETS = 4
"""The copy of the gradient that DDP sends."""
BYTES_OF_CAST = 2
"""The weight in bfloat16, which autocast keeps until the step is done."""
BYTES_OF_ACTIVATION = {True: 3, False: 4}
"""In bfloat16 some are kept as float32."""
COPIES_OF_LOGITS = 3
"""The logits, their float32 copy for the loss, and their gradient."""
COPIES_OF_EXPECTATIONS = 3
"""A teacher's logits, its probabilities, and their products with the scores of the model that learns."""
