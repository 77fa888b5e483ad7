"""What two vocabularies have in common, and what that means on a text."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np
import pandas as pd

from clp_core.errors import InputError
from clp_core.vocabulary import CATEGORIES, ROLES, Vocabulary

Match = Literal["raw", "canonical"]
MATCHES: tuple[str, ...] = get_args(Match)
SPECIAL_RULES = ("auto", "string", "role")
MIN_ANCHORS = 300
MIN_COVERAGE = 0.3
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Overlap:
    """Which target tokens stand in the source vocabulary.

    Attributes:
        source: vocabulary of the source model.
        target: vocabulary of the helper, which is the target's.
        match: ``raw`` compares token strings (the published rule), ``canonical`` the bytes they stand for.
        source_ids: ``[target.n_ids]``, the matched source id of each target id, -1 where there is none.
    """

    source: Vocabulary
    target: Vocabulary
    match: str
    source_ids: np.ndarray

    @classmethod
    def of(cls, source: Vocabulary, target: Vocabulary, match: str = "raw", special: str = "auto") -> Overlap:
        """Match every target token with a source token.

        In ``canonical`` mode several tokens may stand for the same bytes; then the source token with the same
        string is taken, else one that is no raw byte, else the one with the lowest id.

        Args:
            source: the source's vocabulary.
            target: the helper's vocabulary.
            match: how ordinary tokens are compared, ``raw`` or ``canonical``.
            special: how special tokens are: by ``string``, by ``role`` (bos with bos, and so on), or ``auto``: by
                string under ``raw``, as published, and by role under ``canonical``.

        Raises:
            InputError: unknown match mode or rule.
        """
        if match not in MATCHES:
            raise InputError(f"match {match!r} is unknown; use one of {', '.join(MATCHES)}")
        if special not in SPECIAL_RULES:
            raise InputError(f"--special-tokens {special!r} is unknown; use one of {', '.join(SPECIAL_RULES)}")
        by_string = [source.ids.get(token, -1) if token is not None else -1 for token in target.tokens]
        found = by_string if match == "raw" else canonical_matches(source, target)
        by_role = special == "role" or (special == "auto" and match == "canonical")
        for i in target.special_ids:
            found[i] = role_match(source, target, i) if by_role else by_string[i]
        return cls(source, target, match, np.array(found, dtype=np.int64))

    def without(self, ids: Iterable[int]) -> Overlap:
        """Return the overlap less these target ids, which then count as missing."""
        source_ids = self.source_ids.copy()
        source_ids[list(ids)] = -1
        return replace(self, source_ids=source_ids)

    @cached_property
    def role_conflicts(self) -> list[str]:
        """Target tokens that overlap with a source token of another role, or of a role where they have none."""
        found = []
        for i in self.ids.tolist():
            own, other = self.target.roles_of(i), self.source.roles_of(int(self.source_ids[i]))
            if own != other and not (own & other):
                found.append(str(self.target.tokens[i]))
        return found

    @cached_property
    def is_token(self) -> np.ndarray:
        """Which target ids hold a token (no gap), ``[target.n_ids]`` of bool."""
        return np.array([token is not None for token in self.target.tokens])

    @cached_property
    def ids(self) -> np.ndarray:
        """Target ids of the overlapping tokens, ascending."""
        return np.flatnonzero(self.source_ids >= 0)

    @cached_property
    def missing_ids(self) -> np.ndarray:
        """Target ids of the missing tokens, ascending."""
        return np.flatnonzero((self.source_ids < 0) & self.is_token)

    @property
    def size(self) -> int:
        """Number of target tokens that overlap."""
        return len(self.ids)

    @property
    def share_of_target(self) -> float:
        """Share of the target vocabulary that overlaps."""
        return self.size / self.target.size

    @property
    def share_of_source(self) -> float:
        """Share of the source vocabulary that is used by the overlap (the paper's Table 1)."""
        return len(np.unique(self.source_ids[self.ids])) / self.source.size

    @cached_property
    def statuses(self) -> np.ndarray:
        """Status of each target id: ``copied``, ``missing``, ``special`` (either way) or empty for a gap."""
        status = np.where(self.source_ids >= 0, "copied", "missing").astype(object)
        status[~self.is_token] = ""
        status[[i for i in self.target.special_ids if i < len(status)]] = "special"
        return status

    def by_category(self) -> pd.DataFrame:
        """Return counts by category: columns category, copied, missing, share (of the category that is copied)."""
        categories = self.target.categories
        rows = []
        for category in CATEGORIES:
            of_category = categories == category
            copied = int((of_category & (self.source_ids >= 0)).sum())
            total = int(of_category.sum())
            if total:
                rows.append((category, copied, total - copied, copied / total))
        return pd.DataFrame(rows, columns=["category", "copied", "missing", "share"])

    def by_script(self, most: int = 12) -> pd.DataFrame:
        """Return counts of the most frequent scripts: columns script, copied, missing, share."""
        frame = pd.DataFrame({"script": self.target.scripts, "copied": self.source_ids >= 0})[self.is_token]
        table = frame.groupby("script")["copied"].agg(copied="sum", total="size").sort_values("total", ascending=False)
        table = table.head(most).reset_index()
        table["missing"] = table["total"] - table["copied"]
        table["share"] = table["copied"] / table["total"]
        return table[["script", "copied", "missing", "share"]]

    def table(self) -> pd.DataFrame:
        """Return one row a target token: id, token, shown, status, category, script, bytes, source_id."""
        target = self.target
        keep = np.flatnonzero(self.is_token)
        return pd.DataFrame(
            {
                "id": keep,
                "token": [target.tokens[i] for i in keep],
                "shown": [target.shown(i) for i in keep.tolist()],
                "status": self.statuses[keep],
                "category": target.categories[keep],
                "script": target.scripts[keep],
                "bytes": target.lengths[keep],
                "source_id": pd.array(np.where(self.source_ids[keep] >= 0, self.source_ids[keep], -1)).astype("Int64"),
            }
        ).assign(source_id=lambda frame: frame["source_id"].mask(frame["source_id"] < 0))

    def on_text(self, text: str) -> TextOverlap:
        """Measure the overlap on a running text.

        Raises:
            InputError: the text is empty.
        """
        if not text.strip():
            raise InputError("the text is empty; give some text of the target language")
        ids = np.asarray(self.target.encode(text), dtype=np.int64)
        words = len(WORD.findall(text)) or 1
        n_bytes = len(text.encode("utf-8"))
        n_source = len(self.source.encode(text))
        unknown = self.target.roles.get("unk")
        return TextOverlap(
            tokens=len(ids),
            coverage=float((self.source_ids[ids] >= 0).mean()) if len(ids) else 0.0,
            source_fertility=n_source / words,
            target_fertility=len(ids) / words,
            source_bytes_per_token=n_bytes / max(n_source, 1),
            target_bytes_per_token=n_bytes / max(len(ids), 1),
            unknown_share=float((ids == unknown).mean()) if unknown is not None and len(ids) else 0.0,
        )


@dataclass(frozen=True)
class TextOverlap:
    """An overlap on a text.

    Attributes:
        tokens: running tokens of the text under the target tokenizer.
        coverage: share of these that are overlap.
        source_fertility: source tokens a word (a word is a run of letters, digits and underscores).
        target_fertility: target tokens a word.
        source_bytes_per_token: UTF-8 bytes of the text per source token.
        target_bytes_per_token: UTF-8 bytes of the text per target token.
        unknown_share: share of the running target tokens that are the unknown token.
    """

    tokens: int
    coverage: float
    source_fertility: float
    target_fertility: float
    source_bytes_per_token: float
    target_bytes_per_token: float
    unknown_share: float


def is_fit(overlap: Overlap, on_text: TextOverlap) -> bool:
    """Say whether a pair has enough in common for a transfer: a rule of thumb, not a measurement.

    Fewer than 300 anchors leave little to fit a method to; with less than 30 % of the running text covered, most of
    what the target reads at first are rows that were made up.
    """
    return overlap.size >= MIN_ANCHORS and on_text.coverage >= MIN_COVERAGE


def canonical_matches(source: Vocabulary, target: Vocabulary) -> list[int]:
    """Return the source id of each ordinary target id by canonical key, -1 where there is none."""
    by_key: dict[bytes | str, int] = {}
    for i, key in enumerate(source.canonical_keys):
        if key is None or i in source.special_ids:
            continue
        held = by_key.get(key)
        if held is None or (source.is_byte(held) and not source.is_byte(i)):
            by_key[key] = i
    found = []
    for i, key in enumerate(target.canonical_keys):
        if i in target.special_ids or key is None:
            found.append(-1)
        else:
            same = source.ids.get(target.tokens[i] or "", -1)
            found.append(same if same >= 0 and source.canonical_keys[same] == key else by_key.get(key, -1))
    return found


def role_match(source: Vocabulary, target: Vocabulary, token_id: int) -> int:
    """Return the source id with the same role as a special target token, -1 where there is none."""
    own = [role for role in ROLES if target.roles.get(role) == token_id]
    return next((source.roles[role] for role in own if role in source.roles), -1)


def overlap_pairs(vocabularies: Sequence[Vocabulary], match: str = "raw") -> list[Overlap]:
    """Return the overlap of every pair of vocabularies, each pair once, in the order given."""
    return [Overlap.of(a, b, match) for a, b in itertools.combinations(vocabularies, 2)]
