"""The new rows of one pair under every method, kept so that one token can be looked at under all of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from clp_core.errors import InputError, first_line
from clp_core.files.atomic import whole_file
from clp_core.files.disk import check_disk
from clp_core.files.hashing import fingerprint
from clp_core.files.json_files import read_json, write_json

KEPT = 3
"""Heaviest anchors kept of each row."""

IDS_FILE = "ids.npy"
FIGURES = ("n_eff", "norm_ratio")


@dataclass(frozen=True)
class TokenRow:
    """The row of one token under one method.

    Attributes:
        method: as it was named, with settings.
        row: of the input embedding, float32 ``[D]``.
        n_eff: effective anchors, NaN for methods without weights.
        norm_ratio: length over the mean length of copied rows.
        anchors: source ids of the heaviest anchors with their weights, heaviest first.
    """

    method: str
    row: np.ndarray
    n_eff: float
    norm_ratio: float
    anchors: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class MethodRows:
    """A folder with the missing input rows of a pair, one set of files a method.

    Attributes:
        folder: in the workspace's cache.
    """

    folder: Path

    @classmethod
    def of(cls, cache: Path, source: Path, helper: Path, match: str, seed: int) -> MethodRows:
        """Return the place for a pair in its present content."""
        key = f"{fingerprint(source)}-{fingerprint(helper)}-{match}-{seed}"
        return cls(cache / "methods" / hashlib.blake2b(key.encode(), digest_size=12).hexdigest())

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods kept, best first as they were scored."""
        return tuple(read_json(self.folder / "methods.json").get("methods", ()))

    @cached_property
    def ids(self) -> np.ndarray:
        """The missing tokens, ascending."""
        return self._load(self.folder / IDS_FILE)

    def file(self, method: str, what: str) -> Path:
        """Return the file of a method's ``rows`` or ``figures``."""
        digest = hashlib.blake2b(method.encode(), digest_size=6).hexdigest()
        return self.folder / f"{digest}-{what}.npy"

    def start(self, ids: np.ndarray, width: int, n_methods: int) -> None:
        """Make room for the rows of these tokens.

        Raises:
            InputError: the disk is too full.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        check_disk(self.folder, 2 * len(ids) * width * n_methods)
        self._save(self.folder / IDS_FILE, ids)

    def keep(self, method: str, rows: np.ndarray, figures: Mapping[str, np.ndarray]) -> None:
        """Keep the rows of one method.

        Args:
            method: its name, with settings.
            rows: of the missing tokens, ``[n_missing, D]``; kept in half precision.
            figures: ``n_eff`` and ``norm_ratio`` ``[n_missing]``, ``sources`` and ``weights`` of the heaviest anchors
                ``[n_missing, 3]`` (source -1 where there are fewer).
        """
        with np.errstate(over="ignore"):
            self._save(self.file(method, "rows"), rows.astype(np.float16))
        columns = [figures[name][:, None] for name in FIGURES] + [figures["sources"], figures["weights"]]
        self._save(self.file(method, "figures"), np.concatenate(columns, axis=1).astype(np.float64))

    @staticmethod
    def _save(file: Path, array: np.ndarray) -> None:
        """Write an array beside its place, then give it its name: a reader sees the old one or the new one."""
        with whole_file(file) as part:
            np.save(part, array)

    def _load(self, file: Path) -> np.ndarray:
        """Map an array of this folder.

        Raises:
            InputError: it is missing, damaged, or of another number of tokens.
        """
        try:
            found = np.load(file, mmap_mode="r")
            if not isinstance(found, np.ndarray):
                raise TypeError("it holds several arrays")
            if file.name != IDS_FILE and len(found) != len(self.ids):
                raise ValueError(f"{len(found)} rows for {len(self.ids)} tokens")
        except (OSError, EOFError, ValueError, TypeError) as error:
            raise InputError(
                f"{file} of the cache is damaged ({first_line(error)}); compare the methods again, or delete "
                f"{self.folder}"
            ) from error
        return np.asarray(found)

    def finish(self, methods: list[str]) -> None:
        """Note the methods that were kept, in the order in which they are to be shown."""
        write_json(self.folder / "methods.json", {"methods": methods})

    def of_token(self, token_id: int) -> list[TokenRow]:
        """Return the row of a token under every method; none where it is not missing."""
        place = int(np.searchsorted(self.ids, token_id))
        if place >= len(self.ids) or self.ids[place] != token_id:
            return []
        found = []
        for method in self.methods:
            rows = self._load(self.file(method, "rows"))
            n_eff, ratio, *anchors = self._load(self.file(method, "figures"))[place].tolist()
            half = len(anchors) // 2
            pairs = tuple((int(i), w) for i, w in zip(anchors[:half], anchors[half:], strict=True) if i >= 0)
            found.append(TokenRow(method, np.asarray(rows[place], dtype=np.float32), n_eff, ratio, pairs))
        return found
