"""What is kept of every token, and that it is true of the row that was written."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from support.tiny_models import make_model

from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.initializers import INITIALIZERS
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.transfer.provenance import KEPT_ANCHORS, Anchors, Health, write_provenance

METHODS = [name for name in INITIALIZERS if name not in ("random", "scratch", "static-vectors")]


def run(source, helper, output, **options):
    return transfer(TransferOptions(str(source), str(helper), str(output), **options))


def rows_of(folder):
    return load_file(folder / "model.safetensors")["model.embed_tokens.weight"].double().numpy()


@pytest.mark.parametrize("method", METHODS)
def test_explanation_equals_the_written_row(tmp_path, pair, method):
    run(*pair, tmp_path / "target", method=method, match_norms=method == "omp")
    explainer = Explainer.open(tmp_path / "target")
    source, target = rows_of(pair[0]), rows_of(tmp_path / "target")
    initialised = explainer.table.index[explainer.table["status"] == "initialised"]
    for token_id in map(int, initialised[[3, 50, 110]]):
        found = explainer.explain(token_id, k=10_000)
        weights = np.array([anchor.weight for anchor in found.anchors])
        if INITIALIZERS[method].from_helper or len(weights) < KEPT_ANCHORS:
            row = sum(anchor.weight * source[anchor.source_id] for anchor in found.anchors)
            np.testing.assert_allclose(row, target[token_id], atol=1e-5)
            np.testing.assert_allclose(found.n_eff, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-4)
            cancellation = 1 - abs(weights.sum()) / np.abs(weights).sum()
            np.testing.assert_allclose(found.cancellation, cancellation, rtol=1e-3, atol=1e-5)
            assert found.anchors_for_90_percent <= len(weights)
        assert (np.diff(np.abs(weights)) <= 1e-12).all()
    copied = explainer.explain(int(explainer.anchor_ids[0]))
    assert (copied.status, copied.anchors, copied.n_eff) == ("copied", (), None)


@pytest.mark.parametrize("method", ["clp", "linear", "clp-topk", "mean"])
def test_anchors_that_are_kept_are_those_found_again(tmp_path, pair, method):
    full = run(*pair, tmp_path / "full", method=method)
    run(*pair, tmp_path / "light", method=method, provenance="light")
    table = pd.read_parquet(tmp_path / "full" / PROVENANCE_FILE)
    light = pd.read_parquet(tmp_path / "light" / PROVENANCE_FILE)
    assert full.provenance == "full"
    assert (light["anchor_ids"].map(len) == 0).all()
    same = ["id", "token", "status", "source_id", "method", "n_eff", "norm", "at_risk"]
    pd.testing.assert_frame_equal(table[same], light[same])
    explainer = Explainer.open(tmp_path / "light")
    for token_id in table.index[table["status"] == "initialised"][::60]:
        found = explainer.explain(int(token_id), k=KEPT_ANCHORS)
        record = table.loc[token_id]
        weights = [anchor.weight for anchor in found.anchors]
        np.testing.assert_allclose(record["anchor_weights"], weights, rtol=1e-3, atol=1e-6)
        if method != "mean":  # there all weigh the same
            assert record["anchor_ids"].tolist() == [anchor.id for anchor in found.anchors]
            assert record["anchor_source_ids"].tolist() == [anchor.source_id for anchor in found.anchors]
            cosines = [anchor.cosine for anchor in found.anchors]
            np.testing.assert_allclose(record["anchor_cosines"].astype(float), cosines, atol=2e-3)
        everything = explainer.fitted(method).weights(np.array([token_id]))[0]
        share = np.sort(np.abs(everything))[::-1][:KEPT_ANCHORS].sum() / np.abs(everything).sum()
        np.testing.assert_allclose(record["anchor_share"], share, rtol=1e-3)


def test_kept_anchors_serve_when_the_helper_is_gone(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16)
    for kind in ("full", "light"):
        run(pair[0], helper, tmp_path / kind, method="linear", provenance=kind)
    run(pair[0], helper, tmp_path / "two", method="two-view", provenance="light")
    before = Explainer.open(tmp_path / "full")
    assert before.helper_rows is not None
    token_id = int(before.table.index[before.table["status"] == "initialised"][9])
    expected = before.explain(token_id, 5).anchors
    shutil.rmtree(helper)
    found = Explainer.open(tmp_path / "full").explain(token_id, 5).anchors
    assert [anchor.id for anchor in found] == [anchor.id for anchor in expected]
    assert len(Explainer.open(tmp_path / "two").explain(token_id, 5).anchors) == 5
    with pytest.raises(InputError, match=r"is gone or changed, and no anchors were kept .* --provenance full"):
        Explainer.open(tmp_path / "light").explain(token_id)


def test_helper_that_was_changed_in_place_is_not_used(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2)
    run(pair[0], helper, tmp_path / "target", method="clp-topk")
    before = Explainer.open(tmp_path / "target")
    token_id = int(before.table.index[before.table["status"] == "initialised"][9])
    expected = before.explain(token_id, 5)
    make_model(helper, tokenizers["byte-level", "de"], "gpt2", width=16, seed=77)
    after = Explainer.open(tmp_path / "target")
    assert after.helper_rows is None
    assert [a.id for a in after.explain(token_id, 5).anchors] == [a.id for a in expected.anchors]


def test_two_view_rows_are_the_weighted_sum_that_its_provenance_counts(tmp_path, pair, monkeypatch):
    """All anchors are kept here, so that the whole sum can be made."""
    from clp_core.transfer import target_rows as module

    overlap = Overlap.of(Vocabulary.open(pair[0]), Vocabulary.open(pair[1]))
    monkeypatch.setattr(module, "KEPT_ANCHORS", overlap.size)
    run(*pair, tmp_path / "target", method="two-view")
    explainer = Explainer.open(tmp_path / "target")
    source, target = rows_of(pair[0]), rows_of(tmp_path / "target")
    for token_id in map(int, explainer.table.index[explainer.table["status"] == "initialised"][[3, 60]]):
        found = explainer.explain(token_id, k=overlap.size)
        row = sum(anchor.weight * source[anchor.source_id] for anchor in found.anchors)
        np.testing.assert_allclose(row, target[token_id], atol=1e-5)
        weights = np.array([anchor.weight for anchor in found.anchors])
        np.testing.assert_allclose(found.n_eff, weights.sum() ** 2 / (weights**2).sum(), rtol=1e-3)
        np.testing.assert_allclose(found.cancellation, 1 - abs(weights.sum()) / np.abs(weights).sum(), atol=1e-4)


def test_pieces_are_named_as_source_tokens(tmp_path, pair):
    run(*pair, tmp_path / "target", method="subword-mean")
    source = Vocabulary.open(pair[0])
    explainer = Explainer.open(tmp_path / "target")
    overlap = Overlap.of(source, Vocabulary.open(pair[1]))
    token_id = next(int(i) for i in overlap.missing_ids if len(overlap.target.token_bytes[i]) > 4)
    found = explainer.explain(token_id)
    n_pieces = len(source.tokenizer.model.tokenize(overlap.target.tokens[token_id]))
    assert n_pieces > 1
    # Anchors come by weight, and equal ones by id, so the bytes of the text come in another order.
    text = b"".join(round(anchor.weight * n_pieces) * source.token_bytes[anchor.source_id] for anchor in found.anchors)
    assert sorted(text) == sorted(overlap.target.token_bytes[token_id])
    assert all(anchor.id is None and anchor.cosine is None for anchor in found.anchors)
    assert [source.tokens[anchor.source_id] for anchor in found.anchors] == [a.token for a in found.anchors]


def test_file_of_250_000_tokens_stays_below_100_megabytes(tmp_path):
    r = np.random.default_rng(0)
    n = 250_000
    tokens = tuple(f"token-{i:x}" for i in range(n))
    vocabulary = Vocabulary("large", tokens, "plain", {}, frozenset())
    source_ids = np.where(r.random(n) < 0.2, np.arange(n), -1)
    overlap = Overlap(vocabulary, vocabulary, "raw", source_ids)
    copied = source_ids >= 0
    health = Health(r.random(n), r.random(n), ~copied, copied, int(copied.sum()), False)
    shape = (n, KEPT_ANCHORS)
    anchors = Anchors(
        r.integers(0, n, shape).astype(np.int32), r.integers(0, n, shape).astype(np.int32),
        r.standard_normal(shape).astype(np.float32), r.standard_normal(shape).astype(np.float16),
        r.random(n).astype(np.float32), r.random(n).astype(np.float32),
    )  # fmt: skip
    anchors.sources[copied] = -1
    status = np.where(copied, "copied", "initialised").astype(object)
    method = np.where(copied, "", "linear").astype(object)
    path = tmp_path / PROVENANCE_FILE
    write_provenance(path, overlap, status, method, np.ones(n), health, anchors)
    assert path.stat().st_size < 100e6
    file = pq.ParquetFile(path)
    assert file.num_row_groups > 10
    group = file.read_row_group(7, columns=["anchor_weights"]).to_pylist()
    assert {len(record["anchor_weights"]) for record in group} == {0, KEPT_ANCHORS}


def test_report_counts_what_the_table_holds(tmp_path, pair):
    report = run(*pair, tmp_path / "target", method="clp", guard="fallback")
    table = pd.read_parquet(tmp_path / "target" / PROVENANCE_FILE)
    counts = table["status"].value_counts()
    assert {k: v for k, v in report.statuses.items() if v} == counts.to_dict()
    assert report.health.rows_at_risk == table["at_risk"].sum()
    for name, n in report.guard.taken_over.items():
        assert (table["method"] == name).sum() == n
    assert json.loads((tmp_path / "target" / "clp_transfer.json").read_text())["statuses"] == report.statuses
