"""NaN and infinity in weights: rows left out by name, or refused by name, and never a figure made of them."""

import json
import shutil
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.awkward_models import DAMAGES, TOKEN, damaged_model
from support.commands import clp, refused, result_of
from support.pages_run import check, open_page
from support.sources import make_source
from support.tiny_models import GERMAN, make_model
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.finite import non_finite_weight
from clp_core.cli.output import print_table, sane, written
from clp_core.embeddings.row_source import ArrayRows, non_finite_rows
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import load_model
from clp_core.evaluation.cloze import make_questions
from clp_core.evaluation.downstream import DownstreamOptions, measure
from clp_core.geometry.embedding_cache import prepare
from clp_core.geometry.layout import Movement, project
from clp_core.geometry.neighbor_graph import NeighborGraph, make_agreement, make_graph
from clp_core.initializers import initializer
from clp_core.initializers.base import Context
from clp_core.playground.answers import Completion, GenerateOptions
from clp_core.playground.generation import LoadedModel, PromptEncoder, complete
from clp_core.publishing.export import cast
from clp_core.reports.transfer_report import HeldOutSummary
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer import heldout_anchors
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.method_comparison import compare_methods
from clp_core.transfer.method_comparison_options import CompareMethodsOptions
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.transfer.word_vectors import WordVectors
from clp_core.workspace import Workspace
from components.messages import csv_of, number

ROW_DAMAGES = ("nan row", "inf row", "huge row")


@pytest.fixture(scope="module")
def german(tokenizers):
    return tokenizers["byte-level", "de"]


@pytest.fixture(scope="module")
def damaged(tmp_path_factory, german):
    """Models by damage and tying, each made once."""
    root, made = tmp_path_factory.mktemp("damaged"), {}

    def get(damage, *, tied=False, dtype="float32"):
        key = (damage, tied, dtype)
        if key not in made:
            made[key] = damaged_model(root / "-".join(map(str, key)).replace(" ", "-"), german, damage,
                                      tied=tied, dtype=dtype)  # fmt: skip
        return made[key]

    return get


@pytest.fixture(scope="module")
def healthy(tmp_path_factory, german):
    return make_model(tmp_path_factory.mktemp("healthy") / "model", german, tied=False)


def rows_of(folder, side="input"):
    model = AutoModelForCausalLM.from_pretrained(folder)
    layer = model.get_input_embeddings() if side == "input" else model.get_output_embeddings()
    return layer.weight.detach().float()


def bad_rows(rows):
    """The rule in plain torch."""
    return (~torch.isfinite((rows.float() ** 2).sum(dim=1))).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, ml_dtypes.bfloat16])
@pytest.mark.parametrize("block_bytes", [1, 100, 1 << 20])
def test_rows_that_are_not_finite_are_found_in_every_type_and_block(dtype, block_bytes):
    rows = np.random.default_rng(0).standard_normal((40, 8)).astype(dtype)
    rows[3, 1], rows[7, 7], rows[20, 0] = np.nan, np.inf, -np.inf
    expected = [3, 7, 20]
    if dtype != np.float16:  # 1e19 squared is beyond float32
        rows[33, 2] = 1e19 * 10
        expected.append(33)
    assert non_finite_rows(ArrayRows(rows), block_bytes=block_bytes).tolist() == expected
    assert bad_rows(torch.from_numpy(rows.astype(np.float32))) == expected
    assert non_finite_rows(ArrayRows(rows), np.array([0, 7, 39]), block_bytes).tolist() == [7]
    assert non_finite_rows(ArrayRows(rows[:0])).tolist() == []


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("damage", DAMAGES)
def test_prepared_model_names_the_rows_and_compares_the_others(tmp_path, damaged, damage, tied, dtype):
    folder = damaged(damage, tied=tied, dtype=dtype)
    prepared = prepare(folder, tmp_path)
    rows = rows_of(folder)
    bad = bad_rows(rows)
    assert prepared.non_finite("input").tolist() == bad
    assert prepared.non_finite("output").tolist() == bad_rows(rows_of(folder, "output"))
    assert all(str(TOKEN) in warning for warning in prepared.warnings)
    kept = [i for i in range(len(rows)) if i not in bad]
    assert prepared.token_ids.tolist() == kept
    assert np.isfinite(prepared.pca[kept]).all()
    unit = torch.nn.functional.normalize(rows[kept])
    cosines = unit @ unit.T
    graph = make_graph(prepared, tmp_path)
    expected = cosines.fill_diagonal_(-2).topk(10).values
    np.testing.assert_allclose(graph.cosines, expected, atol=1e-5)
    for token, row in list(zip(kept, expected, strict=True))[::50]:
        near = prepared.index.neighbours(token, 10)
        np.testing.assert_allclose([cosine for _, cosine in near], row, atol=1e-5)
        assert not {i for i, _ in near} & set(bad)
    assert all(prepared.index.neighbours(i, 10) == [] for i in bad)
    table, _ = project(prepared, "pca", tmp_path)
    assert table["id"].tolist() == kept
    assert np.isfinite(table[["x", "y", "norm"]].to_numpy()).all()


def test_model_without_a_finite_row_is_prepared_and_named(tmp_path, german):
    folder = make_model(tmp_path / "model", german)
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][:] = torch.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    prepared = prepare(folder, tmp_path)
    assert len(prepared.token_ids) == 0
    assert prepared.index.neighbours(5, 3) == []
    for use in (lambda: make_graph(prepared, tmp_path), lambda: project(prepared, "pca", tmp_path)):
        with pytest.raises(InputError, match=f"{len(german):,} rows .* not finite"):
            use()
    with pytest.raises(InputError, match="no token has a finite row"):
        Movement.of(prepared, prepared)


@pytest.mark.parametrize("damage", ROW_DAMAGES)
def test_movement_and_agreement_are_over_the_rows_finite_in_both(tmp_path, damaged, healthy, damage):
    before, after = prepare(healthy, tmp_path), prepare(damaged(damage), tmp_path)
    for first, second in ((before, after), (after, before)):
        moved = Movement.of(first, second)
        assert moved.ids.tolist() == [i for i in range(before.meta["rows"]) if i != TOKEN]
        for values in (moved.cosines, moved.places, moved.norm_ratio):
            assert np.isfinite(values).all()
        np.testing.assert_allclose(moved.cosines, 1, atol=1e-5)
        found = make_agreement(first, second, tmp_path)
        assert TOKEN not in found.ids
        assert 0.9 < found.mean <= 1


@pytest.mark.parametrize("damage", ROW_DAMAGES)
def test_commands_leave_the_row_out_and_say_so(tmp_path, damaged, healthy, damage):
    folder = damaged(damage)
    token = Vocabulary.open(folder).tokens[TOKEN]
    for arguments in (("neighbors", folder, "#71"), ("near-duplicates", folder), ("agreement", folder, healthy),
                      ("project", folder, "--output", tmp_path / "points.parquet", "--method", "pca")):  # fmt: skip
        assert result_of(*arguments)["left_out"] == [TOKEN]
        assert f"row {TOKEN} {token!r} of the input embedding" in clp(*arguments).stderr
    (asked,) = result_of("neighbors", folder, "#71", "-k", 1000)["tokens"]
    assert TOKEN not in [near["id"] for near in asked["neighbors"]]
    assert TOKEN not in pd.read_parquet(tmp_path / "points.parquet")["id"].tolist()
    assert f"row {TOKEN} {token!r} of the input embedding" in refused("neighbors", folder, token)
    assert result_of("neighbors", healthy, "#71")["left_out"] == []


def answer_of(folder, **settings):
    options = GenerateOptions((str(folder),), **({"prompt": "Der alte Fuchs", "max_tokens": 8} | settings))
    told = [Completion(str(folder))]

    def tell(event):
        json.dumps(event, allow_nan=False)
        told[0] = told[0].after(event)

    complete([LoadedModel.load(PromptEncoder.open(str(folder)))], options, tell)
    return told[0]


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("damage", "where"),
    [
        ("nan row", f"row {TOKEN} "),
        ("inf row", f"row {TOKEN} "),
        ("nan body", "mlp.up_proj.weight"),
        ("nan output row", f"row {TOKEN} "),
        ("nan output bias", "output bias"),
    ],
)
def test_answer_ends_with_the_weights_that_are_not_finite(damaged, damage, where, tied, temperature):
    folder = damaged(damage, tied=tied)
    assert TOKEN in Vocabulary.open(folder).encode("f f")
    found = answer_of(folder, temperature=temperature, prompt="f f")
    assert found.stopped == "failed"
    assert where in found.error
    assert (found.tokens, found.text, found.mean_log_p) == (0, "", None)


def test_finite_weights_that_overflow_are_told_apart(damaged):
    """A bias of 3e38 twice over is infinite, though every weight is finite."""
    folder = damaged("nan output bias")
    loaded = LoadedModel.load(PromptEncoder.open(str(folder)))
    with torch.no_grad():
        loaded.model.lm_head.bias.fill_(3e38)
        loaded.model.lm_head.weight.fill_(3e38)
    told = []
    complete([loaded], GenerateOptions((str(folder),), prompt="Der", max_tokens=3), told.append)
    assert told[-1]["stopped"] == "failed"
    assert "overflows in float32" in told[-1]["error"]
    assert non_finite_weight(loaded.model) is None


def test_row_that_the_text_never_meets_does_not_end_the_answer(damaged, healthy):
    """Not tied, so that the row is only an input: the answer is that of the healthy model."""
    found, expected = (answer_of(folder, temperature=0, prompt="Der") for folder in (damaged("nan row"), healthy))
    assert (found.text, found.log_p) == (expected.text, expected.log_p)
    assert found.stopped == expected.stopped


def test_tokens_excluded_by_minus_infinity_are_allowed(tmp_path, damaged):
    folder = shutil.copytree(damaged("nan output bias"), tmp_path / "model")
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.bias"][:100] = -torch.inf
    tensors["lm_head.bias"][100:] = 0
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    found = answer_of(folder, temperature=0)
    vocabulary, model = Vocabulary.open(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = torch.tensor([[vocabulary.roles["bos"], *vocabulary.encode("Der alte Fuchs")]])
    own = model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)
    assert found.text == vocabulary.tokenizer.decode(own[0, ids.shape[1] :].tolist())
    assert own[0, ids.shape[1] :].min() >= 100
    assert found.log_p < 0


def test_generate_prints_all_answers_before_it_fails(damaged, healthy):
    done = clp("generate", healthy, damaged("nan body"), "--prompt", "Der", "--max-tokens", 3, "--json")
    assert done.returncode == 1
    first, second = json.loads(done.stdout.splitlines()[-1])["answers"]
    assert (first["stopped"], first["error"], first["tokens"]) == ("length", None, 3)
    assert (second["stopped"], second["mean_log_p"], second["bits_per_byte"]) == ("failed", None, None)
    assert "mlp.up_proj.weight" in second["error"]
    assert "mlp.up_proj.weight" in done.stderr


@pytest.fixture(scope="module")
def sentences(tmp_path_factory):
    path = tmp_path_factory.mktemp("cloze") / "text.txt"
    path.write_text("\n".join(made_sentences()) + "\n", encoding="utf-8")
    return path


def made_sentences():
    words = sorted({word.strip(".,:") for line in GERMAN for word in line.split() if word.strip(".,:").isalpha()})
    rng = np.random.default_rng(0)
    return ["Satz " + " ".join(rng.choice(words, 9)) + " ende." for _ in range(60)]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize(
    ("damage", "where"),
    [("nan body", "mlp.up_proj.weight"), ("nan output row", f"row {TOKEN} "), ("nan output bias", "output bias")],
)
def test_cloze_refuses_scores_that_are_not_finite(damaged, sentences, damage, where, tied):
    folder = damaged(damage, tied=tied)
    with pytest.raises(InputError, match=where):
        measure(DownstreamOptions(str(folder), (str(sentences),), questions=20))
    assert where in refused("downstream", folder, "--text", sentences, "--questions", 20)


def test_cloze_is_that_of_the_healthy_model_where_no_sentence_meets_the_row(tmp_path, german, healthy, sentences):
    used = {i for line in made_sentences() for i in german(line)["input_ids"]}
    unused = next(i for i in range(1, len(german)) if i not in used)
    folder = damaged_model(tmp_path / "model", german, "nan row", token=unused)
    found, expected = (
        measure(DownstreamOptions(str(one), (str(sentences),), questions=20)) for one in (folder, healthy)
    )
    assert found.cloze == expected.cloze
    assert len(make_questions(made_sentences(), 20, 42)) == expected.cloze.score.n


@pytest.mark.parametrize("damage", ROW_DAMAGES)
@pytest.mark.parametrize("side", ["target", "source"])
def test_word_pairs_refuse_rows_that_are_not_finite(tmp_path, damaged, healthy, damage, side):
    (tmp_path / "pairs.tsv").write_text("der\tder\nund\tund\n")
    models = {"target": healthy, "source": healthy} | {side: damaged(damage)}
    options = DownstreamOptions(str(models["target"]), words=str(tmp_path / "pairs.tsv"), source=str(models["source"]))
    with pytest.raises(InputError, match=f"row {TOKEN} .* input embedding"):
        measure(options)


def test_comparison_of_methods_refuses_a_source_whose_body_is_not_finite(tmp_path, tokenizers, pair, texts):
    source = damaged_model(tmp_path / "source", tokenizers["byte-level", "en"], "nan body")
    options = CompareMethodsOptions(str(source), str(pair[1]), "mean,linear", str(texts[1]))
    with pytest.raises(InputError, match=r"mlp\.up_proj\.weight"):
        compare_methods(options)


@pytest.mark.parametrize("damage", ["nan row", "inf row", "nan output row"])
def test_comparison_of_methods_refuses_a_source_with_a_row_that_is_not_finite(tmp_path, tokenizers, pair, damage):
    source = damaged_model(tmp_path / "source", tokenizers["byte-level", "en"], damage)
    with pytest.raises(InputError, match=rf"row {TOKEN} .* not finite"):
        compare_methods(CompareMethodsOptions(str(source), str(pair[1]), "mean,linear"))


@pytest.mark.parametrize("bits", [float("nan"), float("inf")])
def test_method_whose_model_has_no_finite_score_is_not_ranked(pair, texts, monkeypatch, bits):
    options = CompareMethodsOptions(*map(str, pair), "mean,linear", str(texts[1]))
    monkeypatch.setattr(
        "clp_core.evaluation.bits_per_byte.score", lambda model, text: SimpleNamespace(bits_per_byte=bits)
    )
    found = compare_methods(options)
    assert [score.zero_step_bits_per_byte for score in found.scores] == [None, None]
    assert all("not finite" in score.note for score in found.scores)
    assert found.advice == "No method could be scored on this pair."


def test_held_out_score_is_refused_where_an_anchor_is_not_finite(pair):
    r = np.random.default_rng(0)
    rows = r.standard_normal((50, 8)).astype(np.float32)
    helper = ArrayRows(r.standard_normal((60, 4)).astype(np.float32))
    assert heldout_anchors.score(initializer("mean"), Context(helper, np.arange(50), ArrayRows(rows), 0), 0) is not None
    rows[5, 1] = np.nan
    with pytest.raises(InputError, match="1 of 50 anchors are not finite"):
        heldout_anchors.score(initializer("mean"), Context(helper, np.arange(50), ArrayRows(rows), 0), 0)


def test_held_out_score_of_equal_rows_has_no_relative_error():
    rows, helper = np.ones((20, 4), np.float32), np.ones((25, 4), np.float32)
    found = heldout_anchors.score(initializer("mean"), Context(ArrayRows(helper), np.arange(20), ArrayRows(rows), 0), 0)
    assert found.summary == HeldOutSummary(0.0, None)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), np.float32("nan")])
def test_values_that_are_not_finite_leave_as_no_number(value, capsys):
    assert number(float(value), 2, "s") == "–"
    assert written(float(value)) == "-"
    assert sane({"a": [float(value)]}) == {"a": [None]}
    assert csv_of(pd.DataFrame({"token": ["a", "b"], "value": [value, 1.5]})) == b"token,value\na,\nb,1.5\n"
    print_table("", ["name", "value"], [["a", float(value)]])
    assert "nan" not in (out := capsys.readouterr().out)
    assert "inf" not in out


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "1e39"])
def test_word_vectors_that_are_not_finite_are_refused_by_line(tmp_path, value):
    (tmp_path / "words.vec").write_text(f"2 3\nhaus 1 2 3\nbaum 1 {value} 3\n")
    with pytest.raises(InputError, match=r"line 3 .*'baum'.* NaN or infinity"):
        WordVectors.read(tmp_path / "words.vec")


def test_row_that_was_damaged_after_the_transfer_is_not_made_again(tmp_path, pair):
    transfer(TransferOptions(*map(str, pair), str(tmp_path / "target"), method="linear"))
    explainer = Explainer.open(tmp_path / "target")
    sources = {int(i) for i in explainer.table["source_id"].dropna()}
    new = int(np.flatnonzero(explainer.table["status"] == "initialised")[0])
    source, target = (Checkpoint.open(folder).rows("input") for folder in (pair[0], tmp_path / "target"))
    assert explainer.recompute(new, source, target).difference < 1e-5
    for place, rows in ((new, target), (min(sources), source)):
        values = rows.take(np.arange(rows.shape[0]))
        values[place] = np.nan
        broken = {"source": source, "target": target} | {"target" if rows is target else "source": ArrayRows(values)}
        with pytest.raises(InputError, match=f"row {place} "):
            explainer.recompute(new, broken["source"], broken["target"])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("damage", ["nan row", "inf row", "nan body", "nan output row", "nan output bias"])
def test_copies_refuse_tensors_that_are_not_finite(tmp_path, damaged, damage, dtype):
    """Whether a tensor is copied as it is, as in a transfer, or rounded, as in an export."""
    checkpoint = Checkpoint.open(damaged(damage, dtype=dtype))
    broken = [name for name, values in load_file(checkpoint.files[0]).items() if not torch.isfinite(values).all()]
    assert len(broken) == 1
    with pytest.raises(InputError, match=f"{broken[0]} .* NaN or infinity"):
        checkpoint.write(tmp_path, {}, checkpoint.config)
    for name, entry in checkpoint.entries.items():
        if name in broken:
            with pytest.raises(InputError, match=f"{name} .* NaN or infinity"):
                list(cast(entry, "F16"))
        else:
            assert list(cast(entry, "F16"))


@pytest.mark.parametrize("tied", [True, False])
def test_transfer_refuses_a_source_whose_body_is_not_finite(tmp_path, tokenizers, pair, tied):
    source = damaged_model(tmp_path / "source", tokenizers["byte-level", "en"], "nan body", tied=tied)
    with pytest.raises(InputError, match=r"mlp\.up_proj\.weight .* NaN or infinity"):
        transfer(TransferOptions(str(source), str(pair[1]), str(tmp_path / "target"), "mean"))
    assert not (tmp_path / "target").exists()


def test_experts_that_transformers_stacks_are_checked_too(tmp_path, german):
    make_source(tmp_path / "source", "mixtral", german, tied=True)
    (file,) = Checkpoint.open(tmp_path / "source").files
    tensors = load_file(file)
    (name, *_) = [name for name in tensors if "experts" in name]
    tensors[name].view(-1)[3] = torch.inf
    save_file(tensors, file, metadata={"format": "pt"})
    checkpoint = Checkpoint.open(tmp_path / "source")
    with pytest.raises(InputError, match=f"{name} .* NaN or infinity"):
        checkpoint.write(tmp_path, {}, checkpoint.config)


def test_minus_infinity_in_a_mask_of_an_old_file_is_copied(tmp_path, german):
    """Such as ``attn.masked_bias``, -1e9, in a GPT-2 that was saved in float16; transformers does not load it."""
    source = make_model(tmp_path / "source", german, "gpt2", dtype="float16")
    tensors = load_file(source / "model.safetensors")
    mask = torch.tensor(-1e9).half()
    save_file(
        tensors | {"transformer.h.0.attn.masked_bias": mask}, source / "model.safetensors", metadata={"format": "pt"}
    )
    checkpoint = Checkpoint.open(source)
    (tmp_path / "target").mkdir()
    checkpoint.write(tmp_path / "target", {}, checkpoint.config)
    copied = load_file(tmp_path / "target" / "model.safetensors")
    assert copied["transformer.h.0.attn.masked_bias"] == -torch.inf
    assert non_finite_weight(AutoModelForCausalLM.from_pretrained(tmp_path / "target")) is None


def test_health_table_has_no_nearest_row_for_a_row_that_is_not_finite(tmp_path, pair):
    from components.health import judged

    transfer(TransferOptions(*map(str, pair), str(tmp_path / "target"), method="linear"))
    explainer, prepared = Explainer.open(tmp_path / "target"), prepare(tmp_path / "target", tmp_path)
    rows = prepared.rows("input").take(prepared.token_ids)
    new = np.flatnonzero(explainer.table["status"] == "initialised")
    expected = judged("whole", explainer, NeighborGraph.of(rows, prepared.token_ids)).set_index("id")
    kept = np.delete(prepared.token_ids, [new[0], new[-1]])
    found = judged("without", explainer, NeighborGraph.of(rows[kept], kept)).set_index("id")
    assert found.loc[[new[0], new[-1]], "nearest cosine"].isna().all()
    assert (found.loc[[new[0], new[-1]], "nearest row"] == "").all()
    others = [
        i for i in new[1:-1] if not np.isin(NeighborGraph.of(rows, prepared.token_ids).near[i, 0], [new[0], new[-1]])
    ]
    assert len(others) > 10
    np.testing.assert_allclose(
        found.loc[others, "nearest cosine"].to_numpy(float), expected.loc[others, "nearest cosine"], atol=1e-5
    )


@pytest.fixture
def broken_helper(space, prepared_demo):
    """The demo's helper with one NaN row, in the workspace."""
    from clp_core.demo import HELPER

    folder = space.models / HELPER
    checkpoint = Checkpoint.open(folder)
    name = checkpoint.entry("input").name
    tensors = load_file(checkpoint.entry("input").path)
    tensors[name][300] = torch.nan
    save_file(tensors, checkpoint.entry("input").path, metadata={"format": "pt"})
    prepare(folder, space.cache)
    return folder


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_pages_show_the_finite_rows_and_name_the_others(broken_helper):
    app = check(open_page("tokens", token="#300"))
    assert any("row 300" in box.value.replace("\\", "") for box in app.warning)
    shown = [table.value for table in app.dataframe if "cosine" in table.value.columns]
    assert all(300 not in table["id"].tolist() for table in shown if "id" in table.columns)
    assert any("not finite" in box.value for box in app.caption)
    prepared = prepare(broken_helper, Workspace.current().cache)
    make_agreement(prepared, prepared, Workspace.current().cache)
    app = check(open_page("tokens", view="Neighbour agreement", first=broken_helper.name, second=broken_helper.name))
    assert any("row 300" in box.value.replace("\\", "") for box in app.warning)
    assert f"{len(prepared.token_ids):,}".replace(",", "\u202f") in " ".join(text.value for text in app.markdown)
    app = check(open_page("projection", shown=broken_helper.name))
    assert any("row 300" in box.value.replace("\\", "") for box in app.warning)


def test_loaded_model_is_checked_like_plain_torch(damaged):
    for damage in DAMAGES:
        model = load_model(damaged(damage))
        is_finite = all(torch.isfinite(parameter).all() for parameter in model.parameters())
        assert (non_finite_weight(model) is None) == is_finite
