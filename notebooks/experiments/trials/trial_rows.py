"""The candidates of ``trials.py``: each a short function of a context and ids, or a step on a whole table."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import optimize, sparse
from trial_data import (
    Blocks,
    Candidate,
    Data,
    Fit,
    anchor_rows,
    decomposed,
    from_features,
    nearest_residual,
    ridge,
    scaled,
    summed,
)

from clp_core.evaluation.bits_per_byte import load_model
from clp_core.initializers import initializer
from clp_core.initializers.base import Context
from clp_core.transfer import heldout_anchors
from clp_core.transfer.method_comparison import parse_method

log = logging.getLogger(__name__)
CANDIDATES: dict[str, Candidate] = {}
"""All by name, filled by ``trials.py``."""


def product_method(text: str) -> Candidate:
    """Return a method of the product as a candidate."""
    _, chain = parse_method(text)
    name = chain.names[0]

    def rows(_: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        return initializer(name).fit(replace(context, settings=chain.settings_of(name))).rows(ids)

    return rows


def weighted(weight: Callable[[np.ndarray], np.ndarray], near: int = 0) -> Candidate:
    """Return ``linear`` with anchors weighted by a function of their count in the text."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        a = weight(data.counts[context.anchor_ids] + 0.5)
        a = np.maximum(a / a.mean(), 1e-3)
        e, x = anchor_rows(context), data.helper
        fit = ridge(e, from_features(x, ids, context.anchor_ids, a), a)
        return nearest_residual(fit, e, x, ids, context.anchor_ids) if near else fit.predicted

    return rows


def kernel(width: float, share: float, near: int = 0) -> Candidate:
    """Return kernel ridge: linear plus ``share`` of RBF with ``width`` median distances, on standardised rows."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        anchors, e = context.anchor_ids, anchor_rows(context)
        x = scaled(data.helper, anchors)
        both = np.concatenate([anchors, ids])
        inner = x[both] @ x[anchors].T
        squares = (x**2).sum(1)
        distances = np.maximum(squares[both][:, None] + squares[anchors] - 2 * inner, 0)
        median = np.median(distances[: len(anchors)])
        k = (1 - share) * inner + share * np.exp(-distances / (2 * width**2 * median))
        fit = ridge(e, decomposed(k[: len(anchors)], k[len(anchors) :]))
        return nearest_residual(fit, e, data.helper, ids, anchors) if near else fit.predicted

    return rows


def joint(blocks: Blocks, near: str = "", by_block: bool = False, k: int = 16, t: float = 0.1) -> Candidate:
    """Return ridge on blocks of features beside the helper row, each scaled to length 1.

    Args:
        blocks: the further features.
        near: by what the nearest anchors are found whose residual is added: ``row``, ``joint``, or empty for none.
        by_block: a weight for every block by leave-one-out, one block after the other.
        k: nearest anchors.
        t: temperature.
    """

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        anchors, e = context.anchor_ids, anchor_rows(context)
        parts = [scaled(block, anchors) for block in (data.helper, *blocks(data, context))]
        factors = np.ones(len(parts))

        def fit(chosen: np.ndarray) -> tuple[Fit, np.ndarray]:
            x = np.concatenate([f * part for f, part in zip(chosen, parts, strict=True)], axis=1)
            return ridge(e, from_features(x, ids, anchors)), x

        best, x = fit(factors)
        for i in range(len(parts)) if by_block else ():
            for factor in (0.0, 0.3, 0.6, 1.7, 3.0):
                tried = factors.copy()
                tried[i] = factor
                found, wide = fit(tried)
                if found.error < best.error:
                    best, x, factors = found, wide, tried
        if not near:
            return best.predicted
        return nearest_residual(best, e, data.helper if near == "row" else x, ids, anchors, k, t)

    return rows


def source_next(data: Data, context: Context) -> list[np.ndarray]:
    """Return the mean of the source's last states where a token comes next, with first rows by ``linear``."""
    key = ("next", context.anchor_ids.tobytes())
    if key not in data.kept:
        some = data.blocks[: data.n_source_blocks]
        states = data.source_states(data.all_rows(context, CANDIDATES["linear:neighbours=16"]), some)
        n = len(data.helper)
        counts = np.bincount(some[:, 1:].ravel(), minlength=n).astype(np.float64)
        data.kept[key] = data.smooth(summed(states[:, :-1], some[:, 1:], n), counts)
    return [data.kept[key]]


def piece_means(data: Data, context: Context) -> list[np.ndarray]:
    """Return the mean source row of each token's pieces, as ``two-view`` takes it, without the traits."""
    weights = data.pair.pieces.of(np.arange(len(data.helper)))
    assert context.source_rows is not None
    used, local = np.unique(weights.indices, return_inverse=True)
    table = sparse.csr_array((weights.data, local, weights.indptr), (weights.shape[0], len(used)))
    means = table @ context.source_rows.take(used).astype(np.float64)
    bare = np.diff(weights.indptr) == 0
    means[bare] = means[context.anchor_ids][~bare[context.anchor_ids]].mean(0)
    return [means]


def whitened(kind: str, shrink: float = 0.1, k: int = 32) -> Candidate:
    """Return ``clp``, ``clp-sparse`` or ``clp-topk`` on whitened helper rows (``raw-`` keeps their mean)."""
    method = {"clp": "clp", "sparse": "clp-sparse", "topk": f"clp-topk:k={k}"}[kind]

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        x = data.helper - data.helper[context.anchor_ids].mean(0)
        covariance = x.T @ x / len(x)
        values, turn = np.linalg.eigh(covariance)
        x = x @ (turn / np.sqrt(values + shrink * values.mean())) @ turn.T
        if kind == "clp":  # rows less their mean sum to 0, and the rule divides by the sum
            x = x + x.std() * np.sign(data.helper[context.anchor_ids].mean(0))
        return product_method(method)(data, replace(context, helper_rows=Held(x.astype(np.float32))), ids)

    return rows


@dataclass(frozen=True)
class Held:
    """Rows in memory."""

    values: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows and their width."""
        return self.values.shape[0], self.values.shape[1]

    def take(self, ids: np.ndarray) -> np.ndarray:
        """Return some rows."""
        return np.asarray(self.values[ids])


def prefix_mean(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
    """Return the mean of the anchors with the longest common prefix (3 bytes or more), else of all."""
    e, anchors = anchor_rows(context), context.anchor_ids
    texts = [data_.strip() if data_ else b"" for data_ in data.pair.overlap.target.token_bytes]
    table: dict[bytes, list[int]] = {}
    for position, anchor in enumerate(anchors):
        for end in range(3, len(texts[anchor]) + 1):
            table.setdefault(texts[anchor][:end], []).append(position)
    found = np.tile(e.mean(0), (len(ids), 1))
    for line, i in enumerate(ids):
        known = next((table[texts[i][:end]] for end in range(len(texts[i]), 2, -1) if texts[i][:end] in table), None)
        if known:
            found[line] = e[known].mean(0)
    return found


def stacked(*names: str) -> Candidate:
    """Return a mix of candidates about the anchors' mean, with weights fitted on five inner folds; one is shrunk."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        made, truth = [], []
        for fold in range(5):
            inner, hidden = heldout_anchors.hide(context, 7, 0.2, fold)
            middle = anchor_rows(inner).mean(0)
            found = [CANDIDATES[name](data, inner, context.anchor_ids[hidden]) - middle for name in names]
            made.append(np.stack([part.ravel() for part in found], axis=1))
            truth.append((anchor_rows(context)[hidden] - middle).ravel())
        wide, long = np.concatenate(made), np.concatenate(truth)
        gram = wide.T @ wide
        root = np.linalg.cholesky(gram + 1e-9 * np.trace(gram) * np.eye(len(names)))
        shares, _ = optimize.nnls(root.T, np.linalg.solve(root, wide.T @ long))
        log.info("stack of %s: %s", ", ".join(names), np.round(shares, 3))
        middle = anchor_rows(context).mean(0)
        parts = zip(shares, names, strict=True)
        return middle + sum(share * (CANDIDATES[name](data, context, ids) - middle) for share, name in parts)

    return rows


def times(name: str, factor: float) -> Candidate:
    """Return a candidate's rows with their distance from the anchors' mean multiplied."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        middle = anchor_rows(context).mean(0)
        return middle + factor * (CANDIDATES[name](data, context, ids) - middle)

    return rows


def norm_by_frequency(name: str) -> Candidate:
    """Return rows whose length about the mean follows the anchors' as a function of count and bytes, half way."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        e = anchor_rows(context)
        middle = e.mean(0)
        traits = np.column_stack(
            [np.ones(len(data.helper)), np.log1p(data.counts), np.log1p(data.pair.overlap.target.lengths)]
        )
        known = np.log(np.linalg.norm(e - middle, axis=1) + 1e-9)
        solved = np.linalg.lstsq(traits[context.anchor_ids], known, rcond=None)[0]
        found = CANDIDATES[name](data, context, ids) - middle
        lengths = np.linalg.norm(found, axis=1, keepdims=True)
        return middle + found * np.sqrt(np.exp(traits[ids] @ solved)[:, None] / np.maximum(lengths, 1e-9))

    return rows


def low_rank(rank: int, name_blocks: Blocks | None = None) -> Candidate:
    """Return reduced-rank ridge: predictions projected on the main directions of the fit."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        anchors, e = context.anchor_ids, anchor_rows(context)
        more = name_blocks(data, context) if name_blocks else []
        x = np.concatenate([scaled(block, anchors) for block in (data.helper, *more)], axis=1)
        fit = ridge(e, from_features(x, ids, anchors))
        _, _, turn = np.linalg.svd(fit.fitted - e.mean(0), full_matrices=False)
        return e.mean(0) + (fit.predicted - e.mean(0)) @ turn[:rank].T @ turn[:rank]

    return rows


def logit_space(near: int = 0) -> Candidate:
    """Return ``linear`` with lambda by the error in logits: errors times the root of the source states' moment."""

    def rows(data: Data, context: Context, ids: np.ndarray) -> np.ndarray:
        anchors, e = context.anchor_ids, anchor_rows(context)
        key = ("moment", anchors.tobytes())
        if key not in data.kept:
            first = data.all_rows(context, CANDIDATES["linear"])
            states = data.source_states(first, data.blocks[: min(40, data.n_source_blocks)])
            data.kept[key] = np.linalg.cholesky(np.cov(states.reshape(-1, e.shape[1]).T) + 1e-6 * np.eye(e.shape[1]))
        fit = ridge(e, from_features(data.helper, ids, anchors), metric=data.kept[key])
        return nearest_residual(fit, e, data.helper, ids, anchors) if near else fit.predicted

    return rows


Step = Callable[[Data, Context, np.ndarray], tuple[np.ndarray, np.ndarray | None]]


def predictions(data: Data, rows: np.ndarray, output: np.ndarray, blocks: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the source predicts on blocks: mean state, second moment, mean prediction, and what rows lack.

    ``lack`` is the gradient of the log likelihood by the output rows: states where a token came, less expected ones.
    """
    states = data.source_states(rows, blocks)
    n, width = rows.shape
    expected, p = np.zeros((n, width)), np.zeros(n)
    for state in states:
        logits = torch.from_numpy(state[:-1] @ np.float32(output).T)
        q = torch.softmax(logits, -1).numpy()
        expected += q.T @ state[:-1]
        p += q.sum(0)
    flat = states[:, :-1].reshape(-1, width).astype(np.float64)
    came = summed(states[:, :-1], blocks[:, 1:], n)
    return {"mean": flat.mean(0), "moment": flat.T @ flat / len(flat), "p": p / len(flat), "lack": came - expected,
            "seen": np.array(len(flat))}  # fmt: skip


def calibrated(which: str, untied: bool = False, rounds: int = 4) -> Step:
    """Return a step that shifts rows along the mean state until the mean prediction is the text's unigram.

    Args:
        which: rows that are shifted: ``all``, ``missing``, or ``one`` number for all missing rows.
        untied: leave the input rows as they are.
        rounds: passes over the text.
    """

    def step(data: Data, context: Context, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        blocks = data.blocks[:: max(1, len(data.blocks) // 50)][: min(50, data.n_source_blocks)]
        wanted = (data.counts + 0.3) / (data.counts + 0.3).sum()
        missing = np.ones(len(rows), bool)
        missing[context.anchor_ids] = False
        inputs, output = rows.copy(), rows.copy()
        for _ in range(rounds):
            found = predictions(data, inputs, output, blocks)
            more = np.log(wanted / found["p"])
            if which == "one":
                odds = [values[missing].sum() / values[~missing].sum() for values in (wanted, found["p"])]
                more = np.full(len(rows), np.log(odds[0] / odds[1]))
            more = np.where(missing | (which == "all"), np.clip(more, -3, 3), 0)
            output = output + more[:, None] * found["mean"] / (found["mean"] @ found["mean"])
            inputs = inputs if untied else output
        return inputs, output if untied else None

    return step


def newton(share: float, prior: float, untied: bool = False) -> Step:
    """Return one damped Newton step of the missing rows in their output part, from the text, the body as it is."""

    def step(data: Data, context: Context, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        found = predictions(data, rows, rows, data.blocks[: data.n_source_blocks])
        moment = found["moment"] + 0.1 * np.trace(found["moment"]) / rows.shape[1] * np.eye(rows.shape[1])
        came = data.counts / data.counts.sum() * found["seen"]
        occasions = np.maximum(came, found["p"] * found["seen"]) + prior
        moved = share * np.linalg.solve(moment, found["lack"].T).T / occasions[:, None]
        moved[context.anchor_ids] = 0
        return (rows, rows + moved) if untied else (rows + moved, None)

    return step


def matched(share: float, ridge_share: float = 0.1) -> Step:
    """Return a step to rows whose logits are the helper's, then calibrated.

    With M the ridge regression from the source's states to the helper's at the same places, ``s_t (M h_v)`` is nearly
    the helper's logit; missing rows are moved this share of the way to ``M h_v``.
    """

    def step(data: Data, context: Context, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        blocks = data.blocks[: data.n_source_blocks]
        rows, _ = calibrated("all")(data, context, rows)
        states = data.source_states(rows, blocks).reshape(-1, rows.shape[1]).astype(np.float64)
        helper = load_model(data.pair.helper.folder)
        with torch.no_grad():
            told = np.concatenate([helper.base_model(torch.from_numpy(part)).last_hidden_state.numpy()
                                   for part in np.array_split(blocks, max(1, len(blocks) // 8))])  # fmt: skip
        told = told.reshape(len(states), -1)
        states, told = states - states.mean(0), told - told.mean(0)
        gram = states.T @ states
        gram += ridge_share * np.trace(gram) / len(gram) * np.eye(len(gram))
        made = data.helper @ np.linalg.solve(gram, states.T @ told).T
        missing = np.setdiff1d(np.arange(len(rows)), context.anchor_ids)
        out = rows.copy()
        middle = rows[missing].mean(0)
        out[missing] += share * (made[missing] - made[missing].mean(0) - (rows[missing] - middle))
        return calibrated("all")(data, context, out)

    return step


def means(data: Data, _: Context) -> list[np.ndarray]:
    """Return the helper's contextual means, one block a layer, and where the token comes next."""
    return data.context_means


def next_mean(data: Data, _: Context) -> list[np.ndarray]:
    """Return only the mean of the last state where the token comes next."""
    return data.context_means[-1:]


def layers_alone(data: Data, _: Context) -> list[np.ndarray]:
    """Return the helper's states for the token alone."""
    return data.alone


def log_count(data: Data, _: Context) -> list[np.ndarray]:
    """Return the logarithm of the count as one feature, and its square."""
    f = np.log1p(data.counts)[:, None]
    return [np.concatenate([f, f**2 / 10], axis=1)]
