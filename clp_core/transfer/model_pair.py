"""A source and a helper, opened and checked against each other: what every transfer and comparison starts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clp_core.checkpoints.architectures import check_architecture
from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import check_rows
from clp_core.checkpoints.positions import padding_index
from clp_core.checkpoints.safetensors_reader import TensorRows
from clp_core.checkpoints.safetensors_writer import read_ahead
from clp_core.embeddings.matmul_backend import MatmulBackend, backend_named
from clp_core.embeddings.row_source import JoinedRows, RowSource, Subset
from clp_core.errors import InputError
from clp_core.initializers import INITIALIZERS
from clp_core.initializers.anchor_sums import AnchorSums
from clp_core.initializers.base import Context, Vectors
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.source_segmentation import SourceSegmentation
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.overrides import read_overrides, resolve_overrides
from clp_core.transfer.row_plan import RowPlan
from clp_core.transfer.vocabulary_tensors import VocabularyTensors, tables_by_token_id
from clp_core.transfer.word_vectors import read_vectors

if TYPE_CHECKING:
    from clp_core.transfer.options import PairOptions

SPARE_SHARE = 0.1
NAMES_SHOWN = 5
OUTPUT_STREAM = 1


@dataclass
class ModelPair:
    """Source and helper.

    Attributes:
        source: the source model.
        helper: the helper model.
        overlap: their vocabularies and what is copied; overridden tokens are not.
        overrides: source ids whose mean is the row, by target id.
        vectors: static word vectors of the tokens, where the user gave any.
        device: where large products are done.
        warnings: what a user should know.
    """

    source: Checkpoint
    helper: Checkpoint
    overlap: Overlap
    overrides: Mapping[int, np.ndarray] = field(default_factory=dict)
    vectors: Vectors | None = None
    device: MatmulBackend = field(default_factory=MatmulBackend)
    warnings: list[str] = field(default_factory=list)
    _sums: dict[tuple[str, bool], AnchorSums] = field(default_factory=dict)

    @classmethod
    def of(cls, options: PairOptions) -> ModelPair:
        """Open source and helper, with the overrides, word vectors and device that the options name.

        Raises:
            InputError: one of the files they name cannot be used; see ``open``.
        """
        overrides = read_overrides(options.override, options.override_file)
        device = backend_named(options.device)
        pair = cls.open(options.source, options.helper, options.match, options.special_tokens, overrides, device)
        pair.vectors = read_vectors(
            options.target_vectors, options.source_vectors, options.dictionary, pair.overlap.source, pair.overlap.target
        )
        return pair

    @classmethod
    def open(
        cls,
        source: str | Path,
        helper: str | Path,
        match: str = "raw",
        special: str = "auto",
        overrides: Sequence[tuple[str, str]] = (),
        device: MatmulBackend | None = None,
    ) -> ModelPair:
        """Open both checkpoints and match their vocabularies.

        Rows beyond a tokenizer's ids are left out and counted. Source tokens beyond the source's rows do not overlap,
        and are counted; added tokens beyond the helper's rows are left out of the target's tokenizer.

        Args:
            source: folder or Hub id of the source.
            helper: folder or Hub id of the helper.
            match: see ``Overlap.of``.
            special: see ``Overlap.of``.
            overrides: pairs of target token and text, see ``resolve_overrides``.
            device: where large products are done; the CPU by default.

        Raises:
            InputError: one cannot be opened, the helper has fewer rows than tokens, or nothing overlaps.
        """
        a, b = Checkpoint.open(source), Checkpoint.open(helper)
        read_ahead(a.files[0])
        check_source(a)
        n_source, n_helper = a.rows("input").shape[0], b.rows("input").shape[0]
        overlap = Overlap.of(Vocabulary.open(a.folder), Vocabulary.open(b.folder, rows=n_helper), match, special)
        check_finite(b, "helper", overlap.target)
        check_finite(a, "source", overlap.source)
        beyond = np.flatnonzero(overlap.source_ids >= n_source)
        overlap = overlap.without(beyond.tolist()) if len(beyond) else overlap
        by_hand = resolve_overrides(overrides, overlap.source, overlap.target, n_source)
        warnings = [*a.warnings, *b.warnings, *pair_warnings(overlap, n_source, n_helper, len(beyond))]
        overlap = overlap.without(by_hand) if by_hand else overlap
        if not overlap.size:
            hint = "; try --match canonical" if match == "raw" else "; CLP needs tokens in common"
            raise InputError(f"{a.folder.name} and {b.folder.name} have no token in common{hint}")
        return cls(a, b, overlap, by_hand, device=device or MatmulBackend(), warnings=warnings)

    def plan(self, multiple: int = 1) -> RowPlan:
        """Return what becomes of every target row, the number of rows filled up to a multiple."""
        n_ids = self.overlap.target.n_ids
        return RowPlan(self.overlap, self.overrides, -(-n_ids // multiple) * multiple)

    @property
    def biased_side(self) -> str:
        """The side with whose rows the output layer's bias goes."""
        return self.source.sides[-1]

    @cached_property
    def further(self) -> VocabularyTensors:
        """Further tensors of the source with an entry for each token."""
        return VocabularyTensors.of(self.source)

    @cached_property
    def columns(self) -> list[TensorRows]:
        """The output layer's bias and the further vectors, each as rows of width 1."""
        bias = self.source.output_bias()
        return [*([bias] if bias is not None else []), *self.further.columns()]

    @property
    def is_source_with_other_rows(self) -> bool:
        """Whether the source in memory, given a target's rows, predicts as the target does."""
        return not (self.further.vectors or self.further.tables) and padding_index(self.source.config) is None

    @cached_property
    def pieces(self) -> SourceSegmentation:
        """The target's tokens in source tokens."""
        return SourceSegmentation(self.overlap, self.source.rows("input").shape[0])

    def context(self, side: str, seed: int, settings: Mapping[str, float] | None = None, bias: bool = False) -> Context:
        """Return what an initializer sees of one side; input and output draw from independent random streams.

        Args:
            side: ``input`` or ``output``.
            seed: seed of the transfer, see ``seed_of_side``.
            settings: what the user has chosen for the method.
            bias: whether the output layer's bias and further vectors are more columns of the rows.
        """
        rows: RowSource = self.source.rows(side)
        columns = self.columns if bias and side == self.biased_side else []
        for column in columns:
            rows = JoinedRows(rows, column)
        anchor_rows = Subset(rows, self.overlap.source_ids[self.overlap.ids])
        sums = self._sums.setdefault((side, bool(columns)), AnchorSums(self.overlap.ids, anchor_rows, self.device))
        return Context(
            self.helper.rows("input"),
            self.overlap.ids,
            anchor_rows,
            seed_of_side(seed, side),
            settings=settings or {},
            source_rows=rows,
            pieces=self.pieces,
            vectors=self.vectors,
            source_ids=self.overlap.source_ids,
            device=self.device,
            known_sums=sums,
        )

    def free_sums(self, *names: str) -> None:
        """Free the sums over the anchors that contexts share: all of them, or those of the features of some names."""
        for sums in self._sums.values():
            for name in names:
                sums.forget(name)
        if not names:
            self._sums.clear()

    def usable_methods(self) -> list[str]:
        """Return the names of the methods that have what they need."""
        return [name for name in INITIALIZERS if name != "static-vectors" or self.vectors is not None]


def seed_of_side(seed: int, side: str) -> int:
    """Derive the seed of one side's rows, of 63 bits.

    The rows of the output layer get a hash of the seed, not its neighbour: else the output noise of one seed would be
    the input noise of the next, and runs of the seeds 1, 2 and 3 would not be independent.

    Args:
        seed: seed of the transfer, at least 0.
        side: ``input``, whose seed is that of the transfer, or ``output``.
    """
    if side == "input":
        return seed
    sequence = np.random.SeedSequence(seed, spawn_key=(OUTPUT_STREAM,))
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_source(source: Checkpoint) -> None:
    """Refuse a source whose weights or tables a transfer cannot carry over.

    Raises:
        InputError: it is quantised, or has further tables by token id, or is of a type that is not supported.
    """
    check_architecture(source.config, str(source.folder))
    if source.config.get("quantization_config"):
        kind = source.config["quantization_config"].get("quant_method", "unknown")
        raise InputError(f"{source.folder} is quantised ({kind}); take the model before quantisation")
    if others := tables_by_token_id(source):
        raise InputError(
            f"{source.folder} has a further table by token id ({others[0]}), whose rows no method here "
            "makes; this architecture is not supported"
        )


def check_finite(model: Checkpoint, what: str, vocabulary: Vocabulary) -> None:
    """Refuse a model whose rows hold NaN or infinity: new rows are made from all of them.

    Args:
        model: the source or the helper.
        what: which of the two.
        vocabulary: its vocabulary; rows beyond its ids are not looked at.

    Raises:
        InputError: they do; the first such rows are named.
    """
    for side in model.sides if what == "source" else ("input",):
        rows = model.rows(side)
        ids = np.arange(min(vocabulary.n_ids, rows.shape[0]))
        check_rows(rows, ids, side, f"the {what} {model.folder}", vocabulary)


def pair_warnings(overlap: Overlap, n_source: int, n_helper: int, beyond: int) -> list[str]:
    """Return what a user should know of a pair before anything is written."""
    source, target = overlap.source, overlap.target
    warnings = [*source.warnings, *target.warnings]
    if source.has_chat_template:
        warnings.append(
            "the source has a chat template; it and its special tokens are not carried over, "
            "so the target is no chat model"
        )
    if target.has_chat_template:
        warnings.append(
            "the helper's chat template is carried over with its tokenizer; the target has not been trained on chats "
            "in that form, so it answers as a base model does"
        )
    matched = set(overlap.source_ids.tolist())
    dropped = [source.tokens[i] for i in sorted(source.added_ids - source.special_ids) if i not in matched]
    if dropped:
        warnings.append(f"{len(dropped)} added tokens of the source are not in the target: {named(dropped)}")
    if beyond:
        warnings.append(f"{beyond} tokens in common lie beyond the source's {n_source} rows; they count as missing")
    for vocabulary, rows in ((source, n_source), (target, n_helper)):
        spare = rows - vocabulary.n_ids
        if spare > 0:
            warnings.append(f"{vocabulary.name} has {spare} padded rows beyond its tokens; they are left out")
        if spare > max(SPARE_SHARE * vocabulary.n_ids, 1024):
            warnings.append(
                f"{vocabulary.name} has {rows} rows for {vocabulary.n_ids} ids: "
                "is this the tokenizer it was trained with?"
            )
    gaps = target.n_ids - target.size
    if gaps:
        warnings.append(f"the helper's ids have {gaps} gaps; their rows are the mean of the copied rows")
    if overlap.role_conflicts:
        shown = named(overlap.role_conflicts)
        warnings.append(
            f"{len(overlap.role_conflicts)} copied tokens have another special role in the source ({shown}); "
            "with --special-tokens role they are matched by role"
        )
    return warnings


def named(tokens: Sequence[str | None]) -> str:
    """Return the first few tokens of a list."""
    shown = ", ".join(repr(token) for token in tokens[:NAMES_SHOWN])
    return shown + (", ..." if len(tokens) > NAMES_SHOWN else "")
