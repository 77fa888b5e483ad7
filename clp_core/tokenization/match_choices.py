"""How tokens of two vocabularies may be matched; nothing is imported for it."""

from __future__ import annotations

MATCHES = ("raw", "canonical")
"""How tokens of two vocabularies are compared: by their strings, or by the bytes they stand for."""
SPECIAL_RULES = ("auto", "string", "role")
"""How special tokens are matched."""
