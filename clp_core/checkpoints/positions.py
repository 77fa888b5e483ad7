"""What a model's positions depend on: the longest input, and the padding index of the classes that count from it.

Classes of RoBERTa's family give the first token of a text position ``pad_token_id + 1``, so another padding index moves
every position, and the rows up to the padding index are never used. XGLM sets the row of the padding index in its
sinusoidal table to zeros, whatever position it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.safetensors_reader import TensorEntry, TensorRows
from clp_core.errors import InputError
from clp_core.tokenization.vocabulary import Vocabulary

COUNTED_FROM_PADDING = {
    "camembert": 1,
    "data2vec-text": 1,
    "prophetnet": 0,
    "roberta": 1,
    "roberta-prelayernorm": 1,
    "xlm-roberta": 1,
    "xlm-roberta-xl": 1,
    "xmod": 1,
}
"""Types whose positions begin after the padding index, and the index where config.json names none."""
LOOK_AHEAD = {"prophetnet": 1}
"""Further positions that a type needs for the tokens after the next."""
WITHOUT_PADDING = {
    "roc_bert": "have small tables of their own, padded with the same id",
    "xglm": "lose the position of the padding id",
}
"""Types that predict as before without a padding index in config.json, and otherwise or not at all with a late one."""
NEED_PADDING = frozenset({"emu3", "gemma4", "gemma4_unified", "modernbert-decoder"})
"""Types that cannot be built, or fail, without a padding index; they put it in place of images, or ignore it."""
POSITION_TABLE = ".position_embeddings.weight"
LENGTHS = ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "max_target_positions")


def padding_index(config: Mapping[str, Any]) -> int | None:
    """Return the index after which a model's positions begin; ``None`` for a type that does not count from it."""
    default = COUNTED_FROM_PADDING.get(str(config.get("model_type")))
    if default is None:
        return None
    value = config.get("pad_token_id", default)
    return value if isinstance(value, int) else default


@dataclass(frozen=True)
class Padding:
    """The padding index of a target's config.json, which is not always the padding token of its tokenizer.

    Attributes:
        index: ``pad_token_id`` of config.json.
        moved: by how many rows the table of positions moves, so that every position keeps its row.
        warnings: what a user should know.
    """

    index: int | None
    moved: int = 0
    warnings: tuple[str, ...] = ()

    @classmethod
    def of(cls, config: Mapping[str, Any], pad: int | None, vocabulary: Vocabulary, n_rows: int) -> Padding:
        """Choose the index with which the target's positions are the source's.

        Args:
            config: config.json of the source.
            pad: padding token of the target's tokenizer; ``None`` where it has none.
            vocabulary: the target's.
            n_rows: rows of the target's embeddings.

        Raises:
            InputError: the class needs an index that no token of a text has, and the target has none.
        """
        kind = str(config.get("model_type"))
        if kind == "xglm" and isinstance(config.get("pad_token_id"), int) and config["pad_token_id"] > 1:
            raise InputError(
                f"the source's pad_token_id is {config['pad_token_id']}, so that this xglm model has no vector for "
                f"position {config['pad_token_id'] - 2}, which a target would have; set pad_token_id to 1, with which "
                "published models were trained, in the source's config.json"
            )
        if kind in WITHOUT_PADDING and pad is not None and pad > 1:
            return cls(None, warnings=(
                f"{kind} models {WITHOUT_PADDING[kind]}, so config.json names no pad_token_id; the tokenizer and "
                f"generation_config.json name {pad}",
            ))  # fmt: skip
        if kind in NEED_PADDING and pad is None:
            index = spare_id(vocabulary)
            return cls(index, warnings=(
                f"{kind} models need a pad_token_id and the helper has none, so config.json names "
                f"{vocabulary.tokens[index]!r}",
            ))  # fmt: skip
        before = padding_index(config)
        if before is None:
            return cls(pad)
        if before == pad or (0 <= before < n_rows and not is_token(vocabulary, before)):
            return cls(before)
        others = {vocabulary.roles.get(role) for role in ("bos", "eos", "unk")}
        if pad is None or pad in others:
            raise InputError(
                f"{kind} models give the first token of a text the position after pad_token_id, so they need a padding "
                f"token that occurs in no text: {'the helper has none' if pad is None else 'the helper pads with '}"
                f"{'' if pad is None else repr(vocabulary.tokens[pad])}; give its tokenizer one (pad_token in "
                "tokenizer_config.json) and the helper a row for it"
            )
        return cls(pad, pad - before, (
            f"{kind} models count positions from pad_token_id: the table of positions was moved by {pad - before} rows "
            f"and max_position_embeddings with it, as padding has id {pad} here and {before} in the source",
        ))  # fmt: skip

    def moved_length(self, config: Mapping[str, Any]) -> dict[str, int]:
        """Return the entries of config.json that give the length of the table that was moved."""
        return {"max_position_embeddings": length_of(config) + self.moved} if self.moved else {}

    def moved_table(self, source: Checkpoint) -> tuple[TensorEntry, np.ndarray]:
        """Move the rows of the source's table of positions, so that each keeps its distance to the padding index.

        Returns:
            The tensor that holds them in the files, and the target's rows, ``[positions + moved, D]``; those below the
            padding index, which are never used, are zeros.

        Raises:
            InputError: the files hold no such table, or several.
        """
        positions = length_of(source.config)
        found = [
            entry for name, entry in source.entries.items()
            if f".{name}".endswith(POSITION_TABLE) and entry.shape[0] == positions
        ]  # fmt: skip
        if len(found) != 1:
            raise InputError(f"{source.folder} holds {len(found)} tables of {positions} positions; one was expected")
        rows = TensorRows(found[0]).read(0, positions)
        moved = np.zeros((positions + self.moved, rows.shape[1]), dtype=rows.dtype)
        before = padding_index(source.config)
        assert before is not None
        assert self.index is not None
        moved[self.index + 1 :] = rows[before + 1 :]
        if before >= 0:  # -1 is taken by transformers, too
            moved[self.index] = rows[before]
        return found[0], moved


def length_of(config: Mapping[str, Any]) -> int:
    """Return the rows of the table of positions by a config.json.

    Raises:
        InputError: it does not name them.
    """
    value = config.get("max_position_embeddings")
    if not isinstance(value, int):
        raise InputError(
            "config.json of the source names no max_position_embeddings; load the model with transformers and save it "
            "with save_pretrained, which writes it"
        )
    return value


def spare_id(vocabulary: Vocabulary) -> int:
    """Return the id of a special token that stands in few texts: none that begins or ends one, if there is another."""
    ends = [vocabulary.roles[role] for role in ("eos", "bos") if role in vocabulary.roles]
    others = sorted(vocabulary.special_ids - set(ends))
    return next(iter([*others, *ends, 0]))


def is_token(vocabulary: Vocabulary, token_id: int) -> bool:
    """Say whether an id belongs to a token."""
    return token_id < vocabulary.n_ids and vocabulary.tokens[token_id] is not None
