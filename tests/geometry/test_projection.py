"""Layouts, what is drawn of them, and how far rows move."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clp_core.embeddings.pca import PrincipalAxes
from clp_core.embeddings.row_source import ArrayRows
from clp_core.errors import InputError
from clp_core.figures import Marks, scatter
from clp_core.geometry.embedding_cache import prepare
from clp_core.geometry.layout import Movement, inside, project, sampled
from clp_core.geometry.project_options import ProjectOptions, UmapSettings


def test_axes_are_the_directions_of_most_spread():
    r = np.random.default_rng(0)
    rows = (r.standard_normal((300, 10)) * np.array([9, 5, *[0.1] * 8])).astype(np.float32)
    axes = PrincipalAxes.of(ArrayRows(rows), np.arange(300))
    scaled = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    _, _, right = np.linalg.svd(scaled - scaled.mean(axis=0), full_matrices=False)
    assert np.abs(axes.values[1:] @ right[:2].T).diagonal() == pytest.approx([1, 1], abs=1e-4)
    layout = axes.place(rows)
    assert layout.shape == (300, 2)
    assert layout[:, 0].std() >= layout[:, 1].std() > 0


def test_axes_of_one_wide_row_are_no_error():
    assert PrincipalAxes.of(ArrayRows(np.ones((1, 1500), np.float32)), np.arange(1)).place(
        np.ones((1, 1500))
    ).shape == (1, 2)


@pytest.mark.process
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


@pytest.mark.process
def test_umap_is_reproducible_and_follows_its_settings(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    first, _ = project(prepared, "umap", tmp_path / "a")
    second, _ = project(prepared, "umap", tmp_path / "b")
    assert first.equals(second)
    for other in (UmapSettings(seed=7), UmapSettings(neighbors=5), UmapSettings(min_dist=0.8)):
        changed, cached = project(prepared, "umap", tmp_path / "a", other)
        assert not cached
        assert not np.allclose(changed[["x", "y"]], first[["x", "y"]])


def test_exported_points_carry_what_viewers_read(tmp_path, pair):
    prepared = prepare(pair[0], tmp_path)
    table, cached = project(prepared, "pca", tmp_path)
    assert cached
    assert list(table.columns) == ["id", "token", "text", "x", "y", "category", "script", "norm"]
    assert table["token"].tolist() == [prepared.vocabulary.tokens[i] for i in table["id"]]
    assert np.allclose(table["norm"], prepared.norms[table["id"]])


@pytest.mark.parametrize(("field", "value"), [("neighbors", 1), ("min_dist", 2.0), ("method", "tsne"), ("output", "x")])
def test_bad_options_are_refused_by_name(field, value):
    with pytest.raises(InputError, match="--" + field.replace("_", "-")):
        ProjectOptions(**{"model": "m", "output": "x.parquet", field: value})


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=300), st.integers(3, 80))
def test_sample_keeps_every_group_and_the_searched_point(names, most):
    groups = np.array(names, dtype=object)
    wanted = len(names) // 2
    places = sampled(groups, most, [wanted])
    assert wanted in places
    assert len(np.unique(places)) == len(places)
    assert set(groups[places]) == set(groups)
    assert len(places) <= max(most, 3) + 4
    assert np.array_equal(places, sampled(groups, most, [wanted]))
    if len(names) <= most:
        assert len(places) == len(names)


def test_sample_keeps_the_shares_of_the_groups():
    groups = np.array(["a"] * 90_000 + ["b"] * 9_000 + ["c"] * 1_000, dtype=object)
    counts = pd.Series(groups[sampled(groups, 10_000)]).value_counts()
    assert counts.to_dict() == {"a": 9_000, "b": 900, "c": 100}


def test_inside_a_polygon():
    square = np.array([[0, 0], [2, 0], [2, 2], [0, 2]])
    points = np.array([[1, 1], [3, 1], [-1, 1], [1, 3], [0.1, 1.9]])
    assert inside(square, points).tolist() == [True, False, False, False, True]
    arrow = np.array([[0, 0], [4, 0], [4, 4], [2, 1], [0, 4]])
    assert inside(arrow, np.array([[2, 3], [0.5, 2], [3.5, 2]])).tolist() == [False, True, True]


def test_movement_tells_the_rows_that_turned(tmp_path, pair):
    import shutil

    from safetensors.numpy import load_file, save_file

    after_folder = shutil.copytree(pair[0], tmp_path / "after")
    tensors = load_file(after_folder / "model.safetensors")
    name = next(key for key in tensors if key.endswith("embed_tokens.weight"))
    rows = tensors[name].copy()
    rows[7] = -rows[7]
    rows[9] *= 3
    save_file(tensors | {name: rows}, after_folder / "model.safetensors", metadata={"format": "pt"})
    before, after = prepare(pair[0], tmp_path / "cache"), prepare(after_folder, tmp_path / "cache")
    moved = Movement.of(before, after)
    assert moved.furthest(1).tolist() == [7]
    assert moved.cosines[7] == pytest.approx(-1, abs=1e-5)
    assert moved.norm_ratio[9] == pytest.approx(3, rel=1e-5)
    still = np.delete(np.arange(len(moved.cosines)), [7])
    np.testing.assert_allclose(moved.places[still, :2], moved.places[still, 2:], atol=1e-5)
    with pytest.raises(InputError, match="different tokenizers"):
        Movement.of(before, prepare(pair[1], tmp_path / "cache"))


def points(n=1000):
    r = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "id": np.arange(n, dtype=np.int32),
            "x": r.standard_normal(n).astype(np.float32),
            "y": r.standard_normal(n).astype(np.float32),
            "status": pd.Categorical(r.choice(["copied", "initialised"], n)),
            "norm": r.random(n).astype(np.float32),
        }
    )


def test_figure_carries_integers_and_float32_and_no_text_per_point():
    for colour in ("status", "norm"):
        figure = scatter(points(), colour)
        assert sum(len(trace.x) for trace in figure.data) == 1000
        for trace in figure.data:
            assert trace.x.dtype == trace.y.dtype == np.float32
            assert trace.customdata.dtype == np.int32
            assert trace.text is None
        wire = len(scatter(points(100_000), colour).to_json())
        values = 3 + int(colour == "norm")
        assert wire < 1.25 * 100_000 * values * 4 * 4 / 3  # base64 of four-byte values, some of its signs escaped


def test_figure_flies_to_the_token_and_draws_lines_to_its_neighbours():
    table = points()
    marks = Marks(5, (6, 7), {5: "<b>x</b>", 6: "a&b", 7: "c"})
    figure = scatter(table, "status", marks)
    low, high = figure.layout.xaxis.range
    for i in (5, 6, 7):
        assert low < table["x"][i] < high
    lines = next(trace for trace in figure.data if trace.mode == "lines")
    assert np.isnan(lines.x).sum() == 2
    assert {float(lines.x[1]), float(lines.x[4])} == {float(table["x"][6]), float(table["x"][7])}
    texts = [text for trace in figure.data if trace.text is not None for text in trace.text]
    assert "<b>&lt;b&gt;x&lt;/b&gt;</b>" in texts
    assert "a&amp;b" in texts
    assert scatter(table, "status", Marks(5, fly=False)).layout.xaxis.range is None
    assert scatter(table, "status", Marks(5_000)).layout.xaxis.range is None
