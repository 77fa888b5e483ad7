"""The bytes that tokens stand for: alphabets of byte-level tokenizers, byte fallback, word marks."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Literal

Family = Literal["byte-level", "sentencepiece", "wordpiece", "plain"]
WORD_START = "\N{LOWER ONE EIGHTH BLOCK}"


@lru_cache(1)
def byte_of_character() -> dict[str, int]:
    """Return the alphabet of byte-level BPE: the byte that each of its 256 printable characters stands for."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


@lru_cache(1)
def character_of_byte() -> dict[int, str]:
    """Return the inverse of ``byte_of_character``."""
    return {byte: character for character, byte in byte_of_character().items()}


def family_of(description: dict[str, Any]) -> Family:
    """Return the family of a tokenizer.json by its model, pre-tokenizer, normalizer and decoder."""
    model = description.get("model") or {}
    if model.get("type") == "WordPiece":
        return "wordpiece"
    parts = json.dumps([description.get(key) for key in ("pre_tokenizer", "decoder", "normalizer")], ensure_ascii=False)
    if '"ByteLevel"' in parts:
        return "byte-level"
    if model.get("type") == "Unigram" or '"Metaspace"' in parts or WORD_START in parts:
        return "sentencepiece"
    return "plain"


def byte_fallback(token: str) -> int | None:
    """Return the byte of a SentencePiece byte token such as ``<0x0A>``, else ``None``."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        try:
            return int(token[3:5], 16)
        except ValueError:
            return None
    return None


def decoded(data: bytes) -> str | None:
    """Return bytes as text, or ``None`` where they are no UTF-8 by themselves."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None
