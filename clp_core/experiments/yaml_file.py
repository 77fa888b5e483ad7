"""YAML files whose values stay texts: the option classes know which of them are numbers or switches.

YAML 1.1 itself guesses: it reads ``3e-4`` as a text, ``no`` and ``off`` as false, ``12:00:00`` as 43,200, ``010`` as 8
and ``2024-01-01`` as a date.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from clp_core.errors import InputError

MAX_VALUES = 10_000
MAX_DEPTH = 20
NULL, MERGE, TEXT = "tag:yaml.org,2002:null", "tag:yaml.org,2002:merge", "tag:yaml.org,2002:str"
TAGS = (NULL, MERGE, TEXT, "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")


class TextLoader(yaml.SafeLoader):
    """Reads every value as a text but empty ones, and ``<<``, which merges a table."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag in (NULL, MERGE)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def read_yaml(file: Path) -> Any:
    """Read a YAML file into tables, lists and texts.

    Raises:
        InputError: it is not valid YAML, names something twice, or is too large or deep when its aliases are expanded.
    """
    try:
        loader = TextLoader(file.read_text(encoding="utf-8"))
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            values_in(node, {}, 0)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"it is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise InputError(f"it is nested more than {MAX_DEPTH} levels deep; write it flatter") from error


def values_in(node: yaml.Node, known: dict[int, int | None], depth: int) -> int:
    """Count the values of a node with its aliases expanded.

    Args:
        node: a value, list or table.
        known: counts of the nodes seen so far by their identity; ``None`` for those that are being counted.
        depth: lists and tables around it.

    Raises:
        InputError: there are too many or too deep ones, an alias stands within itself, a name stands twice in a table,
            or a value has a tag.
    """
    line = node.start_mark.line + 1
    if id(node) in known and known[id(node)] is None:
        raise InputError(f"line {line}: this value refers to itself by an alias; write it out")
    count = known.get(id(node))
    if count is None:
        if depth > MAX_DEPTH:
            raise InputError(f"line {line}: this is nested more than {MAX_DEPTH} levels deep; write it flatter")
        if node.tag not in TAGS:
            raise InputError(f"line {line}: the tag {node.tag} is not supported; leave it out")
        known[id(node)] = None
        parts = list(node.value) if isinstance(node, yaml.SequenceNode) else []
        if isinstance(node, yaml.MappingNode):
            refuse_twice(node)
            parts = [part for pair in node.value for part in pair]
        count = known[id(node)] = 1 + sum(values_in(part, known, depth + 1) for part in parts)
    if count > MAX_VALUES:
        raise InputError(f"line {line}: there are more than {MAX_VALUES:,} values here; use fewer, and fewer aliases")
    return count


def refuse_twice(node: yaml.MappingNode) -> None:
    """Refuse a table with a name that stands there twice.

    Raises:
        InputError: there is one.
    """
    seen: dict[str, int] = {}
    for key, _ in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode):
            raise InputError(f"line {line}: a list or table is not a name; write it as in name: value")
        if key.value in seen:
            raise InputError(f"line {line}: {key.value} stands in line {seen[key.value]} already; keep one of them")
        seen[key.value] = line
