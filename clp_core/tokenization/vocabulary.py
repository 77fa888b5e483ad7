"""A tokenizer's vocabulary: ids, raw tokens, canonical bytes, special roles and categories."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from clp_core.errors import InputError
from clp_core.tokenization.scripts import script_of, visible
from clp_core.tokenization.token_bytes import WORD_START, Family, byte_fallback, byte_of_character, decoded, family_of
from clp_core.tokenization.tokenizer_json import literal, without_tokens
from clp_core.tokenization.tokenizer_reading import NAME, NAMES_SHOWN, ROLES, count_of, read_tokenizer
from clp_core.workspace import Workspace

DEFAULT_ROLES = {
    "byte-level": {"eos": "<|endoftext|>", "bos": "<|endoftext|>", "unk": "<|endoftext|>"},
    "sentencepiece": {"eos": "</s>", "bos": "<s>", "unk": "<unk>", "pad": "<pad>"},
    "wordpiece": {"unk": "[UNK]", "pad": "[PAD]", "sep": "[SEP]", "cls": "[CLS]", "mask": "[MASK]"},
}
"""Roles that transformers' classes give these families where the tokenizer's own files name none (gpt2's do not)."""

CATEGORIES = ("word start", "continuation", "digits", "punctuation", "byte", "special")
ID = re.compile("#([0-9]+)")
"""An id: digits of other scripts are text."""
LARGEST_ID = (1 << 63) - 1
"""Stands for all numbers that no vocabulary reaches, of which Python does not read the longest."""
LONGEST_SHOWN = 20
MOST_IDS = 1 << 24
"""Ids are places in lists here: a single one of four billion would fill all memory."""


@dataclass(frozen=True)
class Vocabulary:
    """The tokens of one tokenizer, by id.

    Attributes:
        name: what to call it in tables and messages.
        tokens: raw token strings by id; ``None`` where an id is not used (a gap).
        family: how the tokenizer writes bytes and word starts in its tokens.
        roles: id of the token that holds each special role (``eos``, ``bos``, ``pad``, ``unk``, ...).
        special_ids: ids of all special tokens, with or without a role.
        added_ids: ids of all added tokens; their strings are literal text whatever the family.
        has_chat_template: whether the tokenizer comes with a chat template.
        serialized: the tokenizer.json.
        warnings: what a user should know before trusting its ids.
        differs: whether it encodes text differently from the SentencePiece model beside it.
        splits_special_tokens: whether strings of special tokens in a text are read as plain text.
        model_unknown: id that the tokenizer's model has for unknown text, whatever token the role names.
    """

    name: str
    tokens: tuple[str | None, ...]
    family: Family
    roles: dict[str, int]
    special_ids: frozenset[int]
    added_ids: frozenset[int] = frozenset()
    has_chat_template: bool = False
    serialized: str = field(default="", repr=False)
    warnings: tuple[str, ...] = ()
    differs: bool = False
    splits_special_tokens: bool = False
    model_unknown: int | None = None

    @classmethod
    def open(cls, folder: Path, name: str | None = None, rows: int | None = None, *, apart: bool = False) -> Vocabulary:
        """Open the tokenizer in a folder as ``AutoTokenizer`` reads it, see ``tokenizer_reading``.

        Args:
            folder: a model or a tokenizer.
            name: what to call it; the folder's name by default.
            rows: embedding rows of the model; added tokens beyond them are left out, see ``within``.
            apart: read a tokenizer that is new to the cache in another process, so that this one does not import torch.

        Raises:
            InputError: there is no tokenizer in the folder, it cannot be read, or ordinary tokens have no row.
        """
        reading = read_tokenizer(folder, Workspace.current().cache, apart=apart)
        config: dict[str, Any] = {f"{role}_token": token for role, token in reading.roles.items()}
        name = name or folder.name
        found = cls.parse(reading.serialized, config, name, reading.has_chat_template)
        found = replace(
            found,
            warnings=tuple(warning.replace(NAME, name) for warning in reading.warnings),
            differs=reading.differs,
            splits_special_tokens=reading.splits_special_tokens,
        )
        return found if rows is None else found.within(rows)

    @classmethod
    def parse(cls, serialized: str, config: dict[str, Any], name: str, has_template_file: bool = False) -> Vocabulary:
        """Build a vocabulary from a tokenizer.json and the tokenizer's configuration.

        Raises:
            InputError: the text is no tokenizer.json.
        """
        try:
            tokenizer = Tokenizer.from_str(serialized)
            description = json.loads(serialized)
        except Exception as error:  # tokenizers raises plain Exception
            raise InputError(f"the tokenizer.json of {name} cannot be read: {error}") from error
        ids = tokenizer.get_vocab(with_added_tokens=True)
        if not ids:
            raise InputError(f"the tokenizer of {name} has no tokens")
        largest = max(ids.values())
        if largest >= MOST_IDS:
            raise InputError(f"the tokenizer of {name} has a token with id {largest}, beyond {MOST_IDS:,}")
        tokens: list[str | None] = [None] * (largest + 1)
        for token, token_id in ids.items():
            tokens[token_id] = token
        roles = {}
        for role in ROLES:
            entry = config.get(f"{role}_token")
            content = entry.get("content") if isinstance(entry, dict) else entry
            if content in ids:
                roles[role] = ids[content]
        model = description.get("model") or {}
        unknown = tokens[model["unk_id"]] if model.get("unk_id") is not None else model.get("unk_token")
        if not roles:
            roles = {
                role: ids[token]
                for role, token in DEFAULT_ROLES.get(family_of(description), {}).items()
                if token in ids
            }
        if "unk" not in roles and unknown in ids:
            roles["unk"] = ids[unknown]
        added = tokenizer.get_added_tokens_decoder()  # the library corrects ids in the file that are not free
        special = {i for i, token in added.items() if token.special}
        return cls(
            name=name,
            tokens=tuple(tokens),
            family=family_of(description),
            roles=roles,
            special_ids=frozenset(special | set(roles.values())),
            added_ids=frozenset(added),
            has_chat_template=has_template_file or bool(config.get("chat_template")),
            serialized=serialized,
            model_unknown=ids.get(unknown) if unknown is not None else None,
        )

    def within(self, rows: int) -> Vocabulary:
        """Return the vocabulary of a model with so many embedding rows: without added tokens that have no row.

        Raises:
            InputError: a token without a row is none that was added: this is another model's tokenizer.
        """
        beyond = [i for i in range(rows, self.n_ids) if self.tokens[i] is not None]
        if not beyond:
            return self
        named = ", ".join(f"{self.tokens[i]!r} ({i})" for i in beyond[:NAMES_SHOWN])
        ordinary = [i for i in beyond if i not in self.added_ids]
        if ordinary:
            raise InputError(
                f"the model of {self.name} has {rows} embedding rows, its tokenizer "
                f"{count_of(len(ordinary), 'ordinary token')} beyond them, ids up to {ordinary[-1]}; is this its own "
                "tokenizer?"
            )
        first = next((i for i in self.template[0] if i >= rows), None)
        if first is not None:
            raise InputError(
                f"the tokenizer of {self.name} puts {self.tokens[first]!r} before every text, which has no row among "
                f"the model's {rows}; resize the model with model.resize_token_embeddings(len(tokenizer)) first"
            )
        told = (
            f"{count_of(len(beyond), 'added token')} of {self.name} beyond the model's {rows} embedding rows left out: "
            f"{named}{', ...' if len(beyond) > NAMES_SHOWN else ''}; model.resize_token_embeddings(len(tokenizer)) "
            "would give them rows"
        )
        return replace(
            self,
            tokens=self.tokens[:rows],
            roles={role: i for role, i in self.roles.items() if i < rows},
            special_ids=frozenset(i for i in self.special_ids if i < rows),
            added_ids=frozenset(i for i in self.added_ids if i < rows),
            serialized=without_tokens(self.serialized, rows),
            warnings=(*self.warnings, told),
        )

    @property
    def size(self) -> int:
        """Number of tokens, gaps not counted."""
        return len(self.ids)

    @property
    def content(self) -> str:
        """A name for the content of tokenizer.json: losses a token compare only under one tokenizer."""
        return hashlib.sha256(self.serialized.encode()).hexdigest()

    @property
    def n_ids(self) -> int:
        """Largest id plus one: the rows an embedding matrix needs."""
        return len(self.tokens)

    def roles_of(self, token_id: int) -> frozenset[str]:
        """Return the special roles that a token holds."""
        return frozenset(role for role, holder in self.roles.items() if holder == token_id)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of each raw token."""
        return {token: i for i, token in enumerate(self.tokens) if token is not None}

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer itself (no padding, no truncation)."""
        tokenizer = Tokenizer.from_str(self.serialized)
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = self.splits_special_tokens
        return tokenizer

    def encode(self, text: str) -> list[int]:
        """Return the ids of a text, without special tokens around it."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    @cached_property
    def template(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Ids that the tokenizer's own template puts before and behind every text."""
        full = self.tokenizer.encode("a", add_special_tokens=True).ids
        plain = self.encode("a")
        places = [i for i in range(len(full) - len(plain) + 1) if full[i : i + len(plain)] == plain]
        start = places[0] if places and plain else len(full)
        return tuple(full[:start]), tuple(full[start + len(plain) :])

    @property
    def template_start(self) -> int | None:
        """Id of the first token that the tokenizer's own template puts before every text, ``None`` for none."""
        return next(iter(self.template[0]), None)

    @cached_property
    def unknown_ids(self) -> frozenset[int]:
        """Ids that stand for text the tokenizer does not know; not where they end a text too."""
        ends = {self.roles.get("eos", self.roles.get("sep"))}
        return frozenset(i for i in (self.roles.get("unk"), self.model_unknown) if i is not None) - ends

    @cached_property
    def control_strings(self) -> dict[str, int]:
        """Special tokens by their string: where a text spells one, the tokenizer reads it as the token."""
        if self.splits_special_tokens:
            return {}
        return {str(self.tokens[i]): i for i in sorted(self.special_ids & self.added_ids)}

    @cached_property
    def literal_tokenizer(self) -> Tokenizer:
        """The tokenizer, reading strings of special tokens as plain text (no padding, no truncation)."""
        tokenizer = Tokenizer.from_str(literal(self.serialized, set(self.control_strings.values())))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def bytes_of(self, token_id: int) -> bytes:
        """Return the text that a token stands for, as bytes; a word start is a blank where the family writes one.

        Special tokens stand for their own string. In WordPiece a token without ``##`` starts a word.
        """
        token = self.tokens[token_id]
        if token is None:
            return b""
        if token_id in self.special_ids or token_id in self.added_ids:
            return token.encode()
        if self.family == "byte-level":
            table = byte_of_character()
            if all(character in table for character in token):
                return bytes(table[character] for character in token)
            return token.encode()
        if self.family == "sentencepiece":
            byte = byte_fallback(token)
            return bytes([byte]) if byte is not None else token.replace(WORD_START, " ").encode()
        if self.family == "wordpiece":
            return token[2:].encode() if token.startswith("##") and len(token) > 2 else b" " + token.encode()
        return token.encode()

    @cached_property
    def token_bytes(self) -> tuple[bytes, ...]:
        """Bytes of every id (see ``bytes_of``)."""
        return tuple(self.bytes_of(i) for i in range(self.n_ids))

    @cached_property
    def canonical_keys(self) -> tuple[bytes | str | None, ...]:
        """What ``canonical`` matching compares: bytes, or the role of a special token (as text), or ``None``.

        A special token without a role and a gap match nothing.
        """
        role_of: dict[int, str] = {}
        for role in reversed(ROLES):
            if role in self.roles:
                role_of[self.roles[role]] = role
        return tuple(
            role_of.get(i) if i in self.special_ids else (None if token is None else self.token_bytes[i])
            for i, token in enumerate(self.tokens)
        )

    def is_byte(self, token_id: int) -> bool:
        """Say whether a token is a raw byte: ``<0xNN>``, or a piece of a character that is no UTF-8 by itself."""
        token = self.tokens[token_id]
        if token is None or token_id in self.special_ids:
            return False
        if self.family == "sentencepiece":
            return byte_fallback(token) is not None
        return decoded(self.bytes_of(token_id)) is None

    @cached_property
    def categories(self) -> np.ndarray:
        """Category of every id, ``[n_ids]`` of the names in ``CATEGORIES`` (empty text for a gap)."""
        return np.array([self.category_of(i) for i in range(self.n_ids)], dtype=object)

    def category_of(self, token_id: int) -> str:
        """Return the category of one id (empty text for a gap)."""
        if self.tokens[token_id] is None:
            return ""
        if token_id in self.special_ids:
            return "special"
        if self.is_byte(token_id):
            return "byte"
        text = decoded(self.bytes_of(token_id)) or ""
        stripped = text.strip()
        if not any(character.isalnum() for character in stripped):
            return "punctuation"
        if all(character.isnumeric() for character in stripped):
            return "digits"
        return "word start" if text[:1].isspace() else "continuation"

    @cached_property
    def scripts(self) -> np.ndarray:
        """Script of every id by its first letter, ``[n_ids]`` (``no letter`` where there is none)."""
        return np.array([script_of(decoded(data) or "") for data in self.token_bytes], dtype=object)

    @cached_property
    def word_starts(self) -> np.ndarray:
        """Whether each id begins with white space or a word-start mark, ``[n_ids]`` of bool."""
        return np.array([data[:1].isspace() for data in self.token_bytes], dtype=bool)

    @cached_property
    def lengths(self) -> np.ndarray:
        """Length of every id in bytes, ``[n_ids]``."""
        return np.array([len(data) for data in self.token_bytes], dtype=np.int32)

    def shown(self, token_id: int) -> str:
        """Return a token for human eyes: blanks as ``·``, other invisible characters named, raw bytes in hex."""
        if not 0 <= token_id < self.n_ids or self.tokens[token_id] is None:
            return f"#{token_id}"
        if token_id in self.special_ids:
            return str(self.tokens[token_id])
        data = self.token_bytes[token_id]
        text = decoded(data)
        if text is None:
            return " ".join(f"0x{byte:02X}" for byte in data)
        return visible(text)

    @cached_property
    def _folded(self) -> list[str]:
        return [self.shown(i).casefold() if token is not None else "" for i, token in enumerate(self.tokens)]

    def search(self, query: str, most: int = 50) -> list[int]:
        """Return tokens whose shown form holds a text: that token first, then those it begins, then others, by id.

        Case and the spelling of blanks (``Ġ``, a word-start mark, a blank) make no difference.
        """
        wanted = visible(query.replace("Ġ", " ").replace(WORD_START, " ")).casefold()
        if not wanted.strip("·"):
            return [self.ids[query]] if query in self.ids else []
        found = [i for i, token in enumerate(self._folded) if wanted in token]
        bare = wanted.lstrip("·")

        def rank(token_id: int) -> tuple[int, int]:
            token = self._folded[token_id]
            is_start = token.startswith(wanted) or token.lstrip("·").startswith(bare)
            return 0 if token == wanted else 1 if token.lstrip("·") == bare else 2 if is_start else 3, token_id

        return sorted(found, key=rank)[:most]

    def find_id(self, query: str) -> int:
        """Return the id in a text such as ``#300``.

        Raises:
            InputError: the text has another form, or no token has that id.
        """
        token_id = id_in(query)
        if token_id is None:
            raise InputError(f"{query!r} is no id; write it as #300")
        if token_id >= self.n_ids:
            shown = query if len(query) <= LONGEST_SHOWN else f"{query[:LONGEST_SHOWN]}..."
            raise InputError(f"{self.name} has no id {shown}; its largest is #{self.n_ids - 1}")
        if self.tokens[token_id] is None:
            raise InputError(f"id {token_id} of {self.name} is a gap: no token has it")
        return token_id

    def find(self, query: str) -> int:
        """Return the id that a user means: the raw token, else a text that encodes to one token, else ``#id``.

        Raises:
            InputError: nothing fits; the message names what the text encodes to, or the largest id.
        """
        if query in self.ids:
            return self.ids[query]
        encoded = self.encode(query) if query else []
        if len(encoded) == 1 and encoded[0] != self.roles.get("unk"):
            return encoded[0]
        if id_in(query) is not None:
            return self.find_id(query)
        pieces = ", ".join(repr(self.tokens[i]) for i in encoded[:8])
        pieces += ", ..." if len(encoded) > 8 else ""
        told = f"it encodes to {len(encoded)} tokens: {pieces}" if encoded else "it encodes to nothing"
        raise InputError(f"{query!r} is no token of {self.name} ({told}); name one of them, or #id")


def id_in(text: str) -> int | None:
    """Return the id in a text such as ``#300``, at most ``LARGEST_ID``, or ``None`` where it has another form."""
    match = ID.fullmatch(text)
    if match is None:
        return None
    digits = match[1].lstrip("0") or "0"
    return int(digits) if len(digits) < len(str(LARGEST_ID)) else LARGEST_ID


def token_ids(vocabulary: Vocabulary, n_rows: int) -> np.ndarray:
    """Return the ids that hold a token and have a row, finite or not, ascending."""
    return np.array([i for i, token in enumerate(vocabulary.tokens[:n_rows]) if token is not None], dtype=np.int64)
