"""Exporting a run's checkpoint: its data types, what lies beside it, what is refused, and its card."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from support.commands import refused
from support.made_runs import add_checkpoint, lines_of, made_target, make_run

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.errors import ClpError, InputError
from clp_core.files.json_files import write_json
from clp_core.model_cards.card import Card, shown_points
from clp_core.publishing.export import export
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push import push
from clp_core.publishing.push_options import PushOptions
from clp_core.publishing.training_facts import runs_behind
from clp_core.reports.training_facts import read_training_facts
from clp_core.reports.transfer_report import TransferReport


@pytest.fixture(scope="module")
def bf16_target(tmp_path_factory, tokenizers):
    """A tied target in bfloat16, whose source states a licence."""
    return made_target(tmp_path_factory.mktemp("bf16"), tokenizers, dtype="bfloat16")


@pytest.fixture
def run(workspace, bf16_target):
    """A run of three checkpoints, the second of them the best."""
    job = make_run(workspace, "a german run", lines_of(400), model=str(bf16_target))
    write_json(job.path / "inputs.json", {"data": "d" * 32})
    for step, bits in ((100, 2.0), (200, 1.5), (400, 1.7)):
        add_checkpoint(job, bf16_target, step, bits=bits)
    return job


def exported(run, workspace, name="out", **more):
    output = workspace.root / "models" / name
    return export(ExportOptions(run.id, str(output), **more), workspace), output


def dtypes_of(folder):
    return {entry.dtype for entry in Checkpoint.open(folder).entries.values()}


def test_export_has_the_sources_dtype_and_is_tied_as_it_was(run, workspace):
    result, output = exported(run, workspace)
    assert (result["step"], result["dtypes"], result["bits_per_byte"]) == (200, ["bfloat16"], 1.5)
    assert dtypes_of(output) == {"BF16"}
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    checkpoint = Checkpoint.open(run.path / "checkpoints" / "checkpoint-200")
    again = Checkpoint.open(output)
    assert again.names.tied
    assert set(again.entries) == set(checkpoint.entries)
    wanted = checkpoint.rows().read(0, 9).astype(again.rows().dtype)
    assert np.array_equal(again.rows().read(0, 9), wanted)


def test_export_opens_with_transformers_and_says_the_same(run, workspace):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    _, output = exported(run, workspace, checkpoint="last", dtype="float32")
    prompt = AutoTokenizer.from_pretrained(output)("Der Fuchs", return_tensors="pt")["input_ids"]
    folders = (output, run.path / "checkpoints" / "checkpoint-400")
    a, b = (AutoModelForCausalLM.from_pretrained(folder)(prompt).logits for folder in folders)
    assert torch.equal(a, b)


def test_export_takes_no_run_state_along(run, workspace):
    _, output = exported(run, workspace)
    assert {path.name for path in output.iterdir()} == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "clp_transfer.json", "clp_provenance.parquet", "clp_training.json", "training_curve.csv", "README.md",
    }  # fmt: skip


@pytest.mark.parametrize(("which", "step"), [("best", 200), ("last", 400), ("100", 100)])
def test_the_checkpoint_that_is_meant_is_exported(run, workspace, which, step):
    assert exported(run, workspace, checkpoint=which)[0]["checkpoint"] == f"checkpoint-{step}"


def test_untied_mixed_and_odd_shapes_keep_each_tensors_dtype(workspace, tmp_path, tokenizers):
    from safetensors.torch import load_file, save_file

    target = made_target(tmp_path, tokenizers, tied=False, width=36)
    tensors = load_file(target / "model.safetensors")
    mixed = {name: value if "norm" in name else value.bfloat16() for name, value in tensors.items()}
    save_file(mixed, target / "model.safetensors", metadata={"format": "pt"})
    job = make_run(workspace, "mixed", lines_of(50), model=str(target))
    add_checkpoint(job, target, 50)
    result, output = exported(job, workspace, checkpoint="last")
    assert result["dtypes"] == ["bfloat16", "float32"]
    again = Checkpoint.open(output)
    assert {name for name, entry in again.entries.items() if entry.dtype == "F32"} == {n for n in mixed if "norm" in n}
    assert not again.names.tied


def test_source_dtype_is_that_of_the_first_run_of_several(run, workspace, tmp_path):
    first = run.path / "checkpoints" / "checkpoint-400"
    second = make_run(workspace, "the second run", lines_of(50), model=str(first))
    add_checkpoint(second, first, 50)
    _, output = exported(second, workspace, checkpoint="last")
    assert dtypes_of(output) == {"BF16"}
    told = json.loads((output / "clp_training.json").read_text())["runs"]
    assert [(one["run"], one["step"]) for one in told] == [("a german run", 400), ("the second run", 50)]
    third = make_run(workspace, "the third run", lines_of(50), model=str(output))
    assert [one.run for one in runs_behind(add_checkpoint(third, output, 50))] == [
        "a german run", "the second run", "the third run",
    ]  # fmt: skip


def test_value_beyond_a_dtype_is_refused_and_leaves_nothing(workspace, bf16_target):
    def blow_up(model):
        model.model.norm.weight.fill_(1e30)

    job = make_run(workspace, "large", lines_of(50), model=str(bf16_target))
    add_checkpoint(job, bf16_target, 50, change=blow_up)
    with pytest.raises(InputError, match=r"model\.norm\.weight .* float16"):
        exported(job, workspace, checkpoint="last", dtype="float16")
    assert not list((workspace.root / "models").iterdir())
    assert exported(job, workspace, checkpoint="last")[0]["dtypes"] == ["bfloat16"]


def test_export_that_differs_from_its_checkpoint_is_not_kept(run, workspace, monkeypatch):
    import clp_core.checkpoints.safetensors_writer

    write = clp_core.checkpoints.safetensors_writer.write_blocks

    def spoil(writer, name, new):
        write(writer, name, new)
        writer.seek(-2, 1)
        writer.write(b"\x01\x02")

    monkeypatch.setattr(clp_core.checkpoints.safetensors_writer, "write_blocks", spoil)
    with pytest.raises(ClpError, match="differs from the checkpoint"):
        exported(run, workspace)
    assert not list((workspace.root / "models").iterdir())


def test_existing_folders_and_inputs_are_kept(run, workspace, tmp_path):
    _, output = exported(run, workspace)
    before = (output / "config.json").stat().st_mtime_ns
    with pytest.raises(InputError, match="exists and is kept"):
        exported(run, workspace)
    assert (output / "config.json").stat().st_mtime_ns == before
    exported(run, workspace, overwrite=True)
    assert (output / "config.json").stat().st_mtime_ns != before
    for place in (workspace.root, run.path, run.path / "checkpoints" / "checkpoint-400", workspace.jobs / "new"):
        with pytest.raises(InputError):
            export(ExportOptions(run.id, str(place), overwrite=True), workspace)
    assert len(run.checkpoints()) == 3


def test_wrong_input_is_told(run, workspace, tmp_path):
    out = tmp_path / "out"
    assert "100, 200, 400" in refused("jobs", "export", run.id, "--output", out, "--checkpoint", 7)
    assert "--checkpoint: 'x'" in refused("jobs", "export", run.id, "--output", out, "--checkpoint", "x")
    assert "--dtype: 'int8'" in refused("jobs", "export", run.id, "--output", out, "--dtype", "int8")
    empty = make_run(workspace, "empty", lines_of(9))
    assert f"{empty.id} has no complete checkpoint" in refused("jobs", "export", empty.id, "--output", out)
    unscored = make_run(workspace, "unscored", lines_of(9), model="/no/such/model")
    add_checkpoint(unscored, Path(run.spec["arguments"]["model"]), 9)
    assert "--checkpoint last" in refused("jobs", "export", unscored.id, "--output", out)
    given = ("jobs", "export", unscored.id, "--output", out, "--checkpoint", "last")
    assert "--dtype" in refused(*given)
    assert not out.exists()


def test_half_a_checkpoint_is_never_exported(run, workspace):
    (run.path / "checkpoints" / "checkpoint-200" / "model.safetensors").write_bytes(b"half")
    assert exported(run, workspace)[0]["checkpoint"] == "checkpoint-400"


@pytest.mark.process
def test_killed_export_leaves_nothing_under_its_name(run, workspace, tmp_path):
    code = (
        "import os, sys; import clp_core.publishing.export as e; e.check_loading = lambda *_: os.kill(os.getpid(), 9); "
        "from clp_core.cli import run; run()"
    )
    output = workspace.models / "out"
    done = subprocess.run([sys.executable, "-c", code, "jobs", "export", run.id, "--output", output], env=os.environ)
    assert done.returncode == -9
    assert not output.exists()
    exported(run, workspace)
    assert [path.name for path in workspace.models.iterdir()] == ["out"]


def test_card_tells_source_method_data_and_curve(run, workspace):
    _, output = exported(run, workspace)
    card = (output / "README.md").read_text()
    report = json.loads((output / "clp_transfer.json").read_text())
    for told in (
        "| source model | `source` |", "| helper model | `helper` |", "| method | `linear`", "match `raw`, seed 42",
        f"| tokens initialised | {report['missing']:,} |", "| training text | `train.txt`, content under its tokenizer "
        f"`{'d' * 16}` |", f"| held-out text | `valid.txt`, SHA-256 `{'a' * 16}` |", "| tokens seen | 25,600 |",
        "| steps | 200 of 400 planned, 128 tokens each |", "| devices | cpu (CPU, 2 cores) |",
        "| learning rate | 0.001 |", "torch 2.", "## Limits",
        "| source model | apache-2.0 |", "| helper model | not stated |", "| this model | not stated |",
        "not tuned to follow instructions",
    ):  # fmt: skip
        assert told in card, told
    lines = [line for line in lines_of(200) if "eval_loss" in line]
    assert f"{lines[0]['bits_per_byte']:.4g} at step 0, {lines[-1]['bits_per_byte']:.4g} at step 200" in card
    table = card.partition("| step | tokens")[2].partition("\n\n")[0].splitlines()[2:]
    assert len(table) == len(lines) == 5
    rows = list(csv.DictReader((output / "training_curve.csv").read_text().splitlines()))
    assert [float(row["bits_per_byte"]) for row in rows if row["bits_per_byte"]] == [
        li["bits_per_byte"] for li in lines
    ]
    assert sum(bool(row["loss"]) for row in rows) == 200
    assert max(int(row["step"]) for row in rows) == 200


OLD_FACTS = {
    "run": "an old run",
    "origin": {"name": "source"},
    "step": 100,
    "tokens": None,
    "data": {"text": ["de.txt"], "eval_text": ""},
    "devices": [],
    "versions": {"torch": "2.9.0"},
    "settings": {"learning_rate": 1e-4},
    "curve": [{"step": 0, "eval_loss": 2, "bits_per_byte": 1.5}, {"step": 100, "tokens": 640, "eval_loss": 1.5}],
    "losses": [{"step": 10, "loss": 1.75}],
}
"""As they were before there were warnings, plans and obstacles in them."""
DAMAGED_FACTS = {
    "cut off": '{"runs": [{"run": "x"',
    "a list": "[1, 2]",
    "empty": "{}",
    "no run": json.dumps({"runs": ["x"]}),
    "no list": json.dumps({"runs": 7}),
    "a text for a number": json.dumps({"runs": [OLD_FACTS | {"step": "100"}]}),
    "an entry that is missing": json.dumps({"runs": [{key: OLD_FACTS[key] for key in OLD_FACTS if key != "curve"}]}),
    "a point without a step": json.dumps({"runs": [OLD_FACTS | {"curve": [{"eval_loss": 1.0}]}]}),
}


def test_facts_that_were_written_before_are_told_again(workspace, bf16_target, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(bf16_target, source)
    (source / "clp_training.json").write_text(json.dumps({"runs": [OLD_FACTS]}))
    job = make_run(workspace, "a new run", lines_of(50), model=str(source))
    add_checkpoint(job, source, 50)
    _, output = exported(job, workspace, checkpoint="last")
    told = json.loads((output / "clp_training.json").read_text())["runs"]
    assert [one["run"] for one in told] == ["an old run", "a new run"]
    assert told[0]["curve"][1]["tokens"] == 640
    assert told[0]["warnings"] == []
    assert [point.step for point in read_training_facts(output)[0].losses] == [10]
    assert read_training_facts(output) == runs_behind(job.checkpoints()[-1])
    assert "### Run 1: an old run" in (output / "README.md").read_text()


@pytest.mark.parametrize("content", DAMAGED_FACTS.values(), ids=DAMAGED_FACTS)
def test_damaged_facts_of_earlier_training_are_named_and_nothing_is_written(workspace, bf16_target, tmp_path, content):
    source = tmp_path / "source"
    shutil.copytree(bf16_target, source)
    (source / "clp_training.json").write_text(content)
    job = make_run(workspace, "a new run", lines_of(50), model=str(source))
    add_checkpoint(job, source, 50)
    with pytest.raises(InputError, match=r"source/clp_training\.json ") as refused:
        exported(job, workspace, checkpoint="last")
    assert "\n" not in str(refused.value)
    assert not (workspace.models / "out").exists()
    with pytest.raises(InputError, match=r"source/clp_training\.json "):
        push(PushOptions(str(source), "me/german", license="mit", dry_run=True), workspace)


def test_run_with_damaged_files_is_named(run, workspace):
    spec = json.loads((run.path / "spec.json").read_text())
    spec["fingerprints"] = {"eval_text": 7}
    write_json(run.path / "spec.json", spec)
    with pytest.raises(InputError, match=r"data\.eval_content"):
        exported(run, workspace)


def test_card_tells_what_flatters_the_scores_and_keeps_a_clusters_settings_to_itself(run, workspace):
    leak = "3 of 9 held-out lines stand in the training text too ('x'): the scores will flatter the run"
    write_json(run.path / "warnings.json", {"warnings": [leak]})
    spec = json.loads((run.path / "spec.json").read_text())
    asked = {"launcher": "slurm", "account": "secret-account", "sbatch": ["--mail-user=me@lab.org"], "nodes": 2}
    spec["arguments"] |= asked
    spec |= {"devices": []}
    spec["plan"] |= {"device_name": "2 machines with 4 GPUs each, through Slurm"}
    write_json(run.path / "spec.json", spec)
    write_json(run.path / "plan.json", {"steps": 300})
    _, output = exported(run, workspace)
    card, facts = ((output / name).read_text() for name in ("README.md", "clp_training.json"))
    assert leak in card
    assert leak in json.loads(facts)["runs"][0]["warnings"]
    assert "| steps | 200 of 300 planned" in card
    assert "2 machines with 4 GPUs each, through Slurm" in card
    assert not [word for word in ("secret-account", "me@lab.org", "signal before s") if word in card + facts]
    assert "teacher" not in json.loads(facts)["runs"][0]["settings"].keys() | set(card.split())
    spec["arguments"] |= {"teacher": "helper", "teacher_weight": 0.5}
    write_json(run.path / "spec.json", spec)
    _, output = exported(run, workspace, overwrite=True)
    assert json.loads((output / "clp_training.json").read_text())["runs"][0]["settings"]["teacher_weight"] == 0.5


def test_metadata_is_what_the_hub_reads(run, workspace):
    import yaml
    from huggingface_hub import ModelCard

    _, output = exported(run, workspace)
    data = ModelCard.load(output / "README.md").data
    assert (data.library_name, data.pipeline_tag, data.tags) == ("transformers", "text-generation", ["clp-transfer"])
    last = [line for line in lines_of(200) if "eval_loss" in line][-1]
    assert {(found.metric_type, found.metric_value) for found in data.eval_results} == {
        ("bits_per_byte", round(last["bits_per_byte"], 4)),
        ("perplexity", round(float(np.exp(last["eval_loss"])), 4)),
    }
    assert "base_model" not in yaml.safe_load((output / "README.md").read_text().split("---")[1])


def test_card_holds_no_path_of_this_machine(run, workspace, tmp_path, bf16_target):
    _, output = exported(run, workspace)
    for name in ("README.md", "clp_training.json", "training_curve.csv"):
        text = (output / name).read_text()
        for place in (tmp_path, bf16_target.parent, workspace.root, Path.home(), Path.cwd(), "/models/", "/texts/"):
            assert str(place) not in text, (name, place)
    assert str(bf16_target.parent) not in (bf16_target / "README.md").read_text()


def test_curve_of_many_evaluations_is_shown_in_ten_rows():
    curve = [{"step": step} for step in range(0, 1001, 7)]
    shown = shown_points(curve)
    assert len(shown) == 10
    assert (shown[0], shown[-1]) == (curve[0], curve[-1])


def test_models_of_the_hub_are_named_as_bases(bf16_target):
    report = json.loads((bf16_target / "clp_transfer.json").read_text())
    report["origins"]["source"] = {"name": "org/big", "hub": "org/big@" + "c" * 40, "licence": None}
    card = Card("x", TransferReport.of_json(report)).text()
    assert "base_model:\n- org/big\n" in card
    assert f"[org/big](https://huggingface.co/org/big) at `{'c' * 40}`" in card
    del report["origins"]
    report["source"] = "/home/someone/hub/models--org--big/snapshots/" + "c" * 40
    assert "base_model:\n- org/big\n" in Card("x", TransferReport.of_json(report)).text()
