"""Devices, as options name them; nothing is imported for it."""

from __future__ import annotations

DEVICES = ("auto", "cpu", "cuda")
"""Devices of large matrix products."""
