"""The rows of all methods kept for the page on tokens, and rows made again from their weights."""

import shutil

import numpy as np
import pytest

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.errors import InputError
from clp_core.initializers import INITIALIZERS
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.method_comparison import compare_methods
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.method_rows_cache import MethodRows
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.overrides import OverrideList, name_for_override, read_overrides, resolve_overrides
from clp_core.transfer.pipeline import transfer

METHODS = ("clp", "linear", "clp-topk:k=4", "subword-mean", "two-view", "random")


@pytest.fixture(scope="module")
def kept(tmp_path_factory, pair):
    cache = tmp_path_factory.mktemp("cache")
    compare_methods(CompareMethodsOptions(*map(str, pair), ",".join(METHODS)), cache)
    return MethodRows.of(cache, *pair, "raw", 42)


def test_kept_rows_are_those_that_a_transfer_writes(tmp_path, pair, kept):
    assert set(kept.methods) == set(METHODS)
    for name in METHODS:
        method, *settings = name.split(":")
        output = tmp_path / method
        transfer(TransferOptions(*map(str, pair), str(output), method=method, setting=tuple(settings)))
        written = Checkpoint.open(output).rows("input")
        explainer = Explainer.open(output)
        for token in kept.ids[:: len(kept.ids) // 5].tolist():
            row = next(row for row in kept.of_token(token) if row.method == name)
            np.testing.assert_allclose(row.row, written.take(np.array([token]))[0], atol=1e-4, rtol=1e-3)
            told = explainer.explain(token, 3)
            assert row.norm_ratio == pytest.approx(told.norm_ratio, rel=1e-4)
            if told.n_eff is not None:
                assert row.n_eff == pytest.approx(told.n_eff, rel=1e-5)
            weights = [weight for _, weight in row.anchors]
            assert weights == pytest.approx([anchor.weight for anchor in told.anchors], rel=1e-4)


def test_copied_token_has_no_rows_by_method(pair, kept):
    target = Vocabulary.open(pair[1])
    assert kept.of_token(target.ids["<|end|>"]) == []
    assert kept.of_token(10**9) == []


def test_rows_are_kept_for_the_present_content_only(tmp_path, pair, kept):
    cache = kept.folder.parent.parent
    moved = shutil.copytree(pair[1], tmp_path / "helper")
    assert MethodRows.of(cache, pair[0], moved, "raw", 42).methods == kept.methods
    (moved / "config.json").write_text((moved / "config.json").read_text() + " ")
    assert MethodRows.of(cache, pair[0], moved, "raw", 42).methods == ()
    assert MethodRows.of(cache, *pair, "canonical", 42).methods == ()


@pytest.mark.parametrize("method", ["clp", "clp-sparse", "clp-topk", "linear", "omp", "mean", "subword-mean"])
def test_row_made_again_from_its_weights_is_the_row_written(tmp_path, pair, method):
    output = tmp_path / "target"
    options = TransferOptions(*map(str, pair), str(output), method=method, match_norms=method == "linear")
    transfer(options)
    explainer = Explainer.open(output)
    rows = [Checkpoint.open(folder).rows("input") for folder in (pair[0], output)]
    statuses = explainer.table["status"]
    for status in ("initialised", "copied"):
        for token in np.flatnonzero(statuses == status)[:4].tolist():
            again = explainer.recompute(token, *rows)
            told = explainer.explain(token, 3)
            assert again is not None
            assert again.difference < (1e-4 if status == "initialised" else 1e-12)
            assert again.terms == (1 if status == "copied" else told.n_used or again.terms)
            if status == "initialised":
                assert 0 < told.mass <= 1 + 1e-9
                first = told.anchors[0]
                assert f"E_{{{first.source_id}}}" in told.filled_in
                assert told.formula == INITIALIZERS[method].formula


def test_changed_row_does_not_pass_for_the_one_written(tmp_path, pair):
    output = tmp_path / "target"
    transfer(TransferOptions(*map(str, pair), str(output), method="clp"))
    explainer = Explainer.open(output)
    source = Checkpoint.open(pair[0]).rows("input")

    class Changed:
        shape = source.shape

        def take(self, ids):
            return Checkpoint.open(output).rows("input").take(ids) * 1.5

    token = int(np.flatnonzero(explainer.table["status"] == "initialised")[0])
    assert explainer.recompute(token, source, Changed()).difference == pytest.approx(1 / 3, rel=1e-3)


def test_published_formula_shows_cosines_over_their_sum(tmp_path, pair):
    output = tmp_path / "target"
    transfer(TransferOptions(*map(str, pair), str(output), method="clp"))
    explainer = Explainer.open(output)
    token = int(np.flatnonzero(explainer.table["status"] == "initialised")[3])
    helper = Checkpoint.open(pair[1]).rows("input").take(np.arange(explainer.vocabulary.n_ids)).astype(np.float64)
    helper /= np.linalg.norm(helper, axis=1, keepdims=True)
    total = float((helper[explainer.anchor_ids] @ helper[token]).sum())
    told = explainer.explain(token, 20)
    denominator = float(told.filled_in.rpartition("}{")[2].rstrip("}"))
    assert denominator == pytest.approx(total, rel=1e-3, abs=1e-3)
    assert f"{abs(told.anchors[0].cosine):.4f}" in told.filled_in


def test_two_view_says_that_not_all_weights_are_known(tmp_path, pair):
    output = tmp_path / "target"
    transfer(TransferOptions(*map(str, pair), str(output), method="two-view"))
    explainer = Explainer.open(output)
    token = int(np.flatnonzero(explainer.table["status"] == "initialised")[0])
    rows = [Checkpoint.open(folder).rows("input") for folder in (pair[0], output)]
    assert explainer.recompute(token, *rows) is None
    assert explainer.explain(token).filled_in.endswith(r"\dots")


def test_noted_overrides_come_back_as_the_options_of_a_transfer(tmp_path, pair):
    target = Vocabulary.open(pair[1])
    noted = OverrideList.of(tmp_path, *pair)
    assert noted.options() == []
    equals = next((i for i, token in enumerate(target.tokens) if token and "=" in token), target.ids["="])
    missing = target.ids.get("Ġder", 400)
    names = [name_for_override(target, i) for i in (missing, equals)]
    noted.note(names[0], "the")
    noted.note(names[1], "a = b")
    noted.note(names[0], "the fox")
    assert read_overrides(noted.options()) == noted.pairs() == [(names[1], "a = b"), (names[0], "the fox")]
    source = Vocabulary.open(pair[0])
    assert set(resolve_overrides(noted.pairs(), source, target, source.n_ids)) == {missing, equals}
    noted.note(names[1], "")
    assert len(noted.options()) == 1
    noted.file.write_text("no tab here\n")
    with pytest.raises(InputError, match="line 1"):
        noted.pairs()


def test_every_token_has_a_name_that_an_override_finds_again(folders):
    for folder in folders.values():
        vocabulary = Vocabulary.open(folder)
        for token_id in range(vocabulary.n_ids):
            name = name_for_override(vocabulary, token_id)
            ((token, text),) = read_overrides([f"{name}=x"])
            assert (vocabulary.find(token), text) == (token_id, "x")
