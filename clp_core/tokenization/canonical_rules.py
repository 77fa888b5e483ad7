"""What canonical matching merges beyond equal strings, rule by rule, so that a larger overlap can be checked."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.token_bytes import WORD_START
from clp_core.tokenization.vocabulary import Vocabulary

STRING = "same string"
MARKS = "word marks"
ALPHABET = "byte alphabet"
RAW_BYTES = "raw bytes"
ROLES = "special roles"

RULES = {
    STRING: "both vocabularies have the very same string; what raw matching counts",
    MARKS: f"Ġ, {WORD_START} and a blank all start a word; ## goes on inside one",
    ALPHABET: "byte-level BPE writes bytes in an alphabet of its own: ü is Ã¼ there",
    RAW_BYTES: "<0xNN> of SentencePiece is that byte",
    ROLES: "special tokens are matched by what they do, not by how they are written",
}


@dataclass(frozen=True)
class RuleChanges:
    """The tokens whose match a rule changes.

    Attributes:
        steps: one row a rule in the order applied: rule, gained, lost, overlap (tokens in common after it) and
            share_of_target.
        tokens: one row a changed token: id, token, source_id, source_token (as shown), rule, change (``gained``,
            ``lost`` or ``other row``), raw_token, raw_source_token; a lost token is beside the source token it loses.
    """

    steps: pd.DataFrame
    tokens: pd.DataFrame


def rule_changes(raw: Overlap, canonical: Overlap) -> RuleChanges:
    """Attribute every difference between the two match modes to the rule that makes it.

    A token that needs several rules counts for the last of them; a token that canonical matching takes away, or gives
    another source row, counts for special roles if it is special, else for the rule of its new match.

    Args:
        raw: a pair under ``raw``.
        canonical: the same pair under ``canonical``.
    """
    source, target = raw.source, raw.target
    rows = []
    for i in np.flatnonzero(raw.source_ids != canonical.source_ids).tolist():
        before, after = int(raw.source_ids[i]), int(canonical.source_ids[i])
        change = "gained" if before < 0 else "lost" if after < 0 else "other row"
        shown = after if after >= 0 else before
        if i in target.special_ids or shown in source.special_ids:
            rule = ROLES
        else:
            rule = rule_of(source, target, shown, i) if after >= 0 else rule_against(source, target, shown, i)
        names = (target.shown(i), shown, source.shown(shown), rule, change, target.tokens[i], source.tokens[shown])
        rows.append((i, *names))
    columns = ["id", "token", "source_id", "source_token", "rule", "change", "raw_token", "raw_source_token"]
    tokens = pd.DataFrame(rows, columns=columns)
    held = raw.size
    steps = [(STRING, held, 0, held, held / target.size)]
    for rule in list(RULES)[1:]:
        of_rule = tokens[tokens["rule"] == rule]["change"]
        gained, lost = int((of_rule == "gained").sum()), int((of_rule == "lost").sum())
        held += gained - lost
        steps.append((rule, gained, lost, held, held / target.size))
    named = ["rule", "gained", "lost", "overlap", "share_of_target"]
    return RuleChanges(pd.DataFrame(steps, columns=named), tokens)


def rule_against(source: Vocabulary, target: Vocabulary, source_id: int, target_id: int) -> str:
    """Return the rule by which two ordinary tokens with one string stand for other bytes."""
    return MARKS if source.bytes_of(source_id).strip() == target.bytes_of(target_id).strip() else ALPHABET


def rule_of(source: Vocabulary, target: Vocabulary, source_id: int, target_id: int) -> str:
    """Return the last of the rules that make two ordinary tokens equal."""
    pairs = ((source, source_id), (target, target_id))
    if any(vocabulary.family == "sentencepiece" and vocabulary.is_byte(i) for vocabulary, i in pairs):
        return RAW_BYTES
    first, second = (unmarked(vocabulary, i) for vocabulary, i in pairs)
    return MARKS if first == second else ALPHABET


def unmarked(vocabulary: Vocabulary, token_id: int) -> str:
    """Return a token's string with its word marks as the blanks they stand for."""
    token = vocabulary.tokens[token_id] or ""
    if vocabulary.family == "byte-level":
        return token.replace("Ġ", " ")
    if vocabulary.family == "sentencepiece":
        return token.replace(WORD_START, " ")
    if vocabulary.family == "wordpiece":
        return token[2:] if token.startswith("##") and len(token) > 2 else " " + token
    return token
