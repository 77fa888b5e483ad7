"""What the trials of ``trials.py`` look at: a pair, its text of training, and ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from scipy import sparse

from clp_core.evaluation.bits_per_byte import load_model
from clp_core.initializers.base import Context
from clp_core.transfer.model_pair import ModelPair

LAMBDAS = np.logspace(-6, 3, 46)
BLOCK = 256
PRIOR = 1.0
"""Occurrences at the mean that every token is given beside its own."""


@dataclass
class Data:
    """One pair and the text of its training.

    Attributes:
        pair: source and helper.
        blocks: the text in target tokens, ``[m, 256]``.
        n_source_blocks: how many of them the source's body may read.
        model: the source, whose rows are exchanged.
    """

    pair: ModelPair
    blocks: np.ndarray
    n_source_blocks: int
    model: Any
    kept: dict[Any, np.ndarray] = field(default_factory=dict)

    @cached_property
    def helper(self) -> np.ndarray:
        """Helper rows, float64 ``[n_target, d]``."""
        return self.pair.helper.rows("input").take(np.arange(self.pair.overlap.target.n_ids)).astype(np.float64)

    @cached_property
    def counts(self) -> np.ndarray:
        """How often each token stands in the text, ``[n_target]``."""
        return np.bincount(self.blocks.ravel(), minlength=len(self.helper)).astype(np.float64)

    @cached_property
    def context_means(self) -> list[np.ndarray]:
        """Means of the helper's states: of each layer at the token, of the last where the token comes next."""
        helper = load_model(self.pair.helper.folder)
        n_layers = int(helper.config.n_layer)
        sums = [np.zeros_like(self.helper) for _ in range(n_layers + 1)]
        for part in np.array_split(self.blocks, max(1, len(self.blocks) // 16)):
            with torch.no_grad():
                states = helper.base_model(torch.from_numpy(part), output_hidden_states=True).hidden_states[1:]
            for layer, state in enumerate(states):
                sums[layer] += summed(state.numpy(), part, len(self.helper))
            sums[-1] += summed(states[-1][:, :-1].numpy(), part[:, 1:], len(self.helper))
        return [self.smooth(total) for total in sums]

    @cached_property
    def alone(self) -> list[np.ndarray]:
        """The helper's states of each layer for the token alone, after the end-of-text token; no text is needed."""
        helper = load_model(self.pair.helper.folder)
        ids = np.column_stack([np.zeros(len(self.helper), np.int64), np.arange(len(self.helper))])
        with torch.no_grad():
            states = helper.base_model(torch.from_numpy(ids), output_hidden_states=True).hidden_states[1:]
        return [state[:, 1].double().numpy() for state in states]

    @cached_property
    def bigrams(self) -> np.ndarray:
        """Left and right neighbours in the text among the 1,000 commonest tokens: PPMI, by SVD in 64 numbers each."""
        n, common = len(self.helper), np.argsort(-self.counts)[:1000]
        left, right = self.blocks[:, :-1].ravel(), self.blocks[:, 1:].ravel()
        sides = []
        for own, other in ((left, right), (right, left)):
            table = sparse.csr_array((np.ones(len(own)), (own, other)), shape=(n, n))[:, common].toarray()
            expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
            ppmi = np.maximum(np.log(np.maximum(table, 1e-9) / np.maximum(expected, 1e-9)), 0) * (table > 0)
            u, s, _ = sparse.linalg.svds(sparse.csr_array(ppmi), 64, random_state=0)
            sides.append(u * np.sqrt(s))
        return np.concatenate(sides, axis=1)

    @cached_property
    def spelling(self) -> np.ndarray:
        """Hashed 2- to 4-grams of each token's bytes, by SVD in 64 numbers."""
        lines, columns = [], []
        for i, data in enumerate(self.pair.overlap.target.token_bytes):
            text = b"\x02" + (data or b"") + b"\x03"
            grams = [hash_of(text[j : j + n]) for n in (2, 3, 4) for j in range(len(text) - n + 1)]
            lines += [i] * len(grams)
            columns += grams
        table = sparse.csr_array((np.ones(len(lines)), (lines, columns)), shape=(len(self.helper), 1 << 14))
        rarity = np.log(len(self.helper) / np.maximum((table > 0).sum(axis=0), 1))
        table = sparse.csr_array(table.multiply(rarity[None, :]))
        lengths = np.sqrt(table.power(2).sum(axis=1))
        u, s, _ = sparse.linalg.svds(sparse.diags_array(1 / np.maximum(lengths, 1e-9)) @ table, 64, random_state=0)
        return np.asarray(u * s)

    def smooth(self, sums: np.ndarray, counts: np.ndarray | None = None) -> np.ndarray:
        """Return means from sums, drawn to the mean of all where a token is rare."""
        found = self.counts if counts is None else counts
        return (sums + PRIOR * sums.sum(0) / found.sum()) / (found[:, None] + PRIOR)

    def set_rows(self, rows: np.ndarray, output: np.ndarray | None = None) -> None:
        """Give the source these rows; other output rows untie them."""
        layer, bench = self.model.get_output_embeddings(), torch.nn.Parameter
        self.model.get_input_embeddings().weight = bench(torch.from_numpy(np.float32(rows)), requires_grad=False)
        shown = rows if output is None else output
        layer.weight = bench(torch.from_numpy(np.float32(shown)), requires_grad=False)

    def source_states(self, rows: np.ndarray, blocks: np.ndarray) -> np.ndarray:
        """Return the source's last states on blocks of the text with these rows, ``[b, 256, D]``."""
        self.set_rows(rows)
        with torch.no_grad():
            return np.concatenate([self.model.base_model(torch.from_numpy(part)).last_hidden_state.numpy()
                                   for part in np.array_split(blocks, max(1, len(blocks) // 8))])  # fmt: skip

    def all_rows(self, context: Context, candidate: Candidate) -> np.ndarray:
        """Return the anchors' rows and a candidate's for all other tokens, ``[n_target, D]``."""
        others = np.setdiff1d(np.arange(len(self.helper)), context.anchor_ids)
        rows = np.zeros((len(self.helper), context.needed_anchor_rows().shape[1]))
        rows[context.anchor_ids] = anchor_rows(context)
        rows[others] = candidate(self, context, others)
        return rows


Candidate = Callable[[Data, Context, np.ndarray], np.ndarray]
Blocks = Callable[[Data, Context], list[np.ndarray]]


def hash_of(gram: bytes) -> int:
    """Return a bucket that does not change from run to run."""
    value = 0
    for byte in gram:
        value = (value * 257 + byte + 1) % 1_000_003
    return (value * 7919 + len(gram)) % (1 << 14)


def summed(states: np.ndarray, ids: np.ndarray, n: int) -> np.ndarray:
    """Return the sums of states by id, float64 ``[n, d]``."""
    pick = sparse.csr_array((np.ones(ids.size), (ids.ravel(), np.arange(ids.size))), shape=(n, ids.size))
    return np.asarray(pick @ states.reshape(-1, states.shape[-1]).astype(np.float64))


def anchor_rows(context: Context) -> np.ndarray:
    """Return the anchors' source rows in float64."""
    return context.needed_anchor_rows().take(np.arange(context.n_anchors)).astype(np.float64)


def scaled(block: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """Return features less the anchors' mean, at root mean square length 1."""
    centred = block - block[anchors].mean(0)
    return np.asarray(centred / (np.sqrt((centred[anchors] ** 2).sum(1).mean()) or 1.0))


@dataclass(frozen=True)
class Fit:
    """A ridge regression: predictions for the wanted ids and for the anchors, and the least leave-one-out error."""

    predicted: np.ndarray
    fitted: np.ndarray
    error: float


def decomposed(kernel: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return eigenvectors U, eigenvalues and wanted coordinates of a kernel ``[n, n]`` and ``[m, n]``, centred."""
    mean = kernel.mean(0)
    centred = kernel - mean - mean[:, None] + mean.mean()
    values, u = np.linalg.eigh(centred)
    keep = values > 1e-9 * values.max()
    across = wanted - wanted.mean(1, keepdims=True) - mean + mean.mean()
    return u[:, keep], values[keep], across @ u[:, keep] / np.sqrt(values[keep])


def ridge(
    rows: np.ndarray,
    parts: tuple[np.ndarray, np.ndarray, np.ndarray],
    weights: np.ndarray | None = None,
    metric: np.ndarray | None = None,
) -> Fit:
    """Fit with lambda by leave-one-out.

    Args:
        rows: the anchors' source rows, ``[n, D]``.
        parts: U, eigenvalues and wanted coordinates of the (weighted) features.
        weights: of the anchors, mean 1.
        metric: what the error is multiplied with before lambda is chosen, ``[D, q]``.
    """
    u, values, wanted = parts
    a = np.ones(len(rows)) if weights is None else weights
    middle = (a[:, None] * rows).sum(0) / a.sum()
    targets = np.sqrt(a)[:, None] * (rows - middle)
    look = np.random.default_rng(0).standard_normal((rows.shape[1], 48)) if metric is None else metric
    seen, product = targets @ look, u.T @ targets
    projected = product @ look
    best = (np.inf, 0.0)
    for ridge_weight in LAMBDAS * values.sum() / len(values):
        share = values / (values + ridge_weight)
        left = 1 - a / a.sum() - u**2 @ share
        error = float((((seen - u @ (share[:, None] * projected)) / left[:, None]) ** 2).sum())
        best = min(best, (error, ridge_weight)) if left.min() > 1e-9 else best
    share = values / (values + best[1])
    predicted = middle + wanted @ ((np.sqrt(values) / (values + best[1]))[:, None] * product)
    return Fit(predicted, middle + (u @ (share[:, None] * product)) / np.sqrt(a)[:, None], best[0])


def from_features(
    x: np.ndarray, ids: np.ndarray, anchors: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the parts of a ridge regression on features ``[n_target, p]``."""
    a = np.ones(len(anchors)) if weights is None else weights
    mean = (a[:, None] * x[anchors]).sum(0) / a.sum()
    held = np.sqrt(a)[:, None] * (x[anchors] - mean)
    values, turn = np.linalg.eigh(held.T @ held)
    keep = values > 1e-9 * values.max()
    values, turn = values[keep], turn[:, keep]
    return held @ turn / np.sqrt(values), values, (x[ids] - mean) @ turn


def nearest_residual(
    fit: Fit, rows: np.ndarray, x: np.ndarray, ids: np.ndarray, anchors: np.ndarray, k: int = 16, t: float = 0.1
) -> np.ndarray:
    """Return predictions plus half the residual of the nearest anchors, as ``linear:neighbours=16`` has it."""
    return fit.predicted + 0.5 * near_shares(x, ids, anchors, k, t) @ (rows - fit.fitted)


def near_shares(x: np.ndarray, ids: np.ndarray, anchors: np.ndarray, k: int, t: float) -> np.ndarray:
    """Return a softmax over the k nearest anchors by centred cosine, ``[m, n]``."""
    unit = x - x[anchors].mean(0)
    unit /= np.maximum(np.linalg.norm(unit, axis=1, keepdims=True), 1e-12)
    cosines = unit[ids] @ unit[anchors].T
    far = np.partition(cosines, -k, axis=1)[:, -k, None]
    wide = np.where(cosines >= far, np.exp((cosines - cosines.max(1, keepdims=True)) / t), 0)
    return np.asarray(wide / wide.sum(1, keepdims=True))
