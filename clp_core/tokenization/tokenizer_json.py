"""Changes of a tokenizer.json, as text in and text out: no dropout, fewer tokens, special tokens as plain text."""

from __future__ import annotations

import json
from typing import Any


def without_dropout(serialized: str) -> tuple[str, float]:
    """Return a tokenizer.json without BPE dropout, and the dropout it had; 0 for none."""
    if '"dropout"' not in serialized:
        return serialized, 0.0
    description = json.loads(serialized)
    dropout = (description.get("model") or {}).get("dropout")
    if not dropout:
        return serialized, 0.0
    description["model"]["dropout"] = None
    return json.dumps(description, ensure_ascii=False), float(dropout)


def with_unknown(serialized: str, unknown: str) -> str:
    """Return a tokenizer.json whose Unigram model maps unknown characters to this piece, where it has the piece."""
    description = json.loads(serialized)
    body = description["model"]
    if body.get("type") != "Unigram":
        return serialized
    place = next((i for i, (piece, _) in enumerate(body["vocab"]) if piece == unknown), None)
    if place is None or place == body.get("unk_id"):
        return serialized
    body["unk_id"] = place
    return json.dumps(description, ensure_ascii=False)


def without_tokens(serialized: str, rows: int) -> str:
    """Return a tokenizer.json without the tokens whose ids are ``rows`` or more, in its template neither."""
    description = json.loads(serialized)
    description["added_tokens"] = [token for token in description["added_tokens"] if token["id"] < rows]
    vocab = description["model"]["vocab"]
    if isinstance(vocab, list):
        description["model"]["vocab"] = vocab[:rows]
    else:
        description["model"]["vocab"] = {token: i for token, i in vocab.items() if i < rows}
    description["post_processor"] = trimmed_template(description.get("post_processor"), rows)
    return json.dumps(description, ensure_ascii=False)


def trimmed_template(processor: dict[str, Any] | None, rows: int) -> dict[str, Any] | None:
    """Return a post-processor whose templates lack tokens with ids of ``rows`` or more."""
    if processor is None:
        return None
    if processor["type"] == "Sequence":
        inner = [trimmed_template(one, rows) for one in processor["processors"]]
        return processor | {"processors": [one for one in inner if one is not None]}
    if processor["type"] != "TemplateProcessing":
        # BERT's and RoBERTa's put the separator behind every text: without a row for it nothing is put there.
        return (
            None
            if any(i >= rows for _, i in (processor.get("sep", ("", 0)), processor.get("cls", ("", 0))))
            else processor
        )
    kept = {name: one for name, one in processor["special_tokens"].items() if max(one["ids"]) < rows}

    def pieces(template: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [piece for piece in template if "SpecialToken" not in piece or piece["SpecialToken"]["id"] in kept]

    return processor | {
        "single": pieces(processor["single"]),
        "pair": pieces(processor["pair"]),
        "special_tokens": kept,
    }


def literal(serialized: str, special: set[int]) -> str:
    """Return a tokenizer.json that reads the strings of special tokens as plain text, all ids unchanged.

    Such a token gets a name that no text holds, where it is added and where the model's vocabulary has it too (XLM-R's
    ``</s>``), together with the merges that would make it. A single character stays what it is in a text.

    Args:
        serialized: the tokenizer.json.
        special: ids of the special tokens.
    """
    description = json.loads(serialized)
    model = description["model"]
    vocab = model["vocab"]
    ids = {piece: i for i, (piece, _) in enumerate(vocab)} if isinstance(vocab, list) else dict(vocab)
    inside = {token for token, i in ids.items() if i in special}
    added = [token for token in description["added_tokens"] if token["content"] not in inside]
    description["added_tokens"] = [
        token | {"content": hidden_name(token["id"])} if token["id"] in special else token for token in added
    ]
    renamed = {token for token in inside if len(token) > 1 and token != model.get("unk_token")}
    if isinstance(vocab, list):
        model["vocab"] = [
            [hidden_name(i) if piece in renamed else piece, score] for i, (piece, score) in enumerate(vocab)
        ]
    else:
        model["vocab"] = {hidden_name(i) if token in renamed else token: i for token, i in vocab.items()}
    if model.get("merges"):
        pairs = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"]]
        model["merges"] = [[a, b] for a, b in pairs if not {a, b, a + b} & renamed]
    return json.dumps(description, ensure_ascii=False)


def hidden_name(token_id: int) -> str:
    """Return a name for a token that no text holds."""
    return f"\0{token_id}\0"
