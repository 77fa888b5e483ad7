"""A folder's tokenizer as transformers' ``AutoTokenizer`` reads it, compared with its own files once per content.

tokenizer.json is not all that a user's own call sees: ``AutoTokenizer`` adds the tokens that tokenizer_config.json,
special_tokens_map.json and added_tokens.json declare, and some tokenizer classes add tokens of their own. A tokenizer
is read here with all of them. What transformers and tokenizer.json encode differently becomes a warning; a
SentencePiece model without tokenizer.json is converted so that it agrees with the ``sentencepiece`` library.

The first reading of a tokenizer imports transformers. Its result is cached by the content of the files, so that later
ones need neither transformers nor torch.
"""

from __future__ import annotations

import hashlib
import itertools
import logging
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from clp_core.errors import ClpError, InputError, first_line, library_failure, panics_as_errors
from clp_core.files.json_files import MOST_BYTES, read_json, write_json
from clp_core.tokenization.tokenizer_json import with_unknown, without_dropout

log = logging.getLogger(__name__)

VERSION = 2
"""Raised where a reading changes; what an older version cached is made again."""

ROLES = ("eos", "bos", "pad", "unk", "sep", "cls", "mask")
"""Special roles, in the order in which a token with several of them is matched."""

SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TOKENIZER_FILES = ("tokenizer.json", *SENTENCEPIECE_FILES, "vocab.json", "vocab.txt", "tekken.json")
CONFIG_FILES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
TEMPLATE_FILE = "chat_template.jinja"

CHECK_LINES = 200
CHECK_LINE_TOKENS = 12
FIXED_LINES = (
    "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich, 1990.",
    "  two blanks at the start, two  inside, one at the end ",
    "tab\there; naïve café, 3,141.59 %, “quotes”…",
    "日本語のテキスト и немного кириллицы, كلمات عربية, हिन्दी",
    "emoji 🦊🏔️ and \u200bzero width",
)
AS_IT_IS = {"padding": False, "truncation": False, "verbose": False}
"""How transformers' tokenizers are called to compare them: nothing is cut, nothing filled up."""

NAMES_SHOWN = 5
KEPT_READINGS = 16
READ_SECONDS = 300
"""A page waits no longer for a tokenizer; those of a million tokens take half a minute."""
NAME = "{name}"
"""Stands for the tokenizer's name in the warnings of a reading, which is cached by content."""


@dataclass(frozen=True)
class TokenizerReading:
    """A tokenizer as ``AutoTokenizer`` reads it.

    Attributes:
        serialized: a tokenizer.json with every token that ``AutoTokenizer`` knows.
        roles: string of the token that holds each special role.
        has_chat_template: whether it comes with a chat template.
        warnings: what a user should know before trusting its ids.
        differs: whether it encodes text differently from the ``sentencepiece`` model beside it.
        splits_special_tokens: whether strings of special tokens are read as plain text.
    """

    serialized: str
    roles: dict[str, str]
    has_chat_template: bool = False
    warnings: tuple[str, ...] = ()
    differs: bool = False
    splits_special_tokens: bool = False


_READINGS: OrderedDict[str, TokenizerReading] = OrderedDict()


def read_tokenizer(folder: Path, cache: Path, *, apart: bool = False) -> TokenizerReading:
    """Return the reading of the tokenizer in a folder, from the cache where its content was read before.

    Args:
        folder: a model or a tokenizer.
        cache: where readings are stored.
        apart: read a new one in another process, so that this one does not import torch.

    Raises:
        InputError: the folder holds no tokenizer, or it cannot be read.
    """
    key = content_key(folder)
    if key in _READINGS:
        _READINGS.move_to_end(key)
        return _READINGS[key]
    file = cache / "tokenizers" / f"{key}.json"
    reading = stored_reading(file, folder)
    if reading is None and apart:
        read_apart(folder)
        reading = stored_reading(file, folder)
    if reading is None:
        reading = read(folder)
        store(reading, file, folder)
    _READINGS[key] = reading
    while len(_READINGS) > KEPT_READINGS:
        _READINGS.popitem(last=False)
    return reading


def content_key(folder: Path) -> str:
    """Return a hash of the files that ``AutoTokenizer`` reads, and of the versions that read them.

    Raises:
        InputError: the folder holds no tokenizer, or one too large for memory.
    """
    files = [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()] + sorted(folder.glob("*.tiktoken"))
    if not files:
        raise InputError(f"{folder} holds no tokenizer (tokenizer.json or another vocabulary file)")
    files += [folder / name for name in (*CONFIG_FILES, TEMPLATE_FILE, "config.json")]
    digest = hashlib.blake2b("\0".join(map(str, (VERSION, *versions()))).encode(), digest_size=16)
    for path in files:
        if path.is_file():
            if path.stat().st_size > MOST_BYTES:
                raise InputError(f"{path} has more than {MOST_BYTES >> 20} MiB, too much for a tokenizer")
            data = path.read_bytes()
            digest.update(f"\n{path.name}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


@lru_cache(1)
def versions() -> tuple[str, ...]:
    """Return the versions of the libraries that read tokenizers."""
    return tuple(metadata.version(name) for name in ("transformers", "tokenizers", "sentencepiece"))


def stored_reading(file: Path, folder: Path) -> TokenizerReading | None:
    """Return a cached reading, or ``None``."""
    stored = read_json(file)
    if not stored:
        return None
    if stored["serialized"] is None:  # the same as the file
        stored["serialized"] = raw_json(folder)
    return TokenizerReading(**stored | {"warnings": tuple(stored["warnings"])})


def store(reading: TokenizerReading, file: Path, folder: Path) -> None:
    """Write a reading into the cache; a cache that cannot be written costs time only."""
    content = asdict(reading)
    if reading.serialized == raw_json(folder):
        content["serialized"] = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    except OSError as error:
        log.debug("the reading of %s is not cached: %s", folder, error)


def read_apart(folder: Path) -> None:
    """Read a tokenizer in another process, which leaves the reading in the cache.

    Raises:
        InputError: it cannot be read.
    """
    argv = [sys.executable, "-m", "clp_core.tokenization.tokenizer_reading", str(folder)]
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=READ_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InputError(
            f"the tokenizer in {folder} is not read after {READ_SECONDS} s; is its tokenizer.json damaged?"
        ) from error
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        raise InputError(lines[-1] if lines else f"the tokenizer in {folder} cannot be read")


def raw_json(folder: Path) -> str | None:
    """Return the folder's tokenizer.json, or ``None`` where it has none.

    Raises:
        InputError: it is not UTF-8 text.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is no UTF-8 text ({error}); fetch the file again") from error


def read(folder: Path) -> TokenizerReading:
    """Read the tokenizer in a folder with transformers, and compare the two.

    Raises:
        InputError: neither tokenizer.json nor another vocabulary file can be read.
    """
    config = read_json(folder / "special_tokens_map.json") | read_json(folder / "tokenizer_config.json")
    has_template = (folder / TEMPLATE_FILE).is_file() or bool(config.get("chat_template"))
    base, model = raw_json(folder), open_sentencepiece(folder)
    if base is not None:
        parsed(base, folder)
    try:
        theirs = open_as_users_do(folder)
    except Exception as error:  # transformers raises many kinds here
        if base is None:
            raise InputError(f"the tokenizer in {folder} cannot be opened: {first_line(error)}") from error
        warning = (
            f"AutoTokenizer cannot open the tokenizer of {NAME} ({first_line(error)}); it is read from "
            "tokenizer.json alone, and tokens that other files add are unknown here"
        )
        return TokenizerReading(base or "", roles_in(config, base or ""), has_template, (warning,))
    notes: list[str] = []
    chosen, has_file = theirs, base is not None
    if base is None:
        chosen, base = converted(folder, theirs, model, notes)
    if config.get("auto_map"):
        notes.append(f"{NAME} names tokenizer code of its own, which is not run here; its files alone are read")
    base, dropout = without_dropout(base)
    if dropout:
        notes.append(
            f"the tokenizer of {NAME} has BPE dropout of {dropout:g}, which encodes the same text differently every "
            "time; it is switched off here"
        )
    switch_off_dropout(theirs)
    tokenizer = parsed(base, folder)
    if chosen is not theirs:  # what its class puts around a text, and adds, is no matter of how text is cut
        tokenizer.post_processor = theirs.backend_tokenizer.post_processor
        base = tokenizer.to_str()
    serialized, added = with_added_tokens(base, tokenizer, chosen)
    if chosen is not theirs:
        serialized, _ = with_added_tokens(serialized, tokenizer, theirs)
    if added and has_file:
        notes.append(
            f"tokenizer.json of {NAME} lacks {count_of(len(added), 'token')} that its other files declare; read "
            f"as AutoTokenizer does: {shown(added)}"
        )
    tokenizer.encode_special_tokens = splits = bool(getattr(theirs, "split_special_tokens", False))
    found = compared(theirs, tokenizer, model, notes)
    if has_file:
        notes += found.warnings(NAME, type(theirs).__name__)
    if found.sentencepiece:
        notes.append(
            f"the tokenizer of {NAME} encodes {found.sentencepiece} of {CHECK_LINES} lines differently from the "
            "SentencePiece model beside it; take the one that the model was trained with"
        )
    roles = {
        role: str(getattr(one, f"{role}_token"))
        for one in (theirs, chosen)
        for role in ROLES
        if getattr(one, f"{role}_token", None)
    }
    return TokenizerReading(
        serialized,
        {role: token for role, token in roles.items() if tokenizer.token_to_id(token) is not None},
        has_template,
        tuple(notes),
        differs=found.sentencepiece > 0,
        splits_special_tokens=splits,
    )


def compared(theirs: Any, tokenizer: Tokenizer, model: Any | None, notes: list[str]) -> Differences:
    """Compare transformers' tokenizer with the reading; one that cannot encode is noted and counts as equal."""
    try:
        with panics_as_errors():
            return Differences.of(theirs, tokenizer, model)
    except Exception as error:  # transformers raises many kinds where a setting has a wrong type
        notes.append(f"AutoTokenizer cannot encode with the tokenizer of {NAME} ({first_line(error)}): check its files")
        return Differences(0, 0, 0)


def parsed(serialized: str, folder: Path) -> Tokenizer:
    """Parse a tokenizer.json.

    Raises:
        InputError: it is not one.
    """
    try:
        return Tokenizer.from_str(serialized)
    except BaseException as error:  # tokenizers raises plain Exception, or panics
        if not library_failure(error):
            raise
        raise InputError(f"the tokenizer.json of {folder.name} cannot be read: {first_line(error)}") from error


@panics_as_errors()
def open_as_users_do(folder: Path) -> Any:
    """Open a tokenizer with ``AutoTokenizer``; where it has code of its own, with the class that reads tokenizer.json.

    Raises:
        Exception: transformers cannot open it, or has no fast form of it.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        if hasattr(tokenizer, "backend_tokenizer"):
            return tokenizer
    except Exception:
        if not (folder / "tokenizer.json").is_file():
            raise
    return PreTrainedTokenizerFast.from_pretrained(str(folder))


def open_sentencepiece(folder: Path) -> Any | None:
    """Return the SentencePiece model of a folder, ``None`` where it has none (a tiktoken file may be called so too)."""
    file = next((folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file()), None)
    if file is None:
        return None
    import sentencepiece

    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(file))
    except (RuntimeError, OSError):
        return None


def converted(folder: Path, theirs: Any, model: Any | None, notes: list[str]) -> tuple[Any, str]:
    """Return the conversion of a vocabulary file that agrees best with sentencepiece, and its tokenizer.json.

    The class that ``AutoTokenizer`` takes may assume another kind of model than the file holds, as ``LlamaTokenizer``
    assumes byte-pair encoding; the general class follows the file.
    """
    best = str(theirs.backend_tokenizer.to_str())
    if model is None:
        return theirs, best
    n = sentencepiece_differences(Tokenizer.from_str(best), model)
    unknown = str(model.id_to_piece(model.unk_id()))
    candidates = [(theirs, with_unknown(best, unknown))]
    if n:
        from transformers import PreTrainedTokenizerFast

        try:
            general = PreTrainedTokenizerFast.from_pretrained(str(folder))
            candidates.append((general, with_unknown(str(general.backend_tokenizer.to_str()), unknown)))
        except Exception as error:  # the general class knows tokenizer.model alone
            log.debug("%s: %s", folder, error)
    left = [sentencepiece_differences(Tokenizer.from_str(text), model) for _, text in candidates]
    chosen = left.index(min(left))
    if left[chosen] < n:
        notes.append(
            f"AutoTokenizer converts the SentencePiece model of {NAME} so that {n} of {CHECK_LINES} lines are "
            "encoded differently from sentencepiece itself; it is read here as sentencepiece does"
        )
    return candidates[chosen]


def switch_off_dropout(theirs: Any) -> None:
    """Switch off the BPE dropout of a tokenizer of transformers, so that it can be compared."""
    model = theirs.backend_tokenizer.model
    if getattr(model, "dropout", None):
        model.dropout = None


def with_added_tokens(base: str, tokenizer: Tokenizer, theirs: Any) -> tuple[str, list[str]]:
    """Add to a tokenizer the tokens that transformers adds to it.

    They are added in the order of transformers' ids, so they get these; a token that would get another id is left out,
    and the comparison names it.

    Args:
        base: the tokenizer.json.
        tokenizer: the same, parsed; it is changed.
        theirs: transformers' tokenizer.

    Returns:
        The new tokenizer.json, and the tokens that are new to it.
    """
    known = {(i, token.content, token.special) for i, token in tokenizer.get_added_tokens_decoder().items()}
    new, is_changed = [], False
    for token_id, token in sorted(theirs.added_tokens_decoder.items()):
        if (token_id, token.content, token.special) in known:
            continue
        place = tokenizer.token_to_id(token.content)
        if (tokenizer.get_vocab_size(with_added_tokens=True) if place is None else place) != token_id:
            continue
        new += [token.content] if place is None else []
        tokenizer.add_tokens([token])
        is_changed = True
    return (tokenizer.to_str() if is_changed else base), new


def roles_in(config: dict[str, Any], serialized: str) -> dict[str, str]:
    """Return the tokens that a tokenizer_config.json gives special roles, as far as the vocabulary has them."""
    tokenizer = Tokenizer.from_str(serialized)
    found = {}
    for role in ROLES:
        entry = config.get(f"{role}_token")
        token = entry.get("content") if isinstance(entry, dict) else entry
        if isinstance(token, str) and tokenizer.token_to_id(token) is not None:
            found[role] = token
    return found


@dataclass(frozen=True)
class Differences:
    """How two readings of one tokenizer differ.

    Attributes:
        lines: how many lines were compared.
        plain: lines that are encoded differently without special tokens around them.
        special: lines that are encoded differently with special tokens around and inside them.
        tokens: tokens that transformers gives another id, or that one of the two lacks.
        largest: transformers' largest id, in its vocabulary or in an encoded line.
        sentencepiece: lines that sentencepiece cuts into other pieces; 0 where there is no such model.
    """

    lines: int
    plain: int
    special: int
    tokens: tuple[str, ...] = field(default=())
    largest: int = -1
    sentencepiece: int = 0

    @classmethod
    def of(cls, theirs: Any, tokenizer: Tokenizer, model: Any | None = None) -> Differences:
        """Compare a tokenizer of transformers with a tokenizer.json on lines made of its own tokens and on fixed ones.

        Args:
            theirs: transformers' tokenizer.
            tokenizer: the tokenizer.json.
            model: the SentencePiece model beside it, if there is one.
        """
        tokenizer.no_padding()
        tokenizer.no_truncation()
        specials = sorted({token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special})
        lines = check_lines(tokenizer)
        mixed = with_specials(lines, specials)
        own_plain = [one.ids for one in tokenizer.encode_batch(lines, add_special_tokens=False)]
        own_mixed = [one.ids for one in tokenizer.encode_batch(mixed, add_special_tokens=True)]
        ours, others = tokenizer.get_vocab(with_added_tokens=True), theirs.get_vocab()
        unlike = [token for token in {**ours, **others} if ours.get(token) != others.get(token)]
        their_mixed = theirs(mixed, **AS_IT_IS)["input_ids"]
        return cls(
            lines=len(lines),
            plain=unequal(own_plain, theirs(lines, add_special_tokens=False, **AS_IT_IS)["input_ids"]),
            special=unequal(own_mixed, their_mixed),
            tokens=tuple(unlike),
            largest=max((*others.values(), *(i for ids in their_mixed for i in ids)), default=-1),
            sentencepiece=sentencepiece_differences(tokenizer, model) if model is not None else 0,
        )

    def warnings(self, name: str, class_name: str) -> list[str]:
        """Return what a user of the tokenizer should know.

        Args:
            name: of the tokenizer's folder.
            class_name: transformers' class that reads it.
        """
        notes = []
        n = max(self.plain, self.special)
        if n:
            notes.append(
                f"AutoTokenizer reads {name} as a {class_name}, which encodes {n} of {self.lines} lines differently "
                "from its tokenizer.json; ids here are those of tokenizer.json, load it with "
                "PreTrainedTokenizerFast.from_pretrained"
            )
        if self.tokens:
            notes.append(
                f"AutoTokenizer reads {name} as a {class_name}, which has other ids for "
                f"{count_of(len(self.tokens), 'token')} than its tokenizer.json: {shown(self.tokens)}"
            )
        return notes


def unequal(ours: Sequence[Sequence[int]], theirs: Sequence[Sequence[int]]) -> int:
    """Count the lines with different ids."""
    return sum(list(a) != list(b) for a, b in zip(ours, theirs, strict=True))


def check_lines(tokenizer: Tokenizer, seed: int = 42) -> list[str]:
    """Return lines made of random tokens of a vocabulary, and fixed ones in several scripts."""
    added = set(tokenizer.get_added_tokens_decoder())
    plain = np.array([i for i in sorted(tokenizer.get_vocab(with_added_tokens=True).values()) if i not in added])
    if not len(plain):
        return list(FIXED_LINES)
    picks = np.random.default_rng(seed).choice(plain, size=(CHECK_LINES - len(FIXED_LINES), CHECK_LINE_TOKENS))
    made = tokenizer.decode_batch(picks.tolist(), skip_special_tokens=False)
    return [*(line.replace("\N{REPLACEMENT CHARACTER}", "").replace("\0", "") for line in made), *FIXED_LINES]


def with_specials(lines: Sequence[str], specials: Sequence[str]) -> list[str]:
    """Return lines of which every other one carries the string of a special token in its middle."""
    if not specials:
        return list(lines)
    return [
        f"{line[: len(line) // 2]}{specials[i // 2 % len(specials)]}{line[len(line) // 2 :]}" if i % 2 else line
        for i, line in enumerate(lines)
    ]


def lines_for(model: Any) -> list[str]:
    """Return lines made of a SentencePiece model's own pieces, and fixed ones in several scripts."""
    ids = [i for i in range(model.get_piece_size()) if not (model.is_control(i) or model.is_unknown(i))]
    picks = np.random.default_rng(42).choice(ids, size=(CHECK_LINES - len(FIXED_LINES), CHECK_LINE_TOKENS))
    made = [model.decode([int(i) for i in line]) for line in picks]
    return [*(line.replace("\N{REPLACEMENT CHARACTER}", "").replace("\0", "") for line in made), *FIXED_LINES]


def sentencepiece_differences(tokenizer: Tokenizer, model: Any) -> int:
    """Count the lines that a tokenizer.json and sentencepiece cut into different pieces.

    Ids are not compared, as some models shift them; a run of unknown pieces counts as one.
    """
    lines = lines_for(model)
    unknown = {str(model.id_to_piece(model.unk_id()))}
    ours = tokenizer.encode_batch(lines, add_special_tokens=False)
    theirs = model.encode(lines, out_type=int)
    return sum(
        pieces((str(tokenizer.id_to_token(i)) for i in a.ids), unknown) != pieces(map(model.id_to_piece, b), unknown)
        for a, b in zip(ours, theirs, strict=True)
    )


def pieces(tokens: Iterable[str], unknown: set[str]) -> list[str]:
    """Return pieces, every run of unknown ones as one."""
    return [token for token, run in itertools.groupby(tokens) for _ in ([0] if token in unknown else run)]


def count_of(n: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{n:,} {what}{'' if n == 1 else 's'}"


def shown(tokens: Sequence[str]) -> str:
    """Return the first few tokens of a list."""
    return ", ".join(repr(token) for token in tokens[:NAMES_SHOWN]) + (", ..." if len(tokens) > NAMES_SHOWN else "")


def main() -> None:
    """Read the tokenizer in the folder that the command line names into the cache."""
    from clp_core.workspace import Workspace

    try:
        read_tokenizer(Path(sys.argv[1]), Workspace.current().cache)
    except BaseException as error:
        told = str(error) if isinstance(error, ClpError) else library_failure(error)
        if not told:
            raise
        sys.stderr.write(f"{told}\n")
        raise SystemExit(InputError.exit_code) from error


if __name__ == "__main__":
    main()
