"""Train the packaged demo: an English source, a German helper, and German text to go on with.

Anybody with text can run it::

    python -m scripts.build_demo --source-text en/*.txt.xz --helper-text de/*.txt.xz \
        --shipped-text de/handbook.txt.xz de/user-docs.txt.xz --output DIR

A text file holds one document a line. Lines are cut into blocks of 40 and whole blocks are held out: of every file the
blocks whose number leaves 7 when divided by 50, of the shipped files those that leave 7 when divided by 10 (which
contains the former). A training line that equals a held-out line once case, digits and punctuation are dropped is left
out of training too. What is written:

* ``source/``, ``helper/``: Hugging Face folders in bfloat16;
* ``train.txt.xz``, ``valid.txt.xz``: the shipped files, training and held-out part;
* ``trained_lines.u64.xz``: 40-bit hashes of every normalised line that either model was trained on;
* ``figures.json``: settings, losses by tokens seen, and counts of lines, kept and left out; ``README.md``: the card.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import lzma
import math
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clp_core.data.block_datasets import IGNORED_LABEL
from clp_core.data.line_key import letters_of
from clp_core.data.train_valid_split import BLOCK_DOCUMENTS, SplitRule
from clp_core.transfer.target_folder import portable_tokenizer_config

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerFast

log = logging.getLogger(__name__)

HELD_OUT_EVERY = 50
SHIPPED_HELD_OUT_EVERY = 10
END_OF_TEXT = "<|endoftext|>"


@dataclass(frozen=True)
class Recipe:
    """How one of the two models is trained."""

    vocab_size: int
    epochs: float
    learning_rate: float
    block_length: int = 256
    batch_blocks: int = 16
    warmup_share: float = 0.03
    weight_decay: float = 0.1
    seed: int = 42
    bf16_autocast: bool = False


SOURCE = Recipe(vocab_size=6144, epochs=6, learning_rate=1.5e-3, bf16_autocast=True)
HELPER = Recipe(vocab_size=6144, epochs=8, learning_rate=2e-3)


def line_hash(line: str) -> int:
    """Return the 40-bit hash of a normalised line."""
    return int.from_bytes(hashlib.blake2b(letters_of(line).encode(), digest_size=5).digest(), "big")


def word_shingles(line: str, words: int = 5) -> set[str]:
    """Return the runs of ``words`` words of the normalised line."""
    parts = letters_of(line).split()
    return {" ".join(parts[i : i + words]) for i in range(len(parts) - words + 1)}


def count_near_duplicates(held_out: Sequence[str], training: Iterable[str], share: float = 0.5) -> int:
    """Count held-out lines of which at least ``share`` of the five-word runs stand in the training lines."""
    wanted = [word_shingles(line) for line in held_out]
    asked_for = set().union(*wanted) if wanted else set()
    seen: set[str] = set()
    for line in training:
        seen |= word_shingles(line) & asked_for
    return sum(1 for runs in wanted if runs and len(runs & seen) >= share * len(runs))


def split_lines(lines: Sequence[str], every: int) -> tuple[list[str], list[str]]:
    """Cut lines into training and held-out ones, in whole blocks of 40 lines."""
    training: list[str] = []
    held_out: list[str] = []
    rule = SplitRule(BLOCK_DOCUMENTS, every)
    for i, line in enumerate(lines):
        (held_out if rule.holds_out(i) else training).append(line)
    return training, held_out


def read_lines(path: Path) -> list[str]:
    """Return the non-empty lines of a text file, plain or ``.xz``."""
    opener = lzma.open if path.suffix == ".xz" else open
    with opener(path, "rt", encoding="utf-8", newline="\n") as file:
        return [line.rstrip("\n") for line in file if line.strip()]


@dataclass
class Split:
    """The training and held-out lines of one language."""

    training: list[str]
    held_out: list[str]
    shipped_training: list[str]
    shipped_held_out: list[str]
    left_out: int

    @classmethod
    def of(cls, paths: Sequence[Path], shipped: Sequence[Path]) -> Split:
        """Split the files and drop training lines that repeat a held-out one."""
        training, held_out, shipped_training, shipped_held_out = [], [], [], []
        for path in sorted(paths):
            is_shipped = path in shipped
            kept, held = split_lines(read_lines(path), SHIPPED_HELD_OUT_EVERY if is_shipped else HELD_OUT_EVERY)
            training += kept
            held_out += held
            if is_shipped:
                shipped_training += kept
                shipped_held_out += held
        forbidden = {letters_of(line) for line in held_out}
        clean = [line for line in training if letters_of(line) not in forbidden]
        shipped_clean = [line for line in shipped_training if letters_of(line) not in forbidden]
        return cls(clean, held_out, shipped_clean, shipped_held_out, len(training) - len(clean))


def train_tokenizer(lines: Sequence[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer with one special token, the end of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, unk_token=END_OF_TEXT
    )


def pack(tokenizer: PreTrainedTokenizerFast, lines: Sequence[str], block_length: int) -> np.ndarray:
    """Tokenise lines, end each with the end-of-text token, and cut the stream into ``[n_blocks, block_length]``."""
    stream: list[int] = []
    for encoding in tokenizer.backend_tokenizer.encode_batch(list(lines), add_special_tokens=False):
        stream += [*encoding.ids, tokenizer.eos_token_id]
    n_blocks = len(stream) // block_length
    return np.asarray(stream[: n_blocks * block_length], dtype=np.int64).reshape(n_blocks, block_length)


def labels_of(blocks: np.ndarray) -> np.ndarray:
    """Make labels of blocks ``[n_blocks, block_length]``: the first token is never predicted, so it is no label.

    The Trainer counts all labels of a GPT-2, so the loss would come out too small.
    """
    labels = blocks.copy()
    labels[:, 0] = IGNORED_LABEL
    return labels


def source_config(recipe: Recipe) -> PretrainedConfig:
    """Return the shape of the source: Llama, tied, 4.0 million parameters."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=recipe.vocab_size,
        hidden_size=256,
        intermediate_size=704,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=recipe.block_length,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
    )


def helper_config(recipe: Recipe) -> PretrainedConfig:
    """Return the shape of the helper: GPT-2, tied, 0.95 million parameters."""
    from transformers import GPT2Config

    return GPT2Config(
        vocab_size=recipe.vocab_size,
        n_positions=recipe.block_length,
        n_embd=96,
        n_layer=3,
        n_head=4,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
    )


def train_model(config: PretrainedConfig, recipe: Recipe, split: Split, output: Path) -> dict[str, Any]:
    """Train tokenizer and model on the training lines, write the folder, return the figures."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed

    set_seed(recipe.seed)
    tokenizer = train_tokenizer(split.training, recipe.vocab_size)
    blocks = {
        name: pack(tokenizer, lines, recipe.block_length)
        for name, lines in (("training", split.training), ("held_out", split.held_out))
    }
    data = {
        name: Dataset.from_dict({"input_ids": list(rows), "labels": list(labels_of(rows))}).with_format("torch")
        for name, rows in blocks.items()
    }
    model = AutoModelForCausalLM.from_config(config)
    steps = math.ceil(recipe.epochs * len(blocks["training"]) / recipe.batch_blocks)
    arguments = TrainingArguments(
        output_dir=str(output / "checkpoints"),
        max_steps=steps,
        per_device_train_batch_size=recipe.batch_blocks,
        per_device_eval_batch_size=recipe.batch_blocks,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=math.ceil(recipe.warmup_share * steps),
        weight_decay=recipe.weight_decay,
        adam_beta2=0.95,
        max_grad_norm=1.0,
        bf16=recipe.bf16_autocast,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=50,
        eval_strategy="steps",
        eval_steps=max(1, steps // 20),
        save_strategy="steps",
        save_steps=max(1, steps // 5),
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        seed=recipe.seed,
    )
    trainer = Trainer(model=model, args=arguments, train_dataset=data["training"], eval_dataset=data["held_out"])
    started = time.time()
    trainer.train()
    seconds = time.time() - started
    held_out = trainer.evaluate()["eval_loss"]
    model.to(torch.bfloat16).save_pretrained(output)
    tokenizer.save_pretrained(output)
    portable_tokenizer_config(output)
    tokens_a_step = recipe.batch_blocks * recipe.block_length
    tokens_held_out = blocks["held_out"].size
    bytes_held_out = sum(len(line.encode()) + 1 for line in split.held_out)
    # The Trainer evaluates its last step more than once.
    evaluations = {entry["step"]: entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry}
    return {
        "shape": f"{config.model_type}, {config.hidden_size} wide, {config.num_hidden_layers} layers, tied",
        "parameters": sum(p.numel() for p in model.parameters()),
        "recipe": asdict(recipe),
        "training_lines": len(split.training),
        "held_out_lines": len(split.held_out),
        "lines_left_out_as_duplicates": split.left_out,
        "training_tokens_an_epoch": int(blocks["training"].size),
        "tokens_seen": steps * tokens_a_step,
        "seconds": round(seconds),
        "held_out_loss": held_out,
        "held_out_bytes_per_token": bytes_held_out / tokens_held_out,
        "held_out_bits_per_byte": held_out * tokens_held_out / bytes_held_out / math.log(2),
        "curve": [{"tokens": step * tokens_a_step, "held_out_loss": loss} for step, loss in evaluations.items()],
    }


def write_xz(path: Path, data: bytes) -> None:
    """Write bytes as an .xz file."""
    path.write_bytes(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME))


def write_text(output: Path, source: Split, helper: Split) -> dict[str, int]:
    """Write the shipped text and the hashes of the trained lines; return counts."""
    write_xz(output / "train.txt.xz", "".join(f"{line}\n" for line in helper.shipped_training).encode())
    write_xz(output / "valid.txt.xz", "".join(f"{line}\n" for line in helper.shipped_held_out).encode())
    hashes = np.unique(np.array([line_hash(line) for line in source.training + helper.training], dtype=np.uint64))
    write_xz(output / "trained_lines.u64.xz", np.diff(hashes, prepend=np.uint64(0)).astype("<u8").tobytes())
    return {
        "train_lines": len(helper.shipped_training),
        "valid_lines": len(helper.shipped_held_out),
        "valid_near_duplicates": count_near_duplicates(helper.shipped_held_out, [*source.training, *helper.training]),
    }


def card(figures: dict[str, Any]) -> str:
    """Return the model card of a pair: what it was trained on, how, and how well it predicts held-out text."""
    text = figures["text"]
    lines = [
        "# The packaged demo",
        "",
        "A small source model, a small helper model with the target tokenizer, and text to go on with. Both were "
        "trained from random weights by `python -m scripts.build_demo` for showing a transfer at work; they are good "
        "for nothing else.",
        "",
        "| | source | helper |",
        "|---|---:|---:|",
    ]

    def row(label: str, key: str, form: str = ",") -> None:
        lines.append(f"| {label} | {figures['source'][key]:{form}} | {figures['helper'][key]:{form}} |")

    row("parameters", "parameters")
    lines.append("| shape | " + " | ".join(f"{figures[name]['shape']}" for name in ("source", "helper")) + " |")
    lines.append(
        "| vocabulary | " + " | ".join(f"{figures[n]['recipe']['vocab_size']:,}" for n in ("source", "helper")) + " |"
    )
    lines.append(
        "| passes over the text | "
        + " | ".join(f"{figures[n]['recipe']['epochs']:g}" for n in ("source", "helper"))
        + " |"
    )
    row("training lines", "training_lines")
    row("training lines left out, as they repeat a held-out one", "lines_left_out_as_duplicates")
    row("training tokens a pass", "training_tokens_an_epoch")
    row("tokens seen", "tokens_seen")
    row("seconds of training", "seconds")
    row("held-out lines", "held_out_lines")
    row("held-out loss, nats a token", "held_out_loss", ".3f")
    row("held-out bits per byte", "held_out_bits_per_byte", ".3f")
    lines += [
        "",
        "Bits per byte here are of blocks of 256 tokens without overlap, a little higher than `clp evaluate` says.",
        "`figures.json` holds the settings and the held-out loss by tokens seen.",
        "",
        f"- Source trained on: {', '.join(text['source_files'])}.",
        f"- Helper trained on: {', '.join(text['helper_files'])}.",
        f"- Text shipped (`train.txt.xz`, {text['train_lines']:,} lines; `valid.txt.xz`, {text['valid_lines']:,} "
        f"lines): {', '.join(text['shipped_files'])}; licence and attribution in `NOTICE.txt`.",
        "- The validation lines were trained on by neither model: `trained_lines.u64.xz` holds 40-bit hashes of every "
        "normalised training line (sorted, as differences), and a test compares. Near-duplicates, lines of which half "
        "of the five-word runs stand somewhere in the training text: "
        f"{text['valid_near_duplicates']} of {text['valid_lines']}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and build the demo."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source-text", type=Path, nargs="+", required=True, help="text of the source language")
    parser.add_argument("--helper-text", type=Path, nargs="+", required=True, help="text of the target language")
    parser.add_argument("--shipped-text", type=Path, nargs="+", required=True, help="those of --helper-text to ship")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--epochs-scale", type=float, default=1.0, help="train this many times as long (0.01: a trial)")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    source, helper = Split.of(args.source_text, []), Split.of(args.helper_text, args.shipped_text)
    args.output.mkdir(parents=True, exist_ok=True)
    written = args.output / "figures.json"
    figures: dict[str, Any] = json.loads(written.read_text()) if written.is_file() else {}
    figures["text"] = write_text(args.output, source, helper)
    named = {"source_files": args.source_text, "helper_files": args.helper_text, "shipped_files": args.shipped_text}
    figures["text"] |= {key: [path.name.partition(".")[0] for path in sorted(paths)] for key, paths in named.items()}
    log.info("text: %s", figures["text"])
    plans = (("helper", HELPER, helper_config, helper), ("source", SOURCE, source_config, source))
    for name, recipe, config, split in plans:
        if name in figures:
            log.info("%s is trained already", name)
            continue
        scaled = Recipe(**{**asdict(recipe), "epochs": recipe.epochs * args.epochs_scale})
        figures[name] = train_model(config(scaled), scaled, split, args.output / name)
        log.info("%s: held-out loss %.3f", name, figures[name]["held_out_loss"])
        written.write_text(json.dumps(figures, indent=1) + "\n")
    (args.output / "README.md").write_text(card(figures), encoding="utf-8")


if __name__ == "__main__":
    main()
