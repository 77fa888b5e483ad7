"""Tokenizers as they come in the wild: each case is a change to a sound model folder, or a folder of its own.

A new report becomes one more line of ``CHANGES`` or ``SENTENCEPIECE``.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

from support.tiny_models import GERMAN, make_model

SPECIAL = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}


def edit(folder: Path, file: str, **entries) -> None:
    """Change entries of a JSON file, which may not be there yet."""
    path = folder / file
    content = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    path.write_text(json.dumps(content | entries, ensure_ascii=False), encoding="utf-8")


def n_tokens(folder: Path) -> int:
    return len(json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"])


def bos_in_template(folder: Path) -> None:
    """The tokenizer puts a token before every text, as Gemma's and Llama's do."""
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|end|>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<|end|>": {"id": "<|end|>", "ids": [0], "tokens": ["<|end|>"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")


def dropout(folder: Path) -> None:
    """BPE dropout that was left on after training."""
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["model"]["dropout"] = 0.3
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")


def added_in_json(folder: Path, token: str) -> None:
    """A token in tokenizer.json beyond the model's vocabulary, as Gemma 3 1B has one for images."""
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["added_tokens"].append({"id": n_tokens(folder), "content": token} | SPECIAL)
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")


CHANGES: dict[str, Callable[[Path], None]] = {
    "pad in the config": lambda f: edit(f, "tokenizer_config.json", pad_token="[PAD]"),
    "eos in the config": lambda f: edit(f, "tokenizer_config.json", eos_token="<eot>", bos_token=None),
    "roles as objects": lambda f: edit(
        f, "tokenizer_config.json", pad_token={"content": "[PAD]", "__type": "AddedToken"} | SPECIAL
    ),
    "additional special tokens": lambda f: edit(f, "tokenizer_config.json", additional_special_tokens=["<a>", "<b>"]),
    "extra special tokens": lambda f: edit(f, "tokenizer_config.json", extra_special_tokens={"image_token": "<img>"}),
    "added tokens decoder": lambda f: edit(
        f, "tokenizer_config.json", added_tokens_decoder={"9000": {"content": "<late>"} | SPECIAL}
    ),
    "added_tokens.json": lambda f: edit(f, "added_tokens.json", **{"<x>": n_tokens(f), "<y>": n_tokens(f) + 1}),
    "special_tokens_map.json": lambda f: edit(f, "special_tokens_map.json", sep_token="[SEP]"),
    "added in tokenizer.json": lambda f: added_in_json(f, "<image>"),
    "begin of text in the template": bos_in_template,
    "BPE dropout": dropout,
    "special tokens as text": lambda f: edit(f, "tokenizer_config.json", split_special_tokens=True),
    "padding and truncation": lambda f: edit(
        f,
        "tokenizer.json",
        padding={"strategy": {"Fixed": 32}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                 "pad_type_id": 0, "pad_token": "<|end|>"},
        truncation={"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
    ),
    "a chat template": lambda f: edit(f, "tokenizer_config.json", chat_template="{{ messages }}"),
}  # fmt: skip
"""Changes of a folder with a byte-level tokenizer."""

ADDS = {
    "pad in the config": ["[PAD]"],
    "eos in the config": ["<eot>"],
    "roles as objects": ["[PAD]"],
    "additional special tokens": ["<a>", "<b>"],
    "extra special tokens": ["<img>"],
    "added tokens decoder": ["<late>"],
    "added_tokens.json": ["<x>", "<y>"],
    "special_tokens_map.json": ["[SEP]"],
    "added in tokenizer.json": ["<image>"],
}
"""Tokens that these changes add, which come after all others."""

SENTENCEPIECE: dict[str, tuple[str, str, dict]] = {
    "Unigram as Llama": ("LlamaTokenizer", "tokenizer.model", {}),
    "no dummy prefix": ("LlamaTokenizer", "tokenizer.model", {"add_dummy_prefix": False}),
    "byte-pair encoding as Llama": ("LlamaTokenizer", "tokenizer.model", {"model_type": "bpe", "byte_fallback": True,
                                                                          "vocab_size": 420}),
    "unknown before end as T5": ("T5Tokenizer", "spiece.model", {"unk_id": 0, "bos_id": 1, "eos_id": 2, "pad_id": -1}),
    "shifted ids as XLM-R": ("XLMRobertaTokenizer", "sentencepiece.bpe.model", {}),
    "no class": ("PreTrainedTokenizerFast", "tokenizer.model", {}),
}  # fmt: skip
"""Class that the folder declares, name of the SentencePiece file, and how the model is trained."""


def sentencepiece_folder(folder: Path, case: str) -> Path:
    """Train a SentencePiece model and put it into a folder without tokenizer.json."""
    import sentencepiece

    class_name, file, settings = SENTENCEPIECE[case]
    folder.mkdir(parents=True)
    draw = random.Random(0)
    words = [word for line in GERMAN[:3] for word in line.split()]
    made = ["".join(draw.choices("abcdefghiklmnoprstuvwzäöü", k=draw.randint(3, 9))) for _ in range(60)]
    lines = [" ".join(draw.choices(words + made, k=9)) for _ in range(800)]
    options = {"vocab_size": 120, "model_type": "unigram", "character_coverage": 1.0, "minloglevel": 2} | settings
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_prefix=str(folder / "made"), num_threads=1, **options
    )
    (folder / "made.model").rename(folder / file)
    (folder / "made.vocab").unlink()
    edit(folder, "tokenizer_config.json", tokenizer_class=class_name)
    return folder


def awkward_helper(folder: Path, case: str, tokenizer, *, has_rows: bool = True, width: int = 16) -> Path:
    """Write a helper with an awkward tokenizer; ``has_rows`` gives every token of it a row."""
    extra = len(ADDS.get(case, [])) if has_rows else 0
    make_model(folder, tokenizer, "gpt2", width=width, rows=len(tokenizer) + extra, seed=2)
    CHANGES[case](folder)
    return folder


def tokenizer_folder(folder: Path, case: str, sound: Path) -> Path:
    """Copy a folder with a sound byte-level tokenizer and change it."""
    shutil.copytree(sound, folder)
    CHANGES[case](folder)
    return folder
