"""The command line's contract: JSON keys, exit codes, one plain line for bad input."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support.commands import clp, clp_process, refused, result_of
from support.jobs import wait_for
from support.pages_run import ROOT


def test_overlap_gives_one_pair_for_two_tokenizers_and_all_for_three(folders, texts):
    two = result_of("overlap", folders["byte-level", "en"], folders["byte-level", "de"], "--text", texts[1])
    (pair,) = two["pairs"]
    assert set(pair) >= {
        "source", "target", "source_size", "target_size", "overlap", "share_of_source", "share_of_target",
    }  # fmt: skip
    assert pair["share_of_target"] == pair["overlap"] / pair["target_size"]
    assert 0 < pair["text"]["coverage"] < 1
    three = [folders["byte-level", "en"], folders["unigram", "de"], folders["wordpiece", "de"]]
    assert len(result_of("overlap", *three, "--match", "canonical")["pairs"]) == 3


def test_transfer_inspect_neighbours_project_and_evaluate(tmp_path, pair, texts):
    output = tmp_path / "target"
    report = result_of(
        "transfer",
        "--source",
        pair[0],
        "--helper",
        pair[1],
        "--output",
        output,
        "--method",
        "clp",
        "--eval-text",
        texts[1],
    )
    assert set(report) >= {
        "output", "method", "match", "overlap", "missing", "seconds", "peak_rss_bytes", "heldout", "health", "warnings",
    }  # fmt: skip
    assert set(report["heldout"]) >= {"centred_cosine", "relative_error"}
    assert set(report["health"]) >= {"rows_at_risk", "n_eff_median", "norm_ratio_max"}
    assert report["peak_rss_bytes"] > 50e6
    assert report["zero_step"]["sample"]
    found = result_of("inspect", output, "Ġund", "#5", "-k", 3)["tokens"]
    assert set(found[0]) >= {
        "token", "id", "status", "source_id", "n_eff", "cancellation", "norm_ratio", "anchors",
    }  # fmt: skip
    assert all(set(anchor) >= {"token", "id", "weight", "cosine"} for anchor in found[0]["anchors"])
    near = result_of("neighbors", output, "Ġund", "-k", 4)["tokens"][0]
    assert len(near["neighbors"]) == 4
    assert near["neighbors"][0]["cosine"] >= near["neighbors"][-1]["cosine"]
    first = result_of("project", output, "--output", tmp_path / "p.parquet", "--method", "pca")
    again = result_of("project", output, "--output", tmp_path / "p.parquet", "--method", "pca")
    assert (first["cached"], again["cached"]) == (False, True)
    score = result_of("evaluate", output, "--text", texts[1])
    assert set(score) >= {"loss", "perplexity", "bits_per_byte", "bytes_per_token", "tokens", "bytes"}
    assert score["bits_per_byte"] == pytest.approx(report["zero_step"]["bits_per_byte"])


@pytest.mark.process
def test_train_detached_then_jobs_show_stop_and_remove(pair, texts):
    given = ["--model", pair[0], "--text", texts[0], "--eval-text", texts[1], "--block-length", 32]
    given += ["--max-steps", 100_000, "--eval-every", 100_000, "--name", "a run"]
    started = result_of("train", *given, "--detach")
    assert started["state"] in ("queued", "starting", "running")
    name = os.path.basename(started["job"])
    assert [os.path.basename(job["job"]) for job in result_of("jobs", "list")["jobs"]] == [name]
    assert "stop it first" in refused("jobs", "remove", name)
    assert set(result_of("jobs", "stop", name)) == {"job", "name", "state", "reason", "reason_code", "step", "tokens"}
    wait_for(lambda: result_of("jobs", "show", name)["state"] == "stopped", 120)
    result_of("jobs", "remove", name)
    assert result_of("jobs", "list")["jobs"] == []


@pytest.mark.process
def test_train_in_the_foreground_gives_its_score(pair, texts):
    given = ["--model", pair[0], "--text", texts[0], "--eval-text", texts[1], "--block-length", 32]
    found = result_of("train", *given, "--max-tokens", 1000, "--batch-tokens", 128)
    assert set(found) >= {"job", "state", "step", "tokens", "eval_loss", "bits_per_byte"}
    assert (found["state"], found["step"], found["tokens"]) == ("finished", 8, 1024)


def test_compare_methods_ranks_and_advises(pair, tmp_path):
    given = ["--source", pair[0], "--helper", pair[1], "--methods", "clp,mean", "--folds", 3]
    found = result_of("compare-methods", *given, "--figure", tmp_path / "methods.html")
    assert {row["method"] for row in found["methods"]} == {"clp", "mean"}
    assert all(set(row) >= {"method", "heldout", "zero_step_bits_per_byte", "seconds"} for row in found["methods"])
    assert "clp" in (tmp_path / "methods.html").read_text()
    assert found["methods"][0]["method"] in found["advice"]


OUTPUT = ["--output", "{out}"]
PAIR = ["--source", "{source}", "--helper", "{helper}"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["overlap", "{source}"], "two tokenizers"),
        (["overlap", "{source}", "/no/such/folder"], "no folder /no/such/folder"),
        (["overlap", "{source}", "{helper}", "--match", "fuzzy"], "--match: 'fuzzy'"),
        (["overlap", "{source}", "{helper}", "--text", "{empty}"], "{empty} holds no text"),
        (["transfer", *PAIR], "--output"),
        (["transfer", *PAIR, *OUTPUT, "--method", "x"], "--method: 'x'"),
        (["transfer", *PAIR, *OUTPUT, "--seed", "many"], "--seed"),
        (["transfer", "--source", "org/model", "--helper", "{helper}", *OUTPUT], "org/model"),
        (["transfer", "--source", "{bare}", "--helper", "{helper}", *OUTPUT], "no config.json"),
        (["evaluate", "{source}", "--text", "{empty}"], "{empty} holds no text"),
        (["evaluate", "{source}", "--text", "/no/text"], "no text /no/text"),
        (["neighbors", "{source}", "Donaudampfschiff"], "Donaudampfschiff"),
        (["inspect", "{source}", "#1"], "{source} was not written"),
        (["jobs", "show", "../../etc"], "'../../etc'"),
        (["project", "{source}", *OUTPUT], ".parquet"),
        (["dance"], "dance"),
    ],
)
def test_bad_input_is_one_plain_line_and_exit_code_two(tmp_path, pair, arguments, told):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bare").mkdir()
    places = {"source": pair[0], "helper": pair[1], "empty": tmp_path / "empty.txt", "bare": tmp_path / "bare"}
    places["out"] = tmp_path / "out"
    assert told.format(**places) in refused(*[part.format(**places) for part in arguments])
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_process_of_a_command_ends_as_the_command_says(folders):
    found = result_of("overlap", folders["byte-level", "en"], folders["byte-level", "de"], run=clp_process)
    assert found["pairs"][0]["overlap"] > 256
    assert "/no/such/folder" in refused("overlap", folders["byte-level", "en"], "/no/such/folder", run=clp_process)


def test_help_names_every_command():
    done = clp("--help")
    assert done.returncode == 0
    for name in (
        "overlap", "transfer", "compare-methods", "inspect", "neighbors", "project", "train", "evaluate", "jobs",
        "demo", "app",
    ):  # fmt: skip
        assert name in done.stdout


HEAVY = ("torch", "transformers", "numpy", "pandas", "faiss", "scipy", "streamlit", "datasets", "pyarrow", "pydantic")


def loaded_by(code):
    """Run code in a process of its own; return the heavy libraries that it has loaded in the end."""
    code = f"import json, sys\n{code}\nprint(json.dumps([name for name in {HEAVY} if name in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.process
def test_help_loads_no_heavy_library():
    assert loaded_by("from clp_core.cli import main; assert main(['--help']) == 0") == []


@pytest.mark.process
def test_core_never_imports_streamlit():
    code = """
import pkgutil, importlib, clp_core
for module in pkgutil.walk_packages(clp_core.__path__, "clp_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""
    assert "streamlit" not in loaded_by(code)


@pytest.mark.process
def test_web_process_never_loads_torch(space):
    code = """
from streamlit.testing.v1 import AppTest
app = AppTest.from_file("app.py", default_timeout=120).run()
assert app.title and not app.exception
"""
    assert not {"torch", "transformers"} & set(loaded_by(code))


def test_every_tokenizer_argument_may_be_a_folder_alone(tmp_path, folders):
    lone = shutil.copytree(folders["unigram", "de"], tmp_path / "lone")
    assert result_of("overlap", lone, folders["byte-level", "de"])["pairs"][0]["target_size"] > 0
