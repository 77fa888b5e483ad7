"""Damaged and foreign files in a workspace: one bad job or model hides no other, and no file brings a page down."""

import json
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.made_runs import lines_of, make_run
from support.pages_run import check, open_page

from clp_core.checkpoints.loading import load_causal_model
from clp_core.checkpoints.provenance_reading import missing_rows
from clp_core.errors import InputError
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.files.json_files import MOST_BYTES, read_json
from clp_core.geometry.embedding_cache import EmbeddingCache, prepare
from clp_core.geometry.layout import UmapSettings, find_layout, layout_file
from clp_core.geometry.neighbor_graph import find_graph, graph_file, make_graph
from clp_core.jobs import JobStore
from clp_core.jobs.metrics import read_lines
from clp_core.jobs.run_metrics import RunMetrics
from clp_core.jobs.training_checkpoints import complete_checkpoints
from clp_core.transfer.explanation import Explainer
from clp_core.transfer.method_rows_cache import MethodRows
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer
from clp_core.workspace import Workspace

DEEP = "[" * 100_000 + "]" * 100_000
MANY_DIGITS = '{"x": ' + "9" * 5000 + "}"
LARGE = "9" * 400


@pytest.mark.parametrize("content", [DEEP, MANY_DIGITS, "{", "[1]", "\udcff"])
def test_json_that_cannot_be_read_is_an_error_of_its_input(tmp_path, content):
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError, match=r"config\.json"):
        read_json(file)


def test_json_file_too_large_for_memory_is_not_read(tmp_path):
    with open(tmp_path / "config.json", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match="1024 MiB"):
        read_json(tmp_path / "config.json")


@pytest.mark.parametrize(
    "config", [DEEP, MANY_DIGITS, "{", '{"vocab_size": "abc"}', '{"vocab_size": Infinity}', '{"vocab_size": [1]}']
)
def test_model_with_a_damaged_configuration_hides_no_other(workspace, pair, config):
    workspace.models.mkdir(parents=True)
    shutil.copytree(pair[0], workspace.models / "good")
    (workspace.models / "bad").mkdir()
    (workspace.models / "bad" / "config.json").write_text(config)
    found = {entry.name: entry.vocab_size for entry in workspace.list_models()}
    assert found == {"good": json.loads((pair[0] / "config.json").read_text())["vocab_size"], "bad": None}


@pytest.mark.parametrize("name", ["spec.json", "status.json", "plan.json", "label.json", "heartbeat.json"])
@pytest.mark.parametrize("content", [DEEP, MANY_DIGITS, "[1]", ""], ids=["deep", "digits", "list", "empty"])
def test_job_with_a_damaged_file_hides_no_other(workspace, name, content):
    good, bad = (make_run(workspace, label, lines_of(3)) for label in ("good", "bad"))
    (bad.path / name).write_text(content)
    jobs = {job.id: (job.status().state, job.name, job.plan, job.warnings) for job in JobStore(workspace.jobs).jobs()}
    assert jobs[good.id][:2] == ("finished", "good")
    assert bad.id in jobs


@pytest.mark.parametrize("key", ["created", "time", "attempt", "boot_clock"])
@pytest.mark.parametrize("number", [LARGE, "Infinity", "-1e300", "NaN", '"x"'])
def test_numbers_of_a_job_that_cannot_be_are_passed_over(workspace, key, number):
    job = make_run(workspace, "a run", lines_of(3))
    for name in ("spec.json", "status.json"):
        content = json.loads((job.path / name).read_text())
        text = json.dumps(content | {key: "HERE"}).replace('"HERE"', number)
        (job.path / name).write_text(text)
    (found,) = JobStore(workspace.jobs).jobs()
    assert found.status().attempt == 1
    assert found.status().state == "finished"
    assert abs(found.created) < 1e11


@pytest.mark.parametrize("part", ["arguments", "plan", "versions", "fingerprints", "argv", "devices"])
def test_parts_of_a_spec_of_another_kind_count_as_empty(workspace, part):
    job = make_run(workspace, "a run", lines_of(3))
    content = json.loads((job.path / "spec.json").read_text())
    (job.path / "spec.json").write_text(json.dumps(content | {part: 5}))
    (found,) = JobStore(workspace.jobs).jobs()
    assert found.spec[part] == type(content[part])()
    assert {**found.spec, part: None} == {**content, part: None}


def test_metrics_that_cannot_be_are_passed_over(tmp_path):
    file = tmp_path / "metrics.jsonl"
    good = {"step": 1, "tokens": 1, "bytes": 4, "seconds": 1.0, "loss": 2.0}
    odd = [
        f'{{"step": 2, "loss": {DEEP}}}',
        f'{{"step": 3, "loss": {"9" * 5000}}}',
        f'{{"step": {LARGE}, "loss": 1.0, "tokens": 1}}',
        '{"step": true, "loss": 1.0}',
        f'{{"step": 4, "loss": {LARGE}, "tokens": {LARGE}, "bytes": "x", "seconds": []}}',
    ]
    file.write_text("\n".join([json.dumps(good), *odd]) + "\n")
    assert [line["step"] for line in read_lines(file)] == [1, 4]
    assert RunMetrics(file).read().points("loss").tolist() == [[1.0, 1.0, 4.0, 1.0, 2.0]]


@pytest.mark.parametrize("manifest", [DEEP, MANY_DIGITS, '{"files": {"a\\u0000b": 1}}', '{"files": 5}', "[]"])
def test_checkpoint_with_a_damaged_manifest_is_incomplete(tmp_path, manifest):
    folder = tmp_path / "checkpoint-5"
    folder.mkdir()
    (folder / "manifest.json").write_text(manifest)
    assert complete_checkpoints(tmp_path) == []


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_pages_open_beside_a_damaged_model_and_a_damaged_run(space):
    make_run(space, "good", lines_of(60))
    bad = make_run(space, "bad", lines_of(60))
    (bad.path / "spec.json").write_text(DEEP)
    (bad.path / "command.txt").write_bytes(b"\xff\xfe\0")
    (bad.path / "samples.jsonl").write_text(f'{DEEP}\n"x"\n{{"step": "y", "prompt": 1}}\n')
    (space.models / "bad").mkdir()
    (space.models / "bad" / "config.json").write_text(DEEP)
    for page in ("overview", "runs", "compare", "train"):
        assert check(open_page(page)).title, page
    assert "bad" in {entry.name for entry in Workspace.current().list_models()}


@pytest.mark.parametrize(
    "part",
    [{"vocab_size": "abc"}, {"model_type": [1]}, {"dtype": 5}, {"quantization_config": 5}, {"id2label": 5},
     {"num_attention_heads": 0}, {"rope_scaling": 5}, {"eos_token_id": "x"}],
)  # fmt: skip
def test_configuration_of_another_kind_is_an_error_of_the_model(pair, tmp_path, part):
    folder = tmp_path / "changed"
    shutil.copytree(pair[1], folder)
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(content | part))
    with pytest.raises(InputError, match="cannot be loaded"):
        load_causal_model(folder, "auto")


def trimmed(table):
    return table.slice(0, 3)


def without_columns(table):
    return table.select(["id"])


@pytest.mark.parametrize("change", [trimmed, without_columns, None])
def test_damaged_provenance_is_an_error_of_the_target(workspace, pair, change):
    target = workspace.models / "target"
    transfer(TransferOptions(str(pair[0]), str(pair[1]), str(target), method="mean"))
    file = target / PROVENANCE_FILE
    if change is None:
        file.write_bytes(file.read_bytes()[:-20])
    else:
        pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(InputError, match="write the target again"):
        Explainer.open(target)
    if change is not trimmed:
        with pytest.raises(InputError, match="write the target again"):
            missing_rows(target)


ARRAYS = ("input.npy", "norms.npy", "pca.npy", "axes.npy", "index.faiss", "tokenizer.json", "meta.json")


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("content", [b"", b"\x93NUMPY"])
def test_prepared_model_that_was_cut_off_is_made_again(workspace, pair, name, content):
    prepared = prepare(pair[1], workspace.cache)
    whole = (prepared.path / name).read_bytes()
    (prepared.path / name).write_bytes(content)
    assert EmbeddingCache.find(pair[1], workspace.cache) is None
    again = prepare(pair[1], workspace.cache)
    assert (again.path / name).read_bytes() == whole


def test_array_of_the_cache_with_a_foreign_header_is_an_error_of_its_file(workspace, pair):
    prepared = prepare(pair[1], workspace.cache)
    for name in ("input", "norms", "pca", "axes"):
        file = prepared.path / f"{name}.npy"
        file.write_bytes(b"\0" * file.stat().st_size)
    found = EmbeddingCache.find(pair[1], workspace.cache)
    for use in (found.rows, lambda: found.norms, lambda: found.pca, lambda: found.axes):
        with pytest.raises(InputError, match="of the cache is damaged"):
            use()


@pytest.mark.parametrize("damage", [b"", b"PK\x05\x06" + b"\0" * 18, b"\0" * 500])
def test_graphs_layouts_and_rows_that_are_damaged_are_made_again_or_named(workspace, pair, damage):
    prepared = prepare(pair[1], workspace.cache)
    graph, settings = make_graph(prepared, workspace.cache), UmapSettings()
    graph_file(prepared, workspace.cache).write_bytes(damage)
    assert find_graph(prepared, workspace.cache) is None
    assert np.array_equal(make_graph(prepared, workspace.cache).near, graph.near)
    layout = layout_file(prepared, settings, workspace.cache)
    layout.parent.mkdir()
    layout.write_bytes(damage)
    assert find_layout(prepared, "umap", workspace.cache, settings) is None
    np.save(layout, np.zeros((3, 2), np.float32))
    assert find_layout(prepared, "umap", workspace.cache, settings) is None
    kept = MethodRows(workspace.cache / "methods" / "a")
    kept.start(np.array([5, 7]), 4, 1)
    figures = {"n_eff": np.ones(2), "norm_ratio": np.ones(2), "sources": np.zeros((2, 3)), "weights": np.zeros((2, 3))}
    kept.keep("mean", np.ones((2, 4)), figures)
    kept.finish(["mean"])
    assert [row.method for row in kept.of_token(7)] == ["mean"]
    for what in ("figures", "rows"):
        kept.file("mean", what).write_bytes(damage)
        with pytest.raises(InputError, match="compare the methods again"):
            kept.of_token(7)
