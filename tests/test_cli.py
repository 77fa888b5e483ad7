"""The command line's contract: JSON keys, exit codes, one plain line for bad input."""

import os
import shutil
import subprocess
import sys

import pytest
from support.commands import clp, result_of


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


def test_train_detached_then_jobs_show_stop_and_remove(pair, texts):
    given = [
        "--model",
        pair[0],
        "--text",
        texts[0],
        "--eval-text",
        texts[1],
        "--max-steps",
        100000,
        "--block-length",
        32,
    ]
    started = result_of("train", *given, "--eval-every", 100000, "--name", "a run", "--detach")
    assert started["state"] in ("queued", "starting", "running")
    name = os.path.basename(started["job"])
    assert [os.path.basename(job["job"]) for job in result_of("jobs", "list")["jobs"]] == [name]
    refused = clp("jobs", "remove", name)
    assert refused.returncode == 2
    assert "stop it first" in refused.stderr
    assert set(result_of("jobs", "stop", name)) == {"job", "state", "reason", "step", "tokens"}
    import time

    for _ in range(600):
        state = result_of("jobs", "show", name)["state"]
        if state == "stopped":
            break
        time.sleep(0.2)
    assert state == "stopped"
    result_of("jobs", "remove", name)
    assert result_of("jobs", "list")["jobs"] == []


def test_train_in_the_foreground_gives_its_score(pair, texts):
    given = [
        "--model",
        pair[0],
        "--text",
        texts[0],
        "--eval-text",
        texts[1],
        "--max-tokens",
        1000,
        "--block-length",
        32,
    ]
    found = result_of("train", *given, "--batch-tokens", 128)
    assert set(found) >= {"job", "state", "step", "tokens", "eval_loss", "bits_per_byte"}
    assert (found["state"], found["step"], found["tokens"]) == ("finished", 8, 1024)


def test_compare_methods_ranks_and_advises(pair, tmp_path):
    given = ["--source", pair[0], "--helper", pair[1], "--methods", "clp,mean", "--folds", 3]
    found = result_of("compare-methods", *given, "--figure", tmp_path / "methods.html")
    assert {row["method"] for row in found["methods"]} == {"clp", "mean"}
    assert all(set(row) >= {"method", "heldout", "zero_step_bits_per_byte", "seconds"} for row in found["methods"])
    assert "clp" in (tmp_path / "methods.html").read_text()
    assert found["methods"][0]["method"] in found["advice"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["overlap", "{source}"], "name two tokenizers"),
        (["overlap", "{source}", "/no/such/folder"], "there is no folder /no/such/folder"),
        (["overlap", "{source}", "{helper}", "--match", "fuzzy"], "'fuzzy' is unknown"),
        (["overlap", "{source}", "{helper}", "--text", "{empty}"], "holds no text"),
        (["transfer", "--source", "{source}", "--helper", "{helper}"], "--output"),
        (
            ["transfer", "--source", "{source}", "--helper", "{helper}", "--output", "{out}", "--method", "x"],
            "'x' is unknown",
        ),
        (["transfer", "--source", "{source}", "--helper", "{helper}", "--output", "{out}", "--seed", "many"], "--seed"),
        (
            ["transfer", "--source", "org/model", "--helper", "{helper}", "--output", "{out}"],
            "Hub could not be reached",
        ),
        (["transfer", "--source", "{bare}", "--helper", "{helper}", "--output", "{out}"], "holds no config.json"),
        (["evaluate", "{source}", "--text", "{empty}"], "holds no text"),
        (["evaluate", "{source}", "--text", "/no/text"], "there is no text /no/text"),
        (["neighbors", "{source}", "Donaudampfschiff"], "is no token of"),
        (["inspect", "{source}", "#1"], "was not written by a transfer"),
        (["jobs", "show", "../../etc"], "is no job's name"),
        (["project", "{source}", "--output", "{out}"], "must end in .parquet"),
        (["dance"], "No such command"),
    ],
)
def test_bad_input_is_one_plain_line_and_exit_code_two(tmp_path, pair, arguments, told):
    (tmp_path / "empty.txt").write_text("")
    (tmp_path / "bare").mkdir()
    places = {"source": pair[0], "helper": pair[1], "empty": tmp_path / "empty.txt", "bare": tmp_path / "bare"}
    places["out"] = tmp_path / "out"
    done = clp(*[part.format(**places) for part in arguments])
    assert done.returncode == 2, done.stderr
    lines = done.stderr.strip().splitlines()
    assert told in lines[-1]
    assert lines[-1].startswith("clp: ")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()


def test_help_comes_fast_and_names_every_command():
    done = clp("--help")
    assert done.returncode == 0
    for name in (
        "overlap",
        "transfer",
        "compare-methods",
        "inspect",
        "neighbors",
        "project",
        "train",
        "evaluate",
        "jobs",
        "demo",
        "app",
    ):
        assert name in done.stdout
    code = "import sys, clp_core.cli; print('torch' in sys.modules, 'transformers' in sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == ["False", "False"]


def test_core_never_imports_streamlit_and_the_web_process_never_torch():
    code = """
import sys, pkgutil, importlib, clp_core
for module in pkgutil.walk_packages(clp_core.__path__, "clp_core."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
assert "streamlit" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_tokenizer_argument_may_be_a_folder_alone(tmp_path, folders):
    lone = shutil.copytree(folders["unigram", "de"], tmp_path / "lone")
    assert result_of("overlap", lone, folders["byte-level", "de"])["pairs"][0]["target_size"] > 0
