"""What two vocabularies have in common, where it lives, and the same for many as a matrix."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from clp_core.errors import InputError
from clp_core.tokenization.match_choices import MATCHES, SPECIAL_RULES
from clp_core.tokenization.tokenizer_reading import ROLES
from clp_core.tokenization.vocabulary import CATEGORIES, Vocabulary

if TYPE_CHECKING:
    import pandas as pd

FIELDS = ("category", "script", "length", "word start", "rank")
"""What the tokens of an overlap can be grouped by."""

LONGEST = 12
N_RANKS = 10


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
    def used_source_ids(self) -> frozenset[int]:
        """Source ids that some target token overlaps with."""
        return frozenset(self.source_ids[self.ids].tolist())

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
        return len(self.used_source_ids) / self.source.size

    @cached_property
    def statuses(self) -> np.ndarray:
        """Status of each target id: ``copied``, ``missing``, ``special`` (either way) or empty for a gap."""
        status = np.where(self.source_ids >= 0, "copied", "missing").astype(object)
        status[~self.is_token] = ""
        status[[i for i in self.target.special_ids if i < len(status)]] = "special"
        return status

    def groups(self, field: str, most: int = 12) -> np.ndarray:
        """Return the group of each target id as text, ``[target.n_ids]``.

        Args:
            field: ``category``, ``script`` (the most frequent ones, the rest as ``other``), ``length`` in bytes,
                ``word start`` (or inside a word), or ``rank``: tenths of the ids, which a trained vocabulary lists
                about by falling frequency.
            most: scripts to tell apart.

        Raises:
            InputError: there is no such field.
        """
        target = self.target
        if field == "category":
            return target.categories
        if field == "script":
            import pandas as pd

            scripts = pd.Series(target.scripts)
            frequent = scripts[self.is_token].value_counts().head(most).index
            return scripts.where(scripts.isin(frequent), "other").to_numpy(dtype=object)
        if field == "length":
            names = np.array([*map(str, range(LONGEST)), f"{LONGEST} or more"], dtype=object)
            return names[np.minimum(target.lengths, LONGEST)]
        if field == "word start":
            return np.where(target.word_starts, "word start", "inside a word").astype(object)
        if field == "rank":
            bounds = np.linspace(0, target.n_ids, N_RANKS + 1).astype(int)
            names = np.array([f"{a:,} to {b - 1:,}" for a, b in itertools.pairwise(bounds)], dtype=object)
            return names[np.searchsorted(bounds, np.arange(target.n_ids), "right") - 1]
        raise InputError(f"tokens cannot be grouped by {field!r}; use one of {', '.join(FIELDS)}")

    def by(self, field: str) -> pd.DataFrame:
        """Return counts by group: columns group, copied, missing, share (of the group that is copied).

        Args:
            field: see ``groups``; categories, lengths and ranks come in their own order, scripts by falling number.
        """
        import pandas as pd

        frame = pd.DataFrame({"group": self.groups(field), "copied": self.source_ids >= 0})[self.is_token]
        table = frame.groupby("group", sort=False)["copied"].agg(copied="sum", total="size").reset_index()
        table["missing"] = table["total"] - table["copied"]
        table["share"] = table["copied"] / table["total"]
        if field == "category":
            order = table["group"].map({name: i for i, name in enumerate(CATEGORIES)})
        elif field in ("length", "rank"):
            order = table["group"].str.replace(",", "").str.extract(r"(\d+)")[0].astype(int)
        else:
            order = -table["total"]
        return table.iloc[order.argsort(kind="stable")][["group", "copied", "missing", "share"]].reset_index(drop=True)

    def table(self) -> pd.DataFrame:
        """Return one row a target token: id, token, shown, status, category, script, bytes, source_id."""
        import pandas as pd

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
