import itertools
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.embeddings.nearest import RowIndex, nearest, unit, write_index
from clp_core.embeddings.row_source import ArrayRows
from clp_core.errors import InputError
from clp_core.files.hashing import has_changed
from clp_core.geometry.embedding_cache import EmbeddingCache, fingerprint, prepare
from clp_core.geometry.neighbor_graph import Agreement, NeighborGraph, find_agreement, make_agreement, make_graph


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


@pytest.mark.parametrize("scale", [1, 1e-3, 300])
def test_mapped_index_gives_the_exact_neighbours(tmp_path, scale):
    r = np.random.default_rng()
    # Near-equal rows: half precision alone would mix up their order.
    rows = np.repeat(r.standard_normal((60, 24)), 10, axis=0) + 1e-4 * r.standard_normal((600, 24))
    rows = (rows * scale).astype(np.float32)
    rows[11] = 0
    ids = np.flatnonzero(r.random(600) < 0.9)
    write_index(ArrayRows(rows), ids, tmp_path / "index")
    index = RowIndex.open(tmp_path / "index", ids, ArrayRows(rows))
    queries = rows[ids[:40]]
    cosines, found = index.nearest(queries, 9)
    expected = np.sort(unit(queries) @ unit(rows[ids]).T, axis=1)[:, ::-1][:, :9]
    np.testing.assert_allclose(cosines, expected, atol=2e-6)
    assert np.isin(found, ids).all()
    for token in ids[:40].tolist():
        near = index.neighbours(token, 5)
        assert len(near) == 5
        assert token not in [i for i, _ in near]


@pytest.mark.parametrize("spread", [0.1, 0.02, 0.005])
def test_mapped_index_finds_the_neighbours_in_a_collapsed_space(tmp_path, spread):
    r = np.random.default_rng(5)
    rows = (r.standard_normal(256) + spread * r.standard_normal((3_000, 256))).astype(np.float32)
    ids = np.arange(3_000)
    write_index(ArrayRows(rows), ids, tmp_path / "index")
    index = RowIndex.open(tmp_path / "index", ids, ArrayRows(rows))
    scaled = rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
    cosines = scaled[:50] @ scaled.T
    np.fill_diagonal(cosines, -1)
    expected = np.argsort(-cosines, axis=1)[:, :10]
    found = [{i for i, _ in index.neighbours(token, 10)} for token in range(50)]
    recall = np.mean([len(own & set(true.tolist())) / 10 for own, true in zip(found, expected, strict=True)])
    assert recall > 0.97  # float32 itself cannot tell the last ones apart


def test_rows_that_are_not_finite_are_nobodys_neighbours(tmp_path):
    rows = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    rows[3], rows[4, 2] = np.inf, np.nan
    write_index(ArrayRows(rows), np.arange(50), tmp_path / "index")
    index = RowIndex.open(tmp_path / "index", np.arange(50), ArrayRows(rows))
    assert not {3, 4} & {i for i, _ in index.neighbours(7, 10)}
    assert index.neighbours(50, 3) == []


def test_graph_leaves_out_the_token_itself_even_among_equal_rows():
    r = np.random.default_rng(3)
    rows = r.standard_normal((200, 6)).astype(np.float32)
    rows[50:80] = rows[50]
    ids = np.arange(0, 400, 2)
    graph = NeighborGraph.of(rows, ids, 5)
    assert graph.near.shape == (200, 5)
    assert not (graph.near == ids[:, None]).any()
    cosines = unit(rows) @ unit(rows).T
    np.fill_diagonal(cosines, -2)
    np.testing.assert_allclose(graph.cosines, np.sort(cosines, axis=1)[:, ::-1][:, :5], atol=1e-5)
    assert set(ids[50:80]) <= set(graph.near_duplicates(0.9999).tolist())
    assert all(len(set(row)) == 5 for row in graph.near.tolist())


def test_agreement_is_the_share_of_common_neighbours():
    r = np.random.default_rng()
    graphs = [NeighborGraph.of(r.standard_normal((90, 8)).astype(np.float32), np.arange(90), 10) for _ in range(2)]
    found = Agreement.of(*graphs)
    by_hand = [len(set(a) & set(b)) / 10 for a, b in zip(*(g.near.tolist() for g in graphs), strict=True)]
    assert found.share.tolist() == by_hand
    assert found.mean == pytest.approx(np.mean(by_hand))
    assert sum(found.histogram()) == 90
    assert Agreement.of(graphs[0], graphs[0]).mean == 1
    assert found.by_chance == pytest.approx(10 / 89)


def test_models_of_different_tokenizers_are_not_compared(tmp_path, pair):
    source, helper = (prepare(folder, tmp_path) for folder in pair)
    with pytest.raises(InputError, match=r"different tokenizers: id \d+"):
        make_agreement(source, helper, tmp_path)


def test_graphs_are_made_once(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    assert find_agreement(prepared, prepared, tmp_path) is None
    graph = make_graph(prepared, tmp_path)
    again = make_graph(prepared, tmp_path)
    assert np.array_equal(graph.near, again.near)
    assert find_agreement(prepared, prepared, tmp_path).mean == 1


def test_files_of_an_older_version_are_made_again(tmp_path, pair):
    import json

    prepared = prepare(pair[0], tmp_path)
    meta = prepared.path / "meta.json"
    meta.write_text(json.dumps(prepared.meta | {"version": 1}))
    (prepared.path / "index.faiss").unlink()
    assert EmbeddingCache.find(pair[0], tmp_path) is None
    assert (prepare(pair[0], tmp_path).path / "index.faiss").is_file()


def test_prepared_lengths_and_places_are_those_of_the_rows(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    rows = prepared.rows("input").take(np.arange(prepared.meta["rows"]))
    np.testing.assert_allclose(prepared.norms, np.linalg.norm(rows, axis=1), rtol=1e-6)
    np.testing.assert_allclose(prepared.pca, prepared.axes.place(rows), atol=1e-6)


def test_prepared_rows_are_the_checkpoints(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    rows = Checkpoint.open(pair[0]).rows("input")
    ids = np.arange(rows.shape[0])
    assert np.array_equal(prepared.rows("input").take(ids), rows.take(ids))
    assert EmbeddingCache.find(pair[0], tmp_path).meta == prepared.meta
    assert prepared.vocabulary.ids


def test_fingerprint_changes_with_the_content(tmp_path, pair):
    folder = shutil.copytree(pair[0], tmp_path / "m")
    before = fingerprint(folder)
    assert fingerprint(folder) == before
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert fingerprint(folder) != before


def test_fingerprint_is_that_of_the_content_wherever_it_lies(tmp_path, pair):
    folder = shutil.copytree(pair[0], tmp_path / "m")
    before = fingerprint(folder)
    assert fingerprint(folder.rename(tmp_path / "elsewhere")) == before
    assert fingerprint(shutil.copytree(tmp_path / "elsewhere", tmp_path / "copy")) == before


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_fingerprint_tells_contents_of_one_size_and_time_apart(tmp_path, pair, name):
    folder = shutil.copytree(pair[0], tmp_path / "m")
    before, file = fingerprint(folder), folder / name
    status, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    assert fingerprint(folder) != before


def test_folder_has_changed_where_its_fingerprint_is_another_of_the_same_form(tmp_path, pair):
    folder = shutil.copytree(pair[0], tmp_path / "m")
    before = fingerprint(folder)
    assert not has_changed(folder, before)
    (folder / "tokenizer.json").unlink()
    assert has_changed(folder, before)
    assert not has_changed(folder, "of-an-earlier-version")  # it cannot be compared
    assert not has_changed(folder, "")


HEAVY = ("torch", "faiss", "numba", "umap")
EVERY_ORDER = """
import gc, os, sys, traceback

gc.disable()  # it would touch, and so copy, what forked processes share

def use():
    import faiss, numba, numpy as np, torch
    x = np.random.default_rng(0).standard_normal((200, 8)).astype("float32")
    faiss.knn(x, x, 3)
    torch.from_numpy(x).matmul(torch.from_numpy(x).T).sum().item()
    assert numba.njit(lambda a: a.sum())(x) != 0

def grow(order, rest):
    # In this process those of `order` are imported; each of the others goes on in a process of its own.
    if not rest:
        use()
        os.write(1, " ".join(order).encode() + b"\\n")
    for name in rest:
        child = os.fork()
        if child == 0:
            failed = 1
            try:
                __import__(name)
                failed = grow([*order, name], [other for other in rest if other != name])
            except BaseException:
                traceback.print_exc()
            os._exit(failed)
        if os.waitpid(child, 0)[1]:
            sys.stderr.write(f"{[*order, name]} failed\\n")
            return 1
    return 0

__import__(sys.argv[1])
sys.exit(grow([sys.argv[1]], sys.argv[2:]))
"""


@pytest.mark.process
@pytest.mark.parametrize("first", HEAVY)
def test_heavy_libraries_work_together_in_every_order(first):
    """A process is forked for every library that may come next; the last ones, each of one order, use all four."""
    rest = [name for name in HEAVY if name != first]
    done = subprocess.run([sys.executable, "-c", EVERY_ORDER, first, *rest], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]
    orders = [[first, *order] for order in itertools.permutations(rest)]
    assert [line.split() for line in done.stdout.splitlines()] == orders
