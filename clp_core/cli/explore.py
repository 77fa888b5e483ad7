"""The commands that look at embeddings: ``clp neighbors``, ``agreement``, ``near-duplicates`` and ``project``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clp_core.cli.output import Json, echo, emit, print_table, terminal_progress, written
from clp_core.errors import InputError
from clp_core.files.atomic import check_writable, whole_file
from clp_core.geometry.explore_options import AgreementOptions, NearDuplicatesOptions, NeighborsOptions
from clp_core.geometry.project_options import ProjectOptions
from clp_core.workspace import Workspace

if TYPE_CHECKING:
    from clp_core.geometry.embedding_cache import EmbeddingCache


def neighbors_command(options: NeighborsOptions, as_json: Json = False) -> None:
    """Show the nearest tokens of tokens by the cosine of their input embeddings."""
    import numpy as np

    from clp_core.checkpoints.checkpoint import Checkpoint
    from clp_core.checkpoints.finite import CURE, check_rows, rows_message
    from clp_core.embeddings.nearest import nearest
    from clp_core.embeddings.row_source import non_finite_rows
    from clp_core.tokenization.vocabulary import Vocabulary, token_ids

    checkpoint = Checkpoint.open(options.model)
    vocabulary = Vocabulary.open(checkpoint.folder)
    ids = [vocabulary.find(token) for token in options.tokens]
    rows = checkpoint.rows("input")
    without = [i for i in ids if i >= rows.shape[0]]
    if without:
        raise InputError(f"token {without[0]} has no row: {checkpoint.folder} has {rows.shape[0]} rows")
    check_rows(rows, np.unique(ids), "input", str(checkpoint.folder), vocabulary)
    everything = token_ids(vocabulary, rows.shape[0])
    left_out = non_finite_rows(rows, everything)
    if len(left_out):
        message = rows_message(left_out, "input", str(checkpoint.folder), vocabulary)
        echo(f"warning: {message} and left out: {CURE}", err=True)
    base = np.setdiff1d(everything, left_out)
    cosines, found = nearest(rows.take(np.array(ids)), rows.take(base), options.k + 1)
    result = []
    for token_id, row, near in zip(ids, cosines, base[found], strict=True):
        pairs = [(int(i), float(c)) for i, c in zip(near, row, strict=True) if i != token_id][: options.k]
        listed = [{"token": vocabulary.tokens[i], "id": i, "cosine": c} for i, c in pairs]
        result.append({"token": vocabulary.tokens[token_id], "id": token_id, "neighbors": listed})

    def show(result: dict[str, Any]) -> None:
        for token in result["tokens"]:
            print_table(
                f"{token['token']!r} (id {token['id']})",
                ["token", "id", "cosine"],
                [list(n.values()) for n in token["neighbors"]],
            )

    emit({"tokens": result, "left_out": left_out.tolist()}, as_json, show)


def warn(*prepared: EmbeddingCache) -> list[int]:
    """Print which rows of models are left out as they are not finite, and return their ids."""
    for model in prepared:
        for warning in model.warnings:
            echo(f"warning: {warning}", err=True)
    return sorted({int(i) for model in prepared for i in model.non_finite("input")})


def project_command(options: ProjectOptions, as_json: Json = False) -> None:
    """Lay out a model's input embeddings in two dimensions."""
    from clp_core.geometry.embedding_cache import EmbeddingCache, prepare
    from clp_core.geometry.layout import project
    from clp_core.hub.resolve import locate

    started = time.perf_counter()
    cache = Workspace.current().cache
    output = Path(options.output)
    if not output.absolute().parent.is_dir():
        raise InputError(f"there is no folder {output.absolute().parent}; make it first")
    check_writable(output)
    folder = locate(options.model)
    was_prepared = EmbeddingCache.find(folder, cache) is not None  # which is when the layout by PCA was made
    with terminal_progress():
        prepared = prepare(folder, cache)
        table, cached = project(prepared, options.method, cache, options.settings)
    cached = cached and was_prepared
    with whole_file(output) as part:
        table.to_parquet(part, index=False)
    seconds = round(time.perf_counter() - started, 3)
    result = {"output": str(output), "points": len(table), "seconds": seconds, "cached": cached}
    result["left_out"] = warn(prepared)
    emit(
        result,
        as_json,
        lambda found: echo(f"{found['points']:,} points in {found['seconds']} s: {found['output']}"),
    )


def agreement_command(options: AgreementOptions, as_json: Json = False) -> None:
    """Say how far two models of one tokenizer agree on every token's nearest neighbours (the paper's Figure 1)."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.geometry.neighbor_graph import make_agreement
    from clp_core.hub.resolve import locate

    cache = Workspace.current().cache
    with terminal_progress():
        prepared = prepare(locate(options.first), cache), prepare(locate(options.second), cache)
        found = make_agreement(*prepared, cache, options.k)
    left_out = warn(*prepared)

    def show(result: dict[str, Any]) -> None:
        echo(
            f"{result['tokens']:,} tokens have on average {written(100 * result['mean'])} % of their {result['k']} "
            f"nearest neighbours in common (by chance {written(100 * result['by_chance'])} %)"
        )
        print_table("", ["in common", "tokens"], [[i, count] for i, count in enumerate(result["histogram"])])

    pair = {"first": options.first, "second": options.second}
    emit({**pair, **found.to_json(), "left_out": left_out}, as_json, show)


def near_duplicates_command(options: NearDuplicatesOptions, as_json: Json = False) -> None:
    """List the tokens whose row is nearly that of another token; the pages show them among the rows at risk."""
    from clp_core.geometry.embedding_cache import prepare
    from clp_core.geometry.neighbor_graph import make_graph
    from clp_core.hub.resolve import locate

    cache = Workspace.current().cache
    prepared = prepare(locate(options.model), cache)
    with terminal_progress():
        graph = make_graph(prepared, cache)
    vocabulary, left_out = prepared.vocabulary, warn(prepared)
    rows = [
        {
            "token": vocabulary.tokens[int(graph.ids[place])],
            "id": int(graph.ids[place]),
            "nearest": vocabulary.tokens[int(graph.near[place, 0])],
            "nearest_id": int(graph.near[place, 0]),
            "cosine": float(graph.cosines[place, 0]),
        }
        for place in graph.ids.searchsorted(graph.near_duplicates(options.above)).tolist()
    ]

    def show(result: dict[str, Any]) -> None:
        print_table("", ["token", "id", "nearest", "its id", "cosine"], [list(r.values()) for r in result["tokens"]])
        echo(f"{len(result['tokens']):,} of {result['of']:,} tokens")

    found = {"model": options.model, "above": options.above, "of": len(graph.ids), "left_out": left_out}
    emit({**found, "tokens": rows}, as_json, show)
