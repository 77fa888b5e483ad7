import itertools
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from clp_core.checkpoint import Checkpoint
from clp_core.neighbors import nearest
from clp_core.prepared import Prepared, fingerprint, prepare
from clp_core.projection import pca_layout, project


def test_neighbours_are_exact_and_best_first():
    r = np.random.default_rng()
    base, queries = r.standard_normal((500, 20)), r.standard_normal((30, 20))
    base[7] = 0
    cosines, ids = nearest(queries, base, 9)
    with np.errstate(invalid="ignore"):
        full = np.nan_to_num(queries @ base.T / np.linalg.norm(queries, axis=1)[:, None] / np.linalg.norm(base, axis=1))
    np.testing.assert_allclose(cosines, np.sort(full, axis=1)[:, ::-1][:, :9], atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(full, ids, 1), cosines, atol=1e-5)


def test_more_neighbours_than_rows_gives_all_rows():
    cosines, ids = nearest(np.eye(3), np.eye(3), 10)
    assert cosines.shape == (3, 3)
    assert sorted(ids[0]) == [0, 1, 2]


def test_prepared_rows_are_the_checkpoints(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    rows = Checkpoint.open(pair[0]).rows("input")
    ids = np.arange(rows.shape[0])
    assert np.array_equal(prepared.rows("input").take(ids), rows.take(ids))
    assert Prepared.find(pair[0], tmp_path).meta == prepared.meta
    assert prepared.vocabulary.ids


def test_fingerprint_changes_with_the_content(tmp_path, pair):
    import shutil

    folder = shutil.copytree(pair[0], tmp_path / "m")
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert fingerprint(folder) != before


def test_pca_keeps_the_directions_of_most_spread():
    r = np.random.default_rng(0)
    rows = r.standard_normal((300, 10)) * np.array([9, 5, *[0.1] * 8])
    layout = pca_layout(rows)
    assert layout.shape == (300, 2)
    assert layout[:, 0].std() >= layout[:, 1].std() > 0


def test_umap_puts_neighbours_together_and_is_kept(tmp_path, demo):
    from sklearn.manifold import trustworthiness

    prepared = prepare(demo["helper"], tmp_path)
    table, cached = project(prepared, "umap", tmp_path)
    assert not cached
    again, cached = project(prepared, "umap", tmp_path)
    assert cached
    assert table.equals(again)
    sample = np.random.default_rng(0).choice(len(table), 1500, replace=False)
    rows = prepared.rows("input").take(table["id"].to_numpy()[sample])
    layout = table[["x", "y"]].to_numpy()[sample]
    shuffled = np.random.default_rng(1).permutation(layout)
    good = trustworthiness(rows, layout, n_neighbors=15, metric="cosine")
    assert good > trustworthiness(rows, shuffled, n_neighbors=15, metric="cosine") + 0.1


def use_in_order(order):
    code = f"""
import {", ".join(order)}
import numpy as np
x = np.random.default_rng(0).standard_normal((200, 8)).astype("float32")
faiss.knn(x, x, 3)
torch.from_numpy(x).matmul(torch.from_numpy(x).T).sum().item()
assert numba.njit(lambda a: a.sum())(x) != 0
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)


def test_heavy_libraries_work_together_in_every_order():
    orders = list(itertools.permutations(["torch", "faiss", "numba", "umap"]))
    with ThreadPoolExecutor(2) as pool:
        for order, done in zip(orders, pool.map(use_in_order, orders), strict=True):
            assert done.returncode == 0, (order, done.stderr[-500:])
