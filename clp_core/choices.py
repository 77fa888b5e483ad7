"""Values that options may take; nothing is imported for them."""

from __future__ import annotations

AUTO = "auto"
"""The method that chooses among the others by held-out anchors; see ``clp_core.auto``."""
DEVICES = ("auto", "cpu", "cuda")
"""Devices of large matrix products."""
GUARDS = ("none", "warn", "fallback")
"""What is done about rows at risk: nothing, a warning, or a row by another method."""
MATCHES = ("raw", "canonical")
"""How tokens of two vocabularies are compared: by their strings, or by the bytes they stand for."""
SPECIAL_RULES = ("auto", "string", "role")
"""How special tokens are matched."""
MEASURES = ("bits_per_byte", "eval_loss")
"""Scores by which runs are compared: bits per byte, and under one tokenizer also the held-out loss, nats per token."""
