"""The heaviest anchors of a mix, against all weights multiplied out in float64."""

import numpy as np
import pytest

from clp_core.checkpoints.safetensors_reader import GAP_BYTES, TensorEntry, TensorRows
from clp_core.embeddings import row_source
from clp_core.embeddings.row_source import ArrayRows
from clp_core.initializers import initializer
from clp_core.initializers.base import Context
from clp_core.initializers.smoother import RUN, largest_entries


@pytest.mark.parametrize(
    ("shape", "n"), [((200, 5000), 24), ((50, 130), 24), ((64, 25 * RUN), 3), ((7, 40 * RUN + 9), 20)]
)
def test_largest_entries_are_those_of_a_full_sort_also_where_many_are_equal(shape, n):
    values = np.abs(np.random.default_rng(1).standard_normal(shape)).astype(np.float32)
    values[3], values[4], values[5, ::2] = 0, 1, 0
    values[6, -1] = 9  # in the columns after the last whole run
    found = largest_entries(values, n)
    assert all(len(set(row)) == n for row in found.tolist())
    expected = np.sort(values, axis=1)[:, ::-1][:, :n]
    np.testing.assert_array_equal(np.sort(np.take_along_axis(values, found, axis=1), axis=1)[:, ::-1], expected)


@pytest.mark.parametrize("name", ["clp", "linear", "linear:neighbours=4", "clp-topk:k=5", "clp-sparse"])
@pytest.mark.parametrize("cache_bytes", [1 << 30, 64 << 10])
def test_heaviest_anchors_are_those_of_the_weights_multiplied_out(name, cache_bytes, monkeypatch):
    monkeypatch.setattr(row_source, "CACHE_BYTES", cache_bytes)  # the smaller one holds a part of the points at a time
    r = np.random.default_rng(2)
    helper = r.standard_normal((3000, 24)).astype(np.float32) + 0.3
    anchors = np.arange(0, 3000, 2)
    rows = ArrayRows(r.standard_normal((1500, 8)).astype(np.float32))
    method, *settings = name.split(":")
    given = {key: float(value) for key, value in (setting.split("=") for setting in settings)}
    fitted = initializer(method).fit(Context(ArrayRows(helper), anchors, rows, settings=given))
    ids = np.arange(1, 400, 2)
    mix = fitted.mix(ids)
    top, weights = fitted.top(mix, 16), fitted.weights(ids)
    heaviest = np.sort(np.abs(weights), axis=1)[:, ::-1][:, :16]
    np.testing.assert_allclose(np.abs(top.weights), heaviest, rtol=2e-5, atol=1e-8)
    np.testing.assert_allclose(top.total, np.abs(weights).sum(axis=1), rtol=2e-5)
    np.testing.assert_allclose(top.signed, weights.sum(axis=1), rtol=1e-4, atol=1e-6)
    kept = np.take_along_axis(weights, np.maximum(top.columns, 0), axis=1)
    np.testing.assert_allclose(np.where(top.columns >= 0, kept, 0), top.weights, rtol=2e-4, atol=1e-7)


def test_rows_are_read_in_any_order_near_and_far(tmp_path):
    values = np.random.default_rng(3).standard_normal((5000, 64)).astype(np.float32)
    file = tmp_path / "rows.bin"
    file.write_bytes(b"head" + values.tobytes())
    rows = TensorRows(TensorEntry(file, "x", "F32", values.shape, 4, 4 + values.nbytes))
    far = GAP_BYTES // 256 + 1  # rows of 256 bytes, just too far apart to be read together
    for ids in ([], [4999], [3, 1, 2, 2, 0], list(range(0, 5000, far)), list(range(4000, 10, -7)), [0, 4999, 0]):
        np.testing.assert_array_equal(rows.take_exact(np.array(ids, dtype=np.int64)), values[ids])
