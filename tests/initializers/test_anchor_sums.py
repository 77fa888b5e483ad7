"""Sums over the anchors that fits share, against those made anew in float64."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import sparse

from clp_core.embeddings import row_source
from clp_core.embeddings.matmul_backend import MatmulBackend
from clp_core.embeddings.row_source import ArrayRows
from clp_core.initializers import initializer
from clp_core.initializers.anchor_sums import AnchorSums, Features
from clp_core.initializers.base import Context
from clp_core.transfer.heldout_anchors import hide

N_TARGET, WIDTH = 400, 30


class Pieces:
    """Two pieces a token, none for every seventh."""

    def __init__(self, n_source):
        r = np.random.default_rng(5)
        lists = [[] if i % 7 == 6 else r.choice(n_source, 2, replace=False) for i in range(N_TARGET)]
        lines = np.repeat(np.arange(N_TARGET), [len(x) for x in lists])
        flat = np.concatenate(lists).astype(int)
        self.matrix = sparse.csr_array((np.full(len(flat), 0.5), (lines, flat)), (N_TARGET, n_source))

    def of(self, ids):
        return self.matrix[np.asarray(ids)]

    def traits(self, ids):
        return np.column_stack([np.asarray(ids) % 2, np.asarray(ids) % 5]).astype(float)


@pytest.fixture(params=[1 << 30, 1 << 12], ids=["in memory", "read again"])
def context(request, monkeypatch):
    monkeypatch.setattr(row_source, "CACHE_BYTES", request.param)
    r = np.random.default_rng(4)
    helper = (r.standard_normal((N_TARGET, 12)) * np.logspace(0, -2, 12) + 3).astype(np.float32)
    anchors = np.sort(r.choice(N_TARGET, 250, replace=False))
    source = r.standard_normal((300, WIDTH)).astype(np.float32)
    rows = (0.3 * helper[anchors] @ r.standard_normal((12, WIDTH)) + r.standard_normal((250, WIDTH))).astype(np.float32)
    return Context(ArrayRows(helper), anchors, ArrayRows(rows), source_rows=ArrayRows(source), pieces=Pieces(300))


@pytest.mark.parametrize("n_hidden", [0, 1, 60, 249])
def test_moments_without_hidden_anchors_are_those_of_the_visible_ones(context, n_hidden):
    features = Features("helper rows", context.helper_rows)
    hidden = np.sort(np.random.default_rng(6).choice(250, n_hidden, replace=False))
    visible = np.setdiff1d(np.arange(250), hidden)
    sums = AnchorSums(context.anchor_ids, context.anchor_rows, MatmulBackend())
    moments, cross = sums.moments(features, hidden), sums.cross_moments(features, hidden)
    x = context.helper_rows.take(context.anchor_ids[visible]).astype(np.float64)
    e = context.anchor_rows.take(visible).astype(np.float64)
    centred = x - x.mean(axis=0)
    scale = np.abs(context.helper_rows.array).max() ** 2
    assert moments.count == 250 - n_hidden
    np.testing.assert_allclose(moments.mean, x.mean(axis=0), rtol=1e-7)
    np.testing.assert_allclose(moments.second, centred.T @ centred, atol=1e-6 * scale)
    np.testing.assert_allclose(cross.total, e.sum(axis=0), atol=1e-10 * 250)
    np.testing.assert_allclose(cross.cross, centred.T @ e, atol=1e-4)


@pytest.mark.parametrize("name", ["linear", "linear:neighbours=5", "two-view"])
def test_a_fit_to_a_fold_is_that_to_the_visible_anchors_alone(context, name):
    method, *settings = name.split(":")
    given = {key: float(value) for key, value in (setting.split("=") for setting in settings)}
    context = replace(context, settings=given)
    shared = []
    for fold in range(2):
        part, hidden = hide(context, 1, fold=fold)
        assert part.sums is context.sums
        ids = context.anchor_ids[hidden]
        alone = Context(
            context.helper_rows, part.anchor_ids, part.anchor_rows, settings=given, source_rows=context.source_rows,
            pieces=context.pieces,
        )  # fmt: skip
        found, expected = initializer(method).fit(part), initializer(method).fit(alone)
        np.testing.assert_allclose(found.parameters["lambda"], expected.parameters["lambda"], rtol=1e-6)
        np.testing.assert_allclose(found.rows(ids), expected.rows(ids), atol=2e-5)
        np.testing.assert_allclose(found.n_eff(ids), expected.n_eff(ids), rtol=1e-4)
        shared.append(found.rows(ids))
    assert np.abs(shared[0][:5] - shared[1][:5]).max() > 1e-3  # another fold, other anchors


def test_anchors_hidden_one_after_the_other_are_hidden_together(context):
    once = context.without(np.array([2, 3, 10]))
    twice = context.without(np.array([3])).without(np.array([2, 9]))
    np.testing.assert_array_equal(once.anchor_ids, twice.anchor_ids)
    np.testing.assert_array_equal(once.hidden, twice.hidden)
    np.testing.assert_array_equal(once.anchor_rows.take(np.arange(247)), twice.anchor_rows.take(np.arange(247)))


def test_what_is_kept_of_features_can_be_freed(context):
    features = Features("helper rows", context.helper_rows)
    sums = context.sums
    before = sums.cross_moments(features, np.array([1])).cross
    sums.moments(features, np.array([1]))
    sums.forget("helper rows")
    assert not any((sums._tables, sums._origins, sums._second, sums._cross))
    np.testing.assert_array_equal(sums.cross_moments(features, np.array([1])).cross, before)
