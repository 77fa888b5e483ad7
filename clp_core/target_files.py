"""The files of a target model around its weights, and the check after writing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clp_core.checkpoint import Checkpoint, Written
from clp_core.errors import ClpError, first_line
from clp_core.locate import read_json
from clp_core.prepared import max_positions
from clp_core.progress import report_progress
from clp_core.rows import RowPlan
from clp_core.tensors import TensorRows, all_finite, block_ranges, tensor_digest
from clp_core.tokenizer_reading import TOKENIZER_FILES
from clp_core.vocabulary import Vocabulary

TOKENIZER_COMPANIONS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
CHECK_LINES = 1000
CHECK_LINE_TOKENS = 12


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the target's bos, eos and pad tokens, ``None`` where it has none."""

    bos: int | None
    eos: int | None
    pad: int | None

    @classmethod
    def of(cls, vocabulary: Vocabulary, helper_config: Mapping[str, Any]) -> SpecialIds:
        """Take the ids from the tokenizer's roles, else from the helper's configuration."""

        def one(role: str) -> int | None:
            if role in vocabulary.roles:
                return vocabulary.roles[role]
            value = helper_config.get(f"{role}_token_id")
            value = value[0] if isinstance(value, list) and value else value
            return value if value in vocabulary.special_ids | vocabulary.added_ids else None

        return cls(one("bos"), one("eos"), one("pad"))

    def as_config(self) -> dict[str, int | None]:
        """Return the entries of config.json."""
        return {"bos_token_id": self.bos, "eos_token_id": self.eos, "pad_token_id": self.pad}


def target_config(
    config: Mapping[str, Any], n_rows: int, ids: SpecialIds, *, tied: bool, key: str = ""
) -> dict[str, Any]:
    """Return the source's config.json with the target's vocabulary size, special ids and tying, nested ones too."""
    changed = dict(config)
    if not key or "tie_word_embeddings" in changed:
        changed["tie_word_embeddings"] = tied
    if not key or "vocab_size" in changed:
        changed["vocab_size"] = n_rows
    for name, value in ids.as_config().items():
        if not key or name in changed:
            changed[name] = value
    if changed.get("decoder_start_token_id") is not None:
        changed["decoder_start_token_id"] = ids.bos
    if "padding_idx" in changed:
        changed["padding_idx"] = ids.pad
    for name in ("text_config", "decoder"):
        if isinstance(changed.get(name), dict):
            changed[name] = target_config(changed[name], n_rows, ids, tied=tied, key=name)
    return changed


def target_generation_config(config: Mapping[str, Any], ids: SpecialIds) -> tuple[dict[str, Any], list[str]]:
    """Return the source's generation_config.json with the target's special ids.

    Entries that name other ids of the source's vocabulary are dropped.

    Returns:
        The new content, and the names of the entries that were dropped.
    """
    other_ids = ("forced_bos_token_id", "forced_eos_token_id", "suppress_tokens", "begin_suppress_tokens",
                 "bad_words_ids", "force_words_ids", "sequence_bias", "forced_decoder_ids")  # fmt: skip
    dropped = [name for name in other_ids if config.get(name) is not None]
    kept = {name: value for name, value in config.items() if name not in other_ids}
    kept |= {name: value for name, value in ids.as_config().items() if value is not None or name in kept}
    if kept.get("decoder_start_token_id") is not None:
        kept["decoder_start_token_id"] = ids.bos
    return kept, dropped


def copy_tokenizer(helper: Path, target: Path, vocabulary: Vocabulary, source_config: Mapping[str, Any]) -> None:
    """Copy the helper's tokenizer files; its longest input becomes the source's."""
    for name in (*TOKENIZER_FILES, *TOKENIZER_COMPANIONS, "chat_template.jinja"):
        if (helper / name).is_file():
            shutil.copyfile(helper / name, target / name)
    if not (target / "tokenizer.json").is_file():
        (target / "tokenizer.json").write_text(vocabulary.serialized, encoding="utf-8")
    config = read_json(target / "tokenizer_config.json")
    if config.pop("auto_map", None) is not None:  # code of the helper's own, which is not run
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    positions = max_positions(dict(source_config))
    if positions is not None:
        config["model_max_length"] = positions
    config.setdefault("tokenizer_class", "PreTrainedTokenizerFast")
    (target / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n")


def check_lines(vocabulary: Vocabulary, seed: int = 42) -> list[str]:
    """Return a thousand lines made of random tokens of a vocabulary, to compare two tokenizers on."""
    generator = np.random.default_rng(seed)
    plain = np.array([i for i, token in enumerate(vocabulary.tokens) if token and i not in vocabulary.special_ids])
    picks = generator.choice(plain, size=(CHECK_LINES, CHECK_LINE_TOKENS))
    return [
        b"".join(vocabulary.token_bytes[i] for i in line).decode("utf-8", errors="ignore").replace("\0", "")
        for line in picks
    ]


def lines_read_otherwise(folder: Path, vocabulary: Vocabulary) -> int:
    """Count the check lines that ``AutoTokenizer`` on a folder encodes otherwise than its tokenizer.json."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        raise ClpError(f"AutoTokenizer cannot open the helper's tokenizer: {first_line(error)}") from error
    lines = check_lines(vocabulary)
    theirs = tokenizer(lines, add_special_tokens=False)["input_ids"]
    ours = vocabulary.tokenizer.encode_batch(lines, add_special_tokens=False)
    return sum(a != b.ids for a, b in zip(theirs, ours, strict=True))


def verify(folder: Path, source: Checkpoint, plan: RowPlan, ids: SpecialIds, written: Written | None) -> list[str]:
    """Reopen a written target and compare it with what it should be.

    Shapes, data type, tying, special ids, loading by transformers without missing or misshapen weights, every tensor of
    the body by hash, every copied row bit for bit, no NaN or infinity in the embeddings, and the tokenizer on a
    thousand lines.

    Args:
        folder: the target.
        source: the source model.
        plan: what each row should be.
        ids: the target's special ids.
        written: hashes taken while the body was copied; ``None`` where nothing of the source was.

    Returns:
        Warnings for the report.

    Raises:
        ClpError: something is not as it should be; the target is not kept then.
    """
    again = Checkpoint.open(folder)
    if again.names.tied != source.names.tied:
        raise ClpError(
            f"the written model's embeddings are {'' if again.names.tied else 'not '}tied; the source's are not so"
        )
    for side in source.sides:
        old, new = source.rows(side), again.rows(side)
        if new.shape != (plan.n_rows, old.shape[1]) or new.entry.dtype != old.entry.dtype:
            raise ClpError(f"the written {side} embedding is {new.entry.dtype} {new.shape}, which is wrong")
        check_rows(new, old, plan, side)
    for name, digest in (written.digests if written else {}).items():
        report_progress("checking the body")
        if tensor_digest(again.entries[name]) != digest:
            raise ClpError(f"{name} differs from the source's after writing; is the disk sound?")
    check_loading(folder, ids)
    warnings = []
    otherwise = lines_read_otherwise(folder, plan.overlap.target)
    if otherwise:
        warnings.append(
            f"AutoTokenizer reads {otherwise} of {CHECK_LINES} lines otherwise than the helper's tokenizer.json, "
            f"because transformers replaces the tokenizer's class for model type {source.config.get('model_type')}; "
            "load it with PreTrainedTokenizerFast.from_pretrained"
        )
    return warnings


def check_rows(new: TensorRows, old: TensorRows, plan: RowPlan, side: str) -> None:
    """Compare the copied rows of a written matrix with the source's, and look for NaN and infinity in all of them.

    Raises:
        ClpError: a copied row differs, or a value is not finite.
    """
    for part in block_ranges(plan.n_rows, new.shape[1]):
        rows = new.read(part.start, part.stop)
        if not all_finite(rows):
            raise ClpError(f"the written {side} embedding holds NaN or infinity")
        copied = np.flatnonzero(plan.source_ids[part] >= 0)
        wanted = old.take_exact(plan.source_ids[part][copied])
        if rows[copied].tobytes() != wanted.tobytes():
            raise ClpError(f"a copied row of the written {side} embedding differs from the source's")


def check_loading(folder: Path, ids: SpecialIds | None = None) -> None:
    """Let transformers load the folder, on the meta device, and compare keys and shapes, and ids where some are given.

    Raises:
        ClpError: it does not load, a weight is missing or misshapen, or an id differs. Weights that the class does not
            know are the source's own and stay.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            str(folder), device_map="meta", dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    except Exception as error:  # transformers raises many kinds here
        raise ClpError(f"transformers cannot load the written model: {first_line(error)}") from error
    for kind in ("missing_keys", "mismatched_keys", "error_msgs"):
        if info.get(kind):
            raise ClpError(
                f"transformers finds {kind.replace('_', ' ')} in the written model: {sorted(map(str, info[kind]))[:3]}"
            )
    if ids is None:
        return
    generation = GenerationConfig.from_pretrained(str(folder))
    for name, value in ids.as_config().items():
        for found in (getattr(model.config, name, None), getattr(generation, name, None)):
            if found != value:
                raise ClpError(f"{name} reads {found} after writing, it should be {value}")
