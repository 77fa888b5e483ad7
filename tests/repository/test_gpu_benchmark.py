"""The GPU proof in miniature: every item runs or says why not, and one that fails or hangs takes no other with it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

from gpu_items import contain, kit, made  # noqa: E402 (found by the path above)

ITEMS = ("transfer", "train", "throughput", "experiment", "savings", "faiss")
VERDICTS = {"passed", "failed", "met", "missed", "skipped"}


def run_proof(folder: Path, *arguments: str) -> tuple[int, dict, str]:
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--smoke", *arguments]
    places = ["--output", str(folder / "out"), "--work", str(folder / "work")]
    done = subprocess.run([*command, *places], capture_output=True, text=True)
    assert (folder / "out" / "gpu.json").is_file(), done.stderr
    return done.returncode, json.loads((folder / "out" / "gpu.json").read_text()), done.stdout


@pytest.fixture(scope="module")
def proof(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gpu")
    return folder, *run_proof(folder)


@pytest.mark.process
class TestWholeProof:
    def test_every_item_runs_or_says_why_not(self, proof):
        folder, code, content, printed = proof
        assert code == 0, printed
        assert tuple(content["items"]) == ITEMS
        for name, item in content["items"].items():
            assert item["status"] == "passed", (name, item["error"], item["log"])
            assert item["left_processes"] == 0
            assert item == json.loads((folder / "out" / f"{name}.json").read_text())
            for check in item["checks"].values():
                assert check["verdict"] in VERDICTS
                assert check["detail"]
        assert (folder / "out" / "report.md").read_text() in printed
        assert len(list((folder / "out").iterdir())) <= 8

    def test_what_needs_a_gpu_is_skipped_and_not_made_up(self, proof):
        items = proof[2]["items"]
        reasons = {
            name: [check["detail"] for check in item["checks"].values() if check["verdict"] == "skipped"]
            for name, item in items.items()
        }
        for name in set(ITEMS) - {"experiment"}:
            assert any("needs a GPU" in reason for reason in reasons[name]), name
        assert not any(
            check["verdict"] in ("met", "missed")
            for name in ("throughput", "savings")
            for check in items[name]["checks"].values()
        )

    def test_rows_of_both_products_agree(self, proof):
        transfers = proof[2]["items"]["transfer"]["figures"]["transfers"]
        assert set(transfers) == {"demo clp", "demo linear", "made clp", "made linear"}
        for figures in transfers.values():
            assert figures["rows"] > 100
            assert figures["rows_beyond"] == 0
            assert figures["largest_relative_difference"] < 0.01

    def test_a_stopped_run_resumes_with_the_same_losses(self, proof):
        figures = proof[2]["items"]["train"]["figures"]
        losses = figures["losses"]
        assert len(losses["whole"]) == 6
        assert losses["stopped"] == pytest.approx(losses["whole"], rel=1e-6)
        assert len(set(losses["whole"])) > 1

    def test_speed_memory_and_refusals_are_figures(self, proof):
        shapes = proof[2]["items"]["throughput"]["figures"]["shapes"]
        assert shapes["tiny"]["tokens_per_s"] > 0
        assert shapes["tiny"]["bare_tokens_per_s"] > 0
        assert shapes["tiny"]["planned_bytes"] > shapes["tiny"]["parameters"] * 16
        assert shapes["8B"]["parameters"] == 8_030_261_248
        assert shapes["8B"].get("planned_bytes", 1e11) > 9e10

    def test_the_experiment_scores_its_run(self, proof):
        arms = proof[2]["items"]["experiment"]["figures"]["bits_per_byte"]
        assert 1 < arms["auto-taught"]["german_after"][0] < 10

    def test_variants_of_the_loop_start_from_the_same_loss(self, proof):
        variants = proof[2]["items"]["savings"]["figures"]["variants"]
        first = {name: figures["first_loss"] for name, figures in variants.items()}
        assert "plain" in first
        assert all(loss == pytest.approx(first["plain"], rel=1e-3) for loss in first.values())


@pytest.mark.process
def test_items_that_fail_or_hang_take_no_other_with_them(tmp_path):
    arguments = ("--items", "experiment,savings,faiss", "--source", str(tmp_path / "nowhere"), "--limit", "savings=0.1")
    code, content, _ = run_proof(tmp_path, *arguments)
    items = content["items"]
    assert code == 1
    assert items["experiment"]["status"] == "failed"
    assert items["experiment"]["error"]
    assert items["savings"]["error"] == "killed at its limit of 0.1 s"
    assert items["faiss"]["status"] == "passed"
    code, content, printed = run_proof(tmp_path, "--items", "faiss", "--resume")
    assert code == 0
    assert "passed in an earlier call" in printed
    assert content["items"]["savings"]["status"] == "failed"


@pytest.mark.process
def test_a_process_that_left_its_session_is_killed_at_the_limit(tmp_path):
    pid_file = tmp_path / "pid"
    detached = f"import os, time; open({str(pid_file)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    code = (
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {detached!r}], start_new_session=True)\n"
        "time.sleep(600)"
    )
    outcome = contain.run_contained([sys.executable, "-c", code], 5, tmp_path / "log.txt", os.environ)
    assert outcome.timed_out
    assert outcome.left == 1
    assert not psutil.pid_exists(int(pid_file.read_text()))


def test_limits_shrink_to_the_time_that_is_left(monkeypatch):
    import gpu

    args = gpu.parser().parse_args(["--minutes", "9", "--items", "train,faiss"])
    proof = gpu.Proof(args, ["train", "faiss"])
    assert proof.limit_of(0) == pytest.approx(300)
    monkeypatch.setattr(time, "monotonic", lambda began=proof._began: began + 480)
    assert proof.limit_of(1) == pytest.approx(60)
    args = gpu.parser().parse_args(["--limit", "faiss=30"])
    assert gpu.limits_of(["train", "faiss"], False, args.limit) == {"train": 300, "faiss": 30}


def test_only_what_is_complete_is_left_out_by_resume():
    import gpu

    passed, missed = {"verdict": "passed"}, {"verdict": "missed"}
    assert gpu.status_of({"a": passed, "b": missed}) == "passed"
    assert gpu.status_of({"a": passed, "b": {"verdict": "incomplete"}}) == "incomplete"
    assert gpu.status_of({"a": {"verdict": "skipped"}}) == "skipped"


def test_methods_of_the_transfers_exist():
    from gpu_items import transfers

    from clp_core.initializers import INITIALIZERS

    named = {method for methods in transfers.METHODS.values() for method in methods}
    assert named - {"auto"} <= set(INITIALIZERS)


def test_every_shape_and_arm_is_accepted_by_the_options(tmp_path):
    from gpu_items import experiment, runs, throughput

    from clp_core.training.options import TrainOptions

    for trial in throughput.FULL + throughput.MINIATURE:
        TrainOptions(model="m", text=("t",), eval_text="v", **throughput.fields_of(trial))
    for size in (experiment.FULL, experiment.MINIATURE):
        TrainOptions(model="m", text=("t",), eval_text="v", max_tokens=1, **size.train)
    assert runs.FULL.save_every < runs.FULL.kill_at < runs.FULL.steps
    assert runs.FULL.stop_at % runs.FULL.save_every


def test_made_weights_have_the_names_and_shapes_of_the_classes(tmp_path):
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    for config in (
        made.gpt2_config(50, 16, 2, 2, 8),
        made.llama_config(50, 16, 2, 4, 2, 24, 8, tied=True),
        made.llama_config(50, 16, 2, 4, 2, 24, 8, tied=False),
    ):
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**config))
        shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
        assert made.weight_shapes(config) == shapes
    made.write_model(tmp_path / "hollow", config, hollow=True)
    made.write_model(tmp_path / "whole", config)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("hollow", "whole")]
    assert sizes[0] == sizes[1]


class TestKit:
    @pytest.fixture
    def packed(self, tmp_path, monkeypatch):
        monkeypatch.setattr(kit, "PART_BYTES", 4000)
        corpora = tmp_path / "corpora"
        for language in ("de", "en"):
            (corpora / language).mkdir(parents=True)
            (corpora / language / "a.txt.xz").write_bytes(os.urandom(5000))
        archive = tmp_path / "experiment.tar"
        kit.pack_experiment(archive, "", str(corpora))
        folder = tmp_path / "kit"
        kit.write_parts([archive], folder)
        return folder, corpora

    def test_parts_are_joined_and_unpacked(self, packed):
        folder, corpora = packed
        assert all(part.stat().st_size <= 4000 for part in (folder / "parts").glob("*/*"))
        assert kit.join(folder) == 0
        for path in corpora.rglob("*.xz"):
            assert (folder / "experiment" / "corpora" / path.relative_to(corpora)).read_bytes() == path.read_bytes()

    def test_a_missing_part_is_named_and_waited_for(self, packed, capsys):
        folder, _ = packed
        (folder / "parts" / "01" / "experiment.tar.01").unlink()
        assert kit.join(folder) == 0
        assert "parts/01/experiment.tar.01" in capsys.readouterr().out
        assert not (folder / "experiment").exists()

    def test_a_broken_part_is_refused(self, packed, capsys):
        folder, _ = packed
        part = folder / "parts" / "00" / "experiment.tar.00"
        part.write_bytes(b"x" + part.read_bytes()[1:])
        assert kit.join(folder) == 1
        assert "parts/00/experiment.tar.00" in capsys.readouterr().out
        assert not (folder / "experiment").exists()

    def test_the_calls_take_every_part_along(self, packed):
        folder, _ = packed
        parts = [part["name"] for part in json.loads((folder / "manifest.json").read_text())["experiment.tar"]["parts"]]
        told = kit.calls(folder)
        assert all(f"{folder.name}/{Path(part).parent}:" in told for part in parts)
        assert "--items experiment" in told

    def test_a_gguf_file_travels_in_place_of_wider_weights(self, tmp_path):
        source = tmp_path / "source"
        source.mkdir()
        for name in ("config.json", "model.safetensors", "small.gguf"):
            (source / name).write_text(name)
        kit.pack_experiment(tmp_path / "experiment.tar", str(source), "")
        with tarfile.open(tmp_path / "experiment.tar") as archive:
            names = [Path(member.name).name for member in archive]
        assert names == ["config.json", "small.gguf"]
        assert kit.sha256(source / "config.json") == hashlib.sha256(b"config.json").hexdigest()
