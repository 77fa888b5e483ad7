"""Train a tokenizer on text of the target language, for a helper that does not exist yet.

Two styles, both byte-pair encodings without unknown text:

* ``byte-level``, as GPT-2, Llama 3 and Qwen have it: every character is written in the bytes of its UTF-8;
* ``sentencepiece``, as Llama 2 and Gemma have it: characters stand for themselves, rare ones fall back to their bytes.
  It loses one blank at the beginning of a text, and reads the character U+2581, its sign for a blank, as a blank.

Both divide a text as ``pre_tokens`` describes before anything is merged. Unigram is not offered: the trainer in
``tokenizers`` gives other scores in every run and has no byte fallback.

Nothing is normalised by default, so every text comes back byte for byte, but for the two exceptions above; text that
writes the same letter in two ways is told, and ``nfc`` reads both alike. The same text and options give the same
tokenizer.json, byte for byte.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clp_core.data.text_sources import HUB_PREFIX, Texts
from clp_core.environment.native_code import ended_by_signals
from clp_core.errors import ClpError, InputError
from clp_core.files.artifacts import TOKENIZER_REPORT_FILE
from clp_core.files.disk import refuse_if_inside
from clp_core.files.output_folder import LOCK_FILE, partial_folder, restore_replaced, take_name
from clp_core.helper.text_statistics import Survey
from clp_core.helper.tokenizer_options import END_OF_TEXT, N_BYTES, TokenizerOptions
from clp_core.helper.tokenizer_report import MatchFigures, SourceFigures, TokenizerReport
from clp_core.hub.resolve import locate
from clp_core.jobs.job import Job
from clp_core.jobs.submit import submit_command
from clp_core.progress import report_progress
from clp_core.tokenization.match_choices import MATCHES
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.pre_tokens import LONGEST_RUN, CutCounter, splitter
from clp_core.tokenization.text_coverage import TokenizerFigures, measure_text
from clp_core.tokenization.token_bytes import WORD_START
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.target_folder import check_tokenizer, portable_tokenizer_config
from clp_core.workspace import Workspace

if TYPE_CHECKING:
    from tokenizers import Tokenizer

UNKNOWN = "<unk>"
VOCAB_SIZES = ((1e6, 4096), (10e6, 8192), (100e6, 16384), (math.inf, 32768))
"""Tokens to learn by the bytes of the text: a token must be seen some hundred times before its row says much."""

MIXED_SHARE = 0.001
RAW_IS_POOR = 0.8


@dataclass(frozen=True)
class Recipe:
    """What is trained, with nothing left open.

    Attributes:
        style: ``byte-level`` or ``sentencepiece``.
        vocab_size: tokens in all.
        special: end of text first, then the padding token and the unknown token, where there are such.
        alphabet: characters that stand for themselves, before any merge.
        options: the options.
    """

    style: str
    vocab_size: int
    special: tuple[str, ...]
    alphabet: tuple[str, ...]
    options: TokenizerOptions

    @classmethod
    def of(cls, options: TokenizerOptions, style: str, survey: Survey, source: Vocabulary | None) -> Recipe:
        """Choose what the options leave open.

        Raises:
            InputError: the vocabulary has no room for a single merge.
        """
        from tokenizers import pre_tokenizers

        special = [options.end_of_text or end_of(source)]
        special += [options.pad_token] if options.pad_token else []
        if len(set(special)) < len(special):
            raise InputError(f"--pad-token {special[0]} is the end-of-text token; choose another string")
        if style == "byte-level":
            alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
            n_bytes = 0
        else:
            special += [UNKNOWN] if UNKNOWN not in special else []
            alphabet = survey.alphabet()
            n_bytes = N_BYTES
        size = options.vocab_size or next(n for bound, n in VOCAB_SIZES if survey.bytes < bound)
        least = len(special) + n_bytes + len(alphabet)
        if size <= least:
            raise InputError(
                f"--vocab-size: {size:,} has no room beyond {least:,} single bytes, characters and special tokens, so "
                f"nothing would be learned; give more than {2 * least:,}"
            )
        return cls(style, size, tuple(special), tuple(alphabet), options)

    @property
    def blank(self) -> str:
        """The character that stands for a blank when pre-tokens are cut."""
        return " " if self.style == "byte-level" else WORD_START

    def train(self, documents: Iterator[str]) -> Tokenizer:
        """Train the tokenizer on documents; SIGTERM and Ctrl+C end the process meanwhile, as nothing is written yet."""
        from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

        is_bytes = self.style == "byte-level"
        parts: list[Any] = [splitter(self.blank)]
        if self.options.split_digits:
            parts.append(pre_tokenizers.Digits(individual_digits=True))
        special = list(self.special)
        if is_bytes:
            tokenizer = Tokenizer(models.BPE())
            parts.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False))
            tokenizer.decoder = decoders.ByteLevel()
        else:
            tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token=UNKNOWN))
            parts.insert(0, pre_tokenizers.Metaspace(WORD_START, "first", split=False))
            blanks = [decoders.Replace(WORD_START, " "), decoders.ByteFallback(), decoders.Fuse()]
            tokenizer.decoder = decoders.Sequence([*blanks, decoders.Strip(" ", 1, 0)])
            special += [f"<0x{byte:02X}>" for byte in range(N_BYTES)]
        if self.options.normalization == "nfc":
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
        trainer = trainers.BpeTrainer(
            vocab_size=self.vocab_size,
            min_frequency=self.options.min_frequency,
            special_tokens=special,
            initial_alphabet=list(self.alphabet),
            limit_alphabet=len(self.alphabet),
            show_progress=False,
        )
        with ended_by_signals():
            tokenizer.train_from_iterator(documents, trainer)
        return tokenizer if is_bytes else with_plain_bytes(tokenizer)

    def write(self, tokenizer: Tokenizer, folder: Path) -> None:
        """Write the files that ``AutoTokenizer`` opens."""
        from transformers import PreTrainedTokenizerFast

        roles = {"bos_token": self.special[0], "eos_token": self.special[0]}
        if self.options.pad_token:
            roles["pad_token"] = self.options.pad_token
        if self.style == "sentencepiece":
            roles["unk_token"] = UNKNOWN
        PreTrainedTokenizerFast(tokenizer_object=tokenizer, **roles).save_pretrained(folder)
        portable_tokenizer_config(folder)


def with_plain_bytes(tokenizer: Tokenizer) -> Tokenizer:
    """Return a tokenizer whose byte tokens are ordinary ones: a text that spells ``<0x41>`` is no byte."""
    from tokenizers import Tokenizer

    description = json.loads(tokenizer.to_str())
    description["added_tokens"] = [t for t in description["added_tokens"] if not t["content"].startswith("<0x")]
    return Tokenizer.from_str(json.dumps(description, ensure_ascii=False))


def end_of(source: Vocabulary | None) -> str:
    """Return the string of a source's end-of-text token, or the usual one."""
    held = source.roles.get("eos") if source is not None else None
    return str(source.tokens[held]) if source is not None and held is not None else END_OF_TEXT


def train_tokenizer(options: TokenizerOptions) -> TokenizerReport:
    """Train a tokenizer, write and reopen it; return the report.

    The folder is made beside its place and takes its name once AutoTokenizer reads a thousand lines as its
    tokenizer.json does.

    Raises:
        InputError: a text or the source cannot be used, the vocabulary is too small, or the output is there already.
    """
    began = time.monotonic()
    output = Path(options.output).expanduser().absolute()
    check_place(output, options.overwrite)
    texts = Texts.open(options.text, options.text_field)
    paths = [Path(text).expanduser() for text in options.text if not text.startswith(HUB_PREFIX)]
    folder = locate(options.source, weights=False) if options.source else None
    refuse_if_inside(output, *paths, *([folder] if folder else []))
    source = Vocabulary.open(folder, options.source) if folder else None
    style = options.style
    if style == "auto":
        style = "sentencepiece" if source is not None and source.family == "sentencepiece" else "byte-level"
    survey = Survey.of(texts, count_characters=style == "sentencepiece")
    recipe = Recipe.of(options, style, survey, source)
    counter = CutCounter(recipe.blank)
    tokenizer = recipe.train(counter.watch(survey.training(texts)))
    output.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(output) as part:
        recipe.write(tokenizer, part)
        report_progress("reopening the tokenizer")
        vocabulary = Vocabulary.open(part, output.name)
        if check_tokenizer(part, vocabulary, vocabulary.n_ids):
            raise ClpError("AutoTokenizer reads the new tokenizer otherwise than it was trained; it is not kept")
        report = report_of(output, recipe, survey, vocabulary, source, counter.cuts)
        report = replace(report, seconds=round(time.monotonic() - began, 2))
        (part / TOKENIZER_REPORT_FILE).write_text(json.dumps(report.to_json(), indent=1, ensure_ascii=False) + "\n")
        restore_replaced(output)
        check_place(output, options.overwrite)
        take_name(part, output, options.overwrite)
    return report


def submit_tokenizer(workspace: Workspace, options: TokenizerOptions) -> Job:
    """Start training a tokenizer as a job."""
    return submit_command(workspace, options, [], Path(options.output).name)


def check_place(output: Path, overwrite: bool) -> None:
    """Refuse an output that would lose something.

    Raises:
        InputError: it exists and ``overwrite`` is off, or it is no folder of a tokenizer alone.
    """
    if not output.exists():
        return
    if not output.is_dir():
        raise InputError(f"{output} is a file; choose another --output")
    others = [path.name for path in output.iterdir() if path.name != LOCK_FILE]
    if others and (not (output / "tokenizer.json").is_file() or (output / "config.json").is_file()):
        raise InputError(f"{output} holds more than a tokenizer, so it is not replaced; choose another --output")
    if not overwrite:
        raise InputError(f"{output} exists and is kept; choose another --output, or add --overwrite")


def report_of(
    output: Path, recipe: Recipe, survey: Survey, vocabulary: Vocabulary, source: Vocabulary | None, cuts: int
) -> TokenizerReport:
    """Measure a new tokenizer, beside the source's where there is one, with warnings.

    Args:
        output: where it will lie.
        recipe: how it was trained.
        survey: the first reading of the text.
        vocabulary: the new tokenizer.
        source: the source's vocabulary.
        cuts: how often a run of the training text was cut for its length.
    """
    report_progress("measuring the tokenizer")
    text = survey.measured_text
    own = TokenizerFigures.of(vocabulary, text)
    options = recipe.options
    warnings = [*source.warnings] if source is not None else []
    if vocabulary.size < recipe.vocab_size:
        warnings.append(
            f"the text gave {vocabulary.size:,} of {recipe.vocab_size:,} tokens: no other two pieces stand together "
            f"{options.min_frequency} times; give more text, or ask for fewer"
        )
    if options.normalization == "none" and survey.mixed > MIXED_SHARE * survey.documents:
        warnings.append(
            f"{survey.mixed:,} of {survey.documents:,} documents write letters in parts (not NFC), and the tokenizer "
            "learns both spellings; --normalization nfc reads them alike"
        )
    if cuts:
        warnings.append(
            f"the text has runs of more than {LONGEST_RUN} letters, digits or signs without a blank; they are cut "
            f"{cuts:,} times, every {LONGEST_RUN} characters, in training and in use. Check that its blanks were not "
            "lost, or that it is not data such as base64"
        )
    compared = None
    if source is not None:
        compared, told = compare_with(source, vocabulary, text, own)
        warnings += told
    return TokenizerReport(
        output=str(output),
        size=vocabulary.size,
        bytes_per_token=own.bytes_per_token,
        fertility=own.fertility,
        measured_on=survey.measured_on,
        style=recipe.style,
        end_of_text=recipe.special[0],
        documents=survey.documents,
        bytes=survey.bytes,
        cuts=cuts,
        source=compared,
        options=asdict(options),
        content=vocabulary.content,
        warnings=tuple(warnings),
    )


def compare_with(
    source: Vocabulary, vocabulary: Vocabulary, text: str, own: TokenizerFigures
) -> tuple[SourceFigures, list[str]]:
    """Return what a tokenizer has in common with the source's on a text, and what to do about it."""
    overlaps = {match: Overlap.of(source, vocabulary, match) for match in MATCHES}
    on_text = measure_text(overlaps["raw"], text)
    ids = on_text.target_reading.ids
    figures = {
        match: MatchFigures(overlap.size, overlap.share_of_target, float((overlap.source_ids[ids] >= 0).mean()))
        for match, overlap in overlaps.items()
    }
    found = SourceFigures(source.name, source.size, on_text.source_bytes_per_token, on_text.source_fertility, **figures)
    warnings = []
    raw, canonical = overlaps["raw"].size, overlaps["canonical"].size
    if raw < RAW_IS_POOR * canonical:
        warnings.append(
            f"the source has {canonical:,} of the tokens by their bytes but {raw:,} by their strings: transfer with "
            "--match canonical"
        )
    if on_text.source_bytes_per_token >= own.bytes_per_token:
        warnings.append("the source's own tokenizer needs no more tokens for this text, so a new one gains nothing")
    return found, warnings
