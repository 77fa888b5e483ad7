"""The files of a target model around its weights, and the check after writing."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from clp_core.checkpoints.checkpoint import Checkpoint, CopyDigests, embedding_names
from clp_core.checkpoints.model_config import max_positions
from clp_core.checkpoints.safetensors_reader import TensorRows, all_finite, tensor_digest
from clp_core.embeddings.row_source import block_ranges
from clp_core.errors import ClpError, InputError, first_line
from clp_core.files.json_files import read_json
from clp_core.progress import report_progress
from clp_core.tokenization.tokenizer_reading import ROLES, TEMPLATE_FILE, TOKENIZER_FILES, Differences, shown
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.row_plan import RowPlan

OTHER_IDS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "force_words_ids", "sequence_bias",
             "forced_decoder_ids")  # fmt: skip
"""Entries that hold token ids under names that do not say so."""

SHOWN_CHARACTERS = 200
TOKEN_ID = re.compile(r"\w+_token_(id|ids|index|indices)")
OTHER_SIZES = {
    "decoder_vocab_size": (),
    "unpadded_vocab_size": ("inkling2_text", "inkling2_loop_text"),
}
"""Further entries for the vocabulary size, and the types whose class has a size of its own where one is missing."""
DERIVED_ENTRIES = ("tokenizer_class", "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens",
                   "add_bos_token", "add_eos_token", "auto_map", "backend", "is_local", "local_files_only",
                   "name_or_path", "tokenizer_file")  # fmt: skip
"""Entries of tokenizer_config.json that follow from tokenizer.json, or name what is not in the folder."""


@dataclass(frozen=True)
class SpecialIds:
    """Ids of the target's bos, eos and pad tokens, ``None`` where it has none.

    Attributes:
        bos: begin of text.
        eos: end of text.
        pad: padding.
        ends: further ids that end a text, as chat models have them.
    """

    bos: int | None
    eos: int | None
    pad: int | None
    ends: tuple[int, ...] = ()

    @classmethod
    def of(cls, vocabulary: Vocabulary, *configs: Mapping[str, Any]) -> SpecialIds:
        """Take the ids from the tokenizer's roles, else from the helper's configurations.

        Args:
            vocabulary: the target's, which is the helper's.
            configs: config.json and generation_config.json of the helper; all their end ids are kept.
        """

        def named(role: str) -> list[int]:
            values = [config.get(f"{role}_token_id") for config in configs]
            flat = [i for value in values for i in (value if isinstance(value, list) else [value])]
            return [i for i in flat if isinstance(i, int) and 0 <= i < vocabulary.n_ids and vocabulary.tokens[i]]

        def one(role: str) -> int | None:
            if role in vocabulary.roles:
                return vocabulary.roles[role]
            return next((i for i in named(role) if i in vocabulary.special_ids | vocabulary.added_ids), None)

        eos = one("eos")
        further = () if eos is None else tuple(dict.fromkeys(i for i in named("eos") if i != eos))
        return cls(one("bos"), eos, one("pad"), further)

    def as_config(self) -> dict[str, int | list[int] | None]:
        """Return the entries of config.json."""
        eos = [self.eos, *self.ends] if self.eos is not None and self.ends else self.eos
        return {"bos_token_id": self.bos, "eos_token_id": eos, "pad_token_id": self.pad}


def without_source_ids(config: Mapping[str, Any], vocabulary: Vocabulary) -> tuple[dict[str, Any], list[str]]:
    """Return a source's config.json without ids of the source's tokens, nested ones too.

    Those of a special role become the target's; bos, eos and pad are ``target_config``'s.

    Returns:
        The configuration, and the entries that were left out, as they name tokens the target does not know by role.
    """
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for name, value in config.items():
        role = name.removesuffix("_token_id")
        if isinstance(value, Mapping):
            kept[name], inner = without_source_ids(value, vocabulary)
            dropped += [f"{name}.{one}" for one in inner]
        elif role in ("bos", "eos", "pad"):
            kept[name] = value
        elif role in ROLES and role in vocabulary.roles:
            kept[name] = vocabulary.roles[role]
        elif name == "decoder_start_token_id" or value is None or not (TOKEN_ID.fullmatch(name) or name in OTHER_IDS):
            kept[name] = value
        else:
            dropped.append(name)
    return kept, dropped


def target_config(
    config: Mapping[str, Any], n_rows: int, ids: SpecialIds, *, tied: bool, key: str = ""
) -> dict[str, Any]:
    """Return the source's config.json with the target's vocabulary size, special ids and tying, nested ones too."""
    changed = dict(config)
    if not key or "tie_word_embeddings" in changed:
        changed["tie_word_embeddings"] = tied
    if key in ("", "text_config") or "vocab_size" in changed:
        changed["vocab_size"] = n_rows
    for name, types in OTHER_SIZES.items():
        if changed.get(name) is not None or (name not in changed and changed.get("model_type") in types):
            changed[name] = n_rows
    for name, value in ids.as_config().items():
        if not key or name in changed:
            changed[name] = value
    if changed.pop("decoder_start_token_id", None) is not None and ids.bos is not None:
        changed["decoder_start_token_id"] = ids.bos
    if "padding_idx" in changed:
        changed["padding_idx"] = ids.pad
    for name in ("text_config", "decoder"):
        if isinstance(changed.get(name), dict):
            changed[name] = target_config(changed[name], n_rows, ids, tied=tied, key=name)
    return changed


def without_placeholders(config: Mapping[str, Any], built: Mapping[str, Any], n_rows: int) -> dict[str, Any]:
    """Return a target's config.json in which no token stands for an image, a sound or the like.

    Classes have ids of their own for such placeholders where a config.json names none, and put padding in their place;
    these ids may be those of ordinary tokens. They are set to the first id that no token has, and those of tokens that
    generation would force to none.

    Args:
        config: content of config.json.
        built: the same with the defaults of its class.
        n_rows: rows of the embeddings.
    """
    changed = dict(config)
    for name, value in built.items():
        role = re.sub("_token_(id|index)$", "", str(name))
        if isinstance(value, Mapping):
            inner = config.get(name)
            if isinstance(inner, Mapping):
                changed[name] = without_placeholders(inner, value, n_rows)
        elif role not in (name, *ROLES, "decoder_start") and isinstance(value, int) and 0 <= value < n_rows:
            changed[name] = None if role.startswith("forced_") else n_rows
    return changed


def target_generation_config(config: Mapping[str, Any], ids: SpecialIds) -> tuple[dict[str, Any], list[str]]:
    """Return the source's generation_config.json with the target's special ids.

    Entries that name other ids of the source's vocabulary are dropped.

    Returns:
        The new content, and the names of the entries that were dropped.
    """
    own = {f"{role}_token_id" for role in ("bos", "eos", "pad")} | {"decoder_start_token_id"}
    others = [name for name in config if (TOKEN_ID.fullmatch(name) and name not in own) or name in OTHER_IDS]
    dropped = [name for name in others if config[name] is not None]
    kept = {name: value for name, value in config.items() if name not in others}
    kept |= {name: value for name, value in ids.as_config().items() if value is not None or name in kept}
    if kept.get("decoder_start_token_id") is not None:
        kept["decoder_start_token_id"] = ids.bos
    return kept, dropped


def write_tokenizer(helper: Path, target: Path, vocabulary: Vocabulary, source_config: Mapping[str, Any]) -> None:
    """Write a tokenizer into a model folder so that every version of ``AutoTokenizer`` reads the same in it.

    tokenizer.json is the vocabulary as it was read, and tokenizer_config.json says the same; the helper's other
    vocabulary files and its chat template are copied.

    Args:
        helper: the folder that the tokenizer comes from.
        target: the folder to write into.
        vocabulary: the tokenizer.
        source_config: config.json of the model, whose longest input becomes the tokenizer's.
    """
    for name in (*TOKENIZER_FILES, "merges.txt", TEMPLATE_FILE):
        if name != "tokenizer.json" and (helper / name).is_file():
            shutil.copyfile(helper / name, target / name)
    (target / "tokenizer.json").write_text(vocabulary.serialized, encoding="utf-8")
    config = portable_config(read_json(helper / "tokenizer_config.json"), vocabulary)
    positions = max_positions(dict(source_config))
    if positions is not None:
        config["model_max_length"] = positions
    write_config(target / "tokenizer_config.json", config)


def portable_tokenizer_config(folder: Path) -> None:
    """Rewrite the tokenizer_config.json beside a tokenizer.json so that transformers 4 opens it too."""
    config = portable_config(read_json(folder / "tokenizer_config.json"), Vocabulary.open(folder))
    write_config(folder / "tokenizer_config.json", config)


def write_config(path: Path, config: Mapping[str, Any]) -> None:
    """Write a configuration as indented JSON."""
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def portable_config(config: Mapping[str, Any], vocabulary: Vocabulary) -> dict[str, Any]:
    """Return a tokenizer_config.json that agrees with a vocabulary.

    The class is the one that follows tokenizer.json in transformers 4 and 5. Every role is written out, as a class may
    otherwise add a token of its own for one that is not there. Tokens that the vocabulary lacks are left out.
    """
    description = json.loads(vocabulary.serialized)
    kept = {
        name: value
        for name, value in config.items()
        if name not in DERIVED_ENTRIES and (not name.endswith("_token") or string_of(value) in vocabulary.ids)
    }
    listed = [config.get(name) or [] for name in ("additional_special_tokens", "extra_special_tokens")]
    contents = [string_of(one) for some in listed for one in (some.values() if isinstance(some, dict) else some)]
    additional = [token for token in dict.fromkeys(contents) if token in vocabulary.ids]
    roles = {f"{role}_token": vocabulary.tokens[vocabulary.roles[role]] if role in vocabulary.roles else None
             for role in ROLES}  # fmt: skip
    before = description.get("pre_tokenizer") or {}
    if "add_prefix_space" in before:  # transformers 4 sets it by its own default where it is not written here
        kept["add_prefix_space"] = before["add_prefix_space"]
    return kept | roles | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **({"additional_special_tokens": additional} if additional else {}),
        "added_tokens_decoder": {
            str(token["id"]): {name: value for name, value in token.items() if name != "id"}
            for token in description["added_tokens"]
        },
    }  # fmt: skip


def string_of(entry: Any) -> str:
    """Return the string of a token that a configuration writes as a string or as an object."""
    return str(entry.get("content", "") if isinstance(entry, Mapping) else entry)


def open_tokenizer(folder: Path) -> Any:
    """Open the tokenizer that was written into a folder with ``AutoTokenizer``.

    Raises:
        ClpError: transformers cannot open it.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # transformers raises many kinds here
        raise ClpError(f"AutoTokenizer cannot open the helper's tokenizer: {first_line(error)}") from error


def check_tokenizer(folder: Path, vocabulary: Vocabulary, n_rows: int) -> list[str]:
    """Compare what ``AutoTokenizer`` reads in a written folder with the vocabulary and the rows.

    Returns:
        Warnings, where transformers takes a class of the model type's own that encodes text differently.

    Raises:
        ClpError: a token has no row, or a special token another id.
    """
    theirs = open_tokenizer(folder)
    tokenizer = Tokenizer.from_str(vocabulary.serialized)
    tokenizer.encode_special_tokens = vocabulary.splits_special_tokens
    found = Differences.of(theirs, tokenizer)
    if found.largest >= n_rows:
        raise ClpError(
            f"AutoTokenizer gives the written tokenizer ids up to {found.largest}, its model has {n_rows} rows: "
            f"{shown(found.tokens)}"
        )
    for role in ROLES:
        own, other = vocabulary.roles.get(role), getattr(theirs, f"{role}_token_id", None)
        if own != other:
            raise ClpError(f"AutoTokenizer reads {role} of the written tokenizer as {other}, it should be {own}")
    return found.warnings("the target", type(theirs).__name__)


def check_config(folder: Path, n_rows: int, ids: SpecialIds) -> dict[str, Any]:
    """Let transformers build the model that a config.json describes, without weights, before any are written.

    Args:
        folder: holds config.json.
        n_rows: rows that its embeddings should have.
        ids: the special ids that it should read.

    Returns:
        The configuration with the defaults of its class.

    Raises:
        InputError: it cannot be built, or an embedding has another number of rows, or an id another value: the class
            takes them from elsewhere.
    """
    from transformers import AutoConfig

    kind = read_json(folder / "config.json").get("model_type")
    try:
        names = embedding_names(folder)
    except InputError as error:
        raise InputError(
            f"models of type {kind} cannot be built with the target's vocabulary size and special ids "
            f"({' '.join(str(error.__cause__ or error).split())[:SHOWN_CHARACTERS]}); give the helper's tokenizer the "
            "special tokens that are missing, or take another source"
        ) from error
    for name in filter(None, (names.input, names.output, names.output_bias)):
        rows = names.shapes[name][0]
        if rows != n_rows:
            raise InputError(
                f"models of type {kind} do not take the rows of {name} from vocab_size alone: there would be {rows:,} "
                f"for {n_rows:,} tokens; this architecture is not supported"
            )
    config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    for name, value in ids.as_config().items():
        found = getattr(config, name, None)
        if found != value:
            raise InputError(
                f"models of type {kind} read {name} {value} of config.json as {found}, which is another token or none; "
                "this architecture is not supported with this helper"
            )
    return dict(config.to_dict())


def verify(folder: Path, source: Checkpoint, plan: RowPlan, ids: SpecialIds, written: CopyDigests | None) -> list[str]:
    """Reopen a written target and compare it with what it should be.

    Shapes, data type, tying, special ids, loading by transformers without missing or misshapen weights, every tensor of
    the body by hash, every copied row bit for bit, no NaN or infinity in the embeddings, and what ``AutoTokenizer``
    reads: its ids against the rows, its special ids, and lines with special tokens.

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
    for side in source.sides:
        old = source.rows(side)
        new = TensorRows(again.entries[old.entry.name]) if written else again.rows(side)
        if new.shape != (plan.n_rows, old.shape[1]) or new.entry.dtype != old.entry.dtype:
            raise ClpError(f"the written {side} embedding is {new.entry.dtype} {new.shape}, which is wrong")
        check_rows(new, old, plan, side)
    for name, digest in (written.digests if written else {}).items():
        report_progress("checking the body")
        if tensor_digest(again.entries[name]) != digest:
            raise ClpError(f"{name} differs from the source's after writing; is the disk sound?")
    check_generation(folder, ids)
    return check_tokenizer(folder, plan.overlap.target, plan.n_rows)


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


def check_generation(folder: Path, ids: SpecialIds) -> None:
    """Compare the special ids that transformers reads in a written generation_config.json.

    Raises:
        ClpError: an id differs.
    """
    from transformers import GenerationConfig

    generation = GenerationConfig.from_pretrained(str(folder))
    for name, value in ids.as_config().items():
        found = getattr(generation, name, None)
        if found != value:
            raise ClpError(f"{name} reads {found} after writing, it should be {value}")


def check_loading(folder: Path, *, tied: bool | None = None) -> None:
    """Let transformers load the folder, on the meta device, and compare keys, shapes and tying.

    Args:
        folder: the model.
        tied: whether its embeddings should be one parameter; not looked at by default.

    Raises:
        ClpError: it does not load, or a weight is missing or misshapen, or its embeddings are tied otherwise. Weights
            that the class does not know are the source's own and stay.
    """
    from transformers import AutoModelForCausalLM

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
    if tied is not None:
        check_tying(model, tied=tied)


def check_tying(model: Any, *, tied: bool) -> None:
    """Compare whether a loaded model's embeddings are one parameter.

    Raises:
        ClpError: they are and should not be, or the other way round.
    """
    is_tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    if is_tied != tied:
        raise ClpError(f"the written model's embeddings are {'' if is_tied else 'not '}tied; the source's are not so")
