"""Fetching from the Hub and pushing to it: the real client against a small server on the loopback."""

import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import HfApi
from support.awkward_models import model_in_layout
from support.commands import clp, clp_process, refused, result_of
from support.hub import use_hub
from support.hub_server import TOKEN, USER
from support.jobs import end_of, wait_for
from support.made_runs import add_checkpoint, lines_of, made_target, make_run
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.errors import ClpError, InputError
from clp_core.hub import errors
from clp_core.hub.errors import explained
from clp_core.hub.repo_id import HubName
from clp_core.hub.resolve import locate
from clp_core.jobs import JobStore
from clp_core.publishing.export import export
from clp_core.publishing.export_options import ExportOptions
from clp_core.publishing.push import push
from clp_core.publishing.push_options import PushOptions
from clp_core.submission import submit_prepare, submit_push

STEP = 10 << 20
"""The client writes in parts of this size."""
LOCATE = (sys.executable, "-c", "import sys; from clp_core.hub.resolve import locate; print(locate(sys.argv[1]))")


@pytest.fixture
def hasty(monkeypatch):
    """In this process nobody waits long before the Hub is asked again."""
    monkeypatch.setattr(errors, "WAITS_S", (0.01,) * len(errors.WAITS_S))
    clock = SimpleNamespace(**vars(time) | {"sleep": lambda seconds: time.sleep(seconds / 100)})
    for module in ("huggingface_hub.file_download", "huggingface_hub.utils._http"):
        monkeypatch.setattr(f"{module}.time", clock)


SETTINGS = """
from datasets import config
from huggingface_hub import constants
values = (str, bool, int, float, constants.Path, type(None))
settings = [
    (module.__name__, name, str(value))
    for module in (constants, config)
    for name, value in sorted(vars(module).items())
    if name.isupper() and isinstance(value, values)
]
"""


@pytest.mark.process
def test_libraries_that_are_loaded_take_the_server_as_a_process_that_starts_with_it(hub, online):
    found = {}
    exec(SETTINGS, found)
    code = SETTINGS + "import json; print(json.dumps(settings))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert [list(setting) for setting in found["settings"]] == json.loads(done.stdout)
    assert ("huggingface_hub.constants", "ENDPOINT", hub.endpoint) in found["settings"]


@contextlib.contextmanager
def spoilt(hub, file):
    """Let the Hub send another content of the same length than that whose hash it names."""
    oid = hashlib.sha256(file.read_bytes()).hexdigest()
    right = hub.objects[oid]
    hub.objects[oid] = right[:-6] + b"spoilt"
    try:
        yield
    finally:
        hub.objects[oid] = right


def weights_asked(hub):
    return [request for request in hub.log if request.method == "GET" and "/cdn/" in request.path]


@pytest.mark.process
def test_model_is_fetched_by_its_id_and_then_found_without_the_network(hub, online, pair, monkeypatch):
    hub.add("org/name", pair[0])
    found = result_of("prepare", "org/name", run=clp_process)
    folder = Path(found["folder"])
    assert folder.parts[-3:-1] == ("models--org--name", "snapshots")
    assert folder.name == hub.repos["models", "org/name"].refs["main"]
    assert same_weights(folder, pair[0])
    asked = len(hub.log)
    use_hub(monkeypatch, HF_HUB_OFFLINE="1")
    assert locate("org/name") == folder
    assert len(hub.log) == asked


@pytest.mark.process
def test_progress_of_bytes_is_in_the_heartbeat_of_the_job(hub, online, big_model, workspace):
    hub.add("org/big", big_model)
    hub.slow_s = 0.002
    job = submit_prepare(workspace, "org/big")
    total = (big_model / "model.safetensors").stat().st_size
    seen = set()

    def has_moved():
        beat = job.heartbeat()
        if beat.get("phase") == "fetching org/big":
            assert total <= beat["bytes_total"] < 1.01 * total
            seen.add(beat["bytes_done"])
        return any(0 < done < total for done in seen) or job.status().is_over

    wait_for(has_moved, 120)
    assert end_of(job, 120).state == "finished", job.log_tail()
    assert any(0 < done < total for done in seen)


def test_connection_that_breaks_is_taken_up_where_it_broke(hub, online, hasty, big_model):
    hub.add("org/big", big_model)
    hub.drop("/cdn/", STEP + 1000)
    folder = locate("org/big")
    first, second = weights_asked(hub)
    assert first.sent == STEP + 1000
    assert second.range == f"bytes={STEP}-"
    assert same_weights(folder, big_model)


def test_connection_that_stays_broken_is_told_and_the_next_try_fetches(hub, online, hasty, big_model):
    hub.add("org/big", big_model)
    hub.drop("/cdn/", STEP + 1000)
    hub.drop("/cdn/", 0, times=99)
    assert "connection broke while org/big" in refused("prepare", "org/big", code=1)
    hub.drops.clear()
    assert same_weights(locate("org/big"), big_model)
    assert not list(online.rglob("*.incomplete"))


def test_whole_files_of_a_try_that_failed_are_not_fetched_again(hub, online, hasty, pair, tmp_path, tokenizers):
    source = model_in_layout(tmp_path / "source", tokenizers["byte-level", "en"], "shards")
    hub.add("org/name", source)
    _, *others = sorted(path.name for path in source.glob("*.safetensors"))
    hub.fail(f"/{others[0]}", 501, times=99)
    refused("prepare", "org/name", code=1)
    hub.failures.clear()
    before = len(weights_asked(hub))
    folder = locate("org/name")
    assert {request.path.rpartition("/")[2] for request in weights_asked(hub)[before:]} <= set(others)
    assert len(list(folder.glob("*.safetensors"))) == len(others) + 1


@pytest.mark.process
def test_killed_fetch_leaves_no_half_file_under_its_name(hub, online, big_model):
    hub.add("org/big", big_model)
    hub.slow_s = 0.003
    process = subprocess.Popen([*LOCATE, "org/big"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(lambda: any(path.stat().st_size >= STEP for path in online.rglob("*.incomplete")), 120)
    process.kill()
    process.wait()
    assert not list(online.rglob("*.safetensors"))
    hub.slow_s = 0.0
    assert same_weights(locate("org/big"), big_model)


def test_fetch_of_another_content_is_not_kept(hub, online, big_model):
    hub.add("org/big", big_model)
    with spoilt(hub, big_model / "model.safetensors"):
        assert "checksum mismatch for model.safetensors" in refused("prepare", "org/big", code=1)
    assert not list(online.rglob("*.safetensors"))
    assert same_weights(locate("org/big"), big_model)


def test_another_content_is_found_that_a_failed_try_has_left(hub, online, hasty, tmp_path, tokenizers):
    source = model_in_layout(tmp_path / "source", tokenizers["byte-level", "en"], "shards")
    hub.add("org/name", source)
    first, *others = sorted(source.glob("*.safetensors"))
    with spoilt(hub, first):
        hub.fail(f"/{others[0].name}", 501, times=99)
        refused("prepare", "org/name", code=1)
        assert first.name in {path.name for path in online.rglob("*.safetensors")}
        hub.failures.clear()
    assert f"checksum mismatch for {first.name}" in refused("prepare", "org/name", code=1)
    folder = locate("org/name")
    assert all((folder / path.name).read_bytes() == path.read_bytes() for path in (first, *others))


def test_content_that_could_not_be_compared_is_compared_by_the_next_fetch(hub, online, hasty, big_model, monkeypatch):
    hub.add("org/big", big_model)
    verify = HfApi.verify_repo_checksums

    def verify_without_the_hub(*args, **kwargs):
        hub.fail("/tree/", 501)
        return verify(*args, **kwargs)

    with spoilt(hub, big_model / "model.safetensors"):
        with monkeypatch.context() as patched:
            patched.setattr(HfApi, "verify_repo_checksums", verify_without_the_hub)
            assert "501" in refused("prepare", "org/big", code=1)
        assert len(weights_asked(hub)) == 1
        assert "checksum mismatch" in refused("prepare", "org/big", code=1)
        assert len(weights_asked(hub)) == 1
    assert same_weights(locate("org/big"), big_model)


def test_model_whose_files_are_not_listed_is_not_taken_for_whole(hub, online, hasty, big_model):
    hub.add("org/big", big_model)
    hub.fail("/tree/", 501)
    assert "did not list" in refused("prepare", "org/big", code=1)
    assert same_weights(locate("org/big"), big_model)


def test_only_the_weights_that_are_loaded_are_fetched(hub, online, pair):
    files = {path.name: path.read_bytes() for path in pair[0].iterdir()}
    weights = files.pop("model.safetensors")
    index = {"metadata": {}, "weight_map": {"a": "model-00001-of-00001.safetensors"}}
    files |= {
        "model.safetensors.index.json": json.dumps(index).encode(),
        "model-00001-of-00001.safetensors": weights,
        "consolidated.safetensors": b"x" * 2_000_000,
        "pytorch_model.bin": b"x" * 2_000_000,
        "onnx/config.json": b"{}",
    }
    hub.add("org/name", files)
    locate("org/name")
    assert {request.path.rpartition("/")[2] for request in weights_asked(hub)} == {"model-00001-of-00001.safetensors"}
    assert not any("onnx" in request.path for request in hub.log)


def test_pickled_weights_are_fetched_where_there_are_no_others(hub, online, pair):
    files = {path.name: path.read_bytes() for path in pair[0].iterdir() if path.name != "model.safetensors"}
    hub.add("org/old", files | {"pytorch_model.bin": b"\x80" + b"x" * 2_000_000})
    folder = locate("org/old")
    assert (folder / "pytorch_model.bin").stat().st_size == 2_000_001


def test_revision_is_fetched_that_the_name_asks_for(hub, online, pair):
    repo = hub.add("org/name", pair[1])
    first = repo.refs["main"]
    hub.commit(repo, pair[0], "second")
    assert locate(f"org/name@{first}").name == first
    assert locate("org/name").name == repo.refs["main"] != first
    assert "not that revision" in refused("prepare", "org/name@none")
    assert HubName.parse("org/name@v1.0/x") == HubName("org/name", "v1.0/x")
    assert HubName.parse("org/name@") is HubName.parse("../x") is HubName.parse("a/b/c") is None


def test_each_way_to_be_refused_is_told_in_a_line_of_its_own(hub, online, pair):
    hub.add("org/gated", pair[0], gated=True)
    hub.add("org/private", pair[0], private=True)
    hub.add("org/nothing", {"README.md": b"nothing here"})
    hub.add("org/gguf", {"config.json": b"{}", "model.gguf": b"x"})
    told = refused("prepare", "org/gated")
    assert f"`hf auth login` ({hub.endpoint}/org/gated" in told
    for name in ("org/private", "org/none"):
        assert f"no model {name}" in (told := refused("prepare", name))
        assert "`hf auth login`" in told
    assert "org/nothing holds no config.json" in refused("prepare", "org/nothing")
    assert "org/gguf holds GGUF weights" in refused("prepare", "org/gguf")


@pytest.mark.parametrize("with_config", [True, False])
def test_adapter_of_the_hub_is_named_with_its_base_model(hub, online, with_config):
    files = {"adapter_config.json": b'{"peft_type": "LORA", "base_model_name_or_path": "org/base"}',
             "adapter_model.safetensors": b"x"}  # fmt: skip
    hub.add("org/adapter", files | ({"config.json": b"{}"} if with_config else {}))
    told = refused("prepare", "org/adapter")
    assert "org/adapter holds a LoRA adapter of org/base" in told
    assert "merge_and_unload()" in told


@pytest.mark.parametrize("layout", ["named file", "named index", "single beside stale shards", "shards"])
def test_weights_are_fetched_that_transformers_would_load(hub, online, tmp_path, tokenizers, layout):
    source = model_in_layout(tmp_path / "source", tokenizers["byte-level", "en"], layout)
    hub.add("org/name", source)
    fetched = Checkpoint.open("org/name")
    own = Checkpoint.open(source)
    assert [path.name for path in fetched.files] == [path.name for path in own.files]
    assert {path.name for path in fetched.folder.glob("*.safetensors")} == {path.name for path in own.files}
    expected, found = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (source, fetched.folder))
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_token_without_rights_is_told_apart_from_no_token(hub, online, logged_in, pair):
    hub.add("org/gated", pair[0], gated=True)
    assert "your account has no access" in refused("prepare", "org/gated")
    assert "your account or token" in refused("prepare", "org/none")
    hub.add("org/name", pair[0])
    hub.fail("/api/models/org/name", 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
    assert "refuses org/name to your token" in refused("prepare", "org/name")


def test_token_goes_to_the_hub_alone(hub, online, logged_in, big_model):
    hub.add("org/big", big_model, private=True)
    locate("org/big")
    assert all(request.has_token for request in hub.log if "/resolve/" in request.path)
    assert not any(request.has_token for request in weights_asked(hub))


@pytest.mark.process
def test_hub_that_is_down_for_a_moment_is_asked_again(hub, online, big_model):
    hub.add("org/big", big_model)
    for text in ("/api/models/org/big", "HEAD /org/big/resolve", "GET /cdn/"):
        hub.fail(text, 503)
    assert same_weights(locate("org/big"), big_model)


def test_hub_that_stays_down_is_told_and_what_is_cached_is_used(hub, online, hasty, pair):
    hub.add("org/name", pair[0])
    hub.fail("/api/models/org/name", 501, times=99)
    assert "501 for org/name" in refused("prepare", "org/name", code=1)
    hub.failures.clear()
    folder = locate("org/name")
    hub.fail("/api/models/org/name", 501, times=99)
    assert locate("org/name") == folder


@pytest.mark.process
def test_hub_out_of_reach_is_told(online, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    told = refused("prepare", "org/name", run=clp_process)
    assert told.startswith("clp: org/name is no folder here")
    assert "the Hub could not be reached" in told


def test_model_that_does_not_fit_is_refused_before_it_is_fetched(hub, online, big_model, monkeypatch):
    hub.add("org/big", big_model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1000, total=1, used=1))
    assert "0.0 MB free" in refused("prepare", "org/big")
    assert not weights_asked(hub)


@pytest.mark.process
def test_disk_that_fills_up_is_told(hub, online, big_model):
    hub.add("org/big", big_model)

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (STEP + 4096, STEP + 4096))

    command = [sys.executable, "-m", "clp_core", "prepare", "org/big"]
    done = subprocess.run(command, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 2
    assert "clp: the disk is full: org/big does not fit; make room" in done.stderr
    assert not list(online.rglob("*.incomplete"))
    assert same_weights(locate("org/big"), big_model)


def test_page_finds_a_fetched_model_again(hub, online, pair):
    """The client itself calls a snapshot incomplete that lacks files nobody asked for."""
    from components.models import folder_of

    hub.add("org/name", {path.name: path.read_bytes() for path in pair[0].iterdir()} | {"logo.png": b"x"})
    folder = locate("org/name")
    assert folder_of("org/name") == folder


@pytest.mark.process
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_dataset_of_the_hub_scores_and_trains_like_the_file(hub, online, workspace, pair, texts, tmp_path, ending):
    import pyarrow
    import pyarrow.parquet

    rows = [{"text": line} for line in texts[0].read_text().splitlines()]
    file = tmp_path / f"train.{ending}"
    if ending == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    card = b"---\nlicense: mit\n---\n"
    hub.add("org/text", {file.name: file.read_bytes(), "README.md": card}, kind="datasets")
    there = clp_process if ending == "jsonl" else clp
    scored = result_of("evaluate", pair[0], "--text", "hub:org/text", run=there)
    assert scored == result_of("evaluate", pair[0], "--text", file)
    losses = []
    for text in (file, "hub:org/text:train"):
        options = ["--model", pair[0], "--text", text, "--eval-text", texts[1], "--max-steps", 4, "--streaming"]
        found = result_of("train", *options, "--block-length", 32, "--batch-tokens", 128, "--seed", 1)
        metrics = Path(found["job"]) / "metrics.jsonl"
        losses.append([json.loads(line).get("loss") for line in metrics.read_text().splitlines()])
    assert losses[0] == losses[1]
    assert None in losses[0]
    assert len(losses[0]) >= 5


def test_dataset_that_is_not_there_is_told(hub, online, pair, texts):
    hub.add("org/text", {"train.jsonl": b'{"text": "x"}\n'}, kind="datasets")
    for reference, told in (
        ("hub:org/none", "the Hub has no dataset org/none"),
        ("hub:org/text:validation", "the dataset org/text cannot be read:"),
    ):
        assert told in refused("evaluate", pair[0], "--text", reference)
    told = refused("train", "--model", pair[0], "--text", "hub:org/text", "--eval-text", texts[1])
    assert "--max-tokens or --max-steps" in told


def same_weights(folder, model):
    return (folder / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


MODEL = f"{USER}/german"


@pytest.fixture(scope="module")
def target(tmp_path_factory, tokenizers):
    """A target of a transfer, whose source's card states a licence."""
    return made_target(tmp_path_factory.mktemp("target"), tokenizers)


@pytest.fixture
def exported_run(workspace, target):
    """A model that was trained and exported."""
    job = make_run(workspace, "a german run", lines_of(200), model=str(target))
    add_checkpoint(job, target, 200, bits=1.5)
    output = workspace.models / "exported"
    export(ExportOptions(job.id, str(output)), workspace)
    return output


def uploads(hub):
    return [request for request in hub.log if request.method == "PUT"]


def test_dry_run_says_all_and_changes_nothing(hub, online, logged_in, exported_run):
    (exported_run / "notes.xyz").write_text("mine")
    found = result_of(
        "push",
        exported_run,
        MODEL,
        "--language",
        "de",
        "--dataset",
        "org/text",
        "--dataset-license",
        "cc-by-sa-3.0",
        "--dry-run",
    )
    assert (found["repo"], found["visibility"], found["exists"], found["user"]) == (MODEL, "private", False, USER)
    assert (found["problems"], found["licence"], found["dry_run"]) == ([], "apache-2.0", True)
    names = {file["name"]: file["bytes"] for file in found["files"]}
    assert names["model.safetensors"] == (exported_run / "model.safetensors").stat().st_size
    assert set(names) == {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "clp_transfer.json", "clp_provenance.parquet", "clp_training.json", "training_curve.csv", "README.md",
    }  # fmt: skip
    assert found["left_out"] == [{"name": "notes.xyz", "reason": "no part of a model"}]
    assert "license: apache-2.0" in found["card"]
    assert "- org/text" in found["card"]
    assert "| training text | cc-by-sa-3.0 |" in found["card"]
    assert f'from_pretrained("{MODEL}")' in found["card"]
    assert not hub.repos
    assert {request.method for request in hub.log} <= {"GET", "HEAD"}


@pytest.mark.process
def test_pushed_model_is_fetched_again_the_same(hub, online, logged_in, exported_run):
    pushed = result_of("push", exported_run, MODEL, "--language", "de", "--message", "the first", run=clp_process)
    repo = hub.repos["models", MODEL]
    assert repo.private
    assert (pushed["commit"], pushed["url"]) == (repo.refs["main"], f"{hub.endpoint}/{MODEL}")
    assert repo.messages == ["initial commit", "the first"]
    assert not any(request.has_token for request in hub.log if "/cdn/" in request.path)
    folder = locate(MODEL)
    assert same_weights(folder, exported_run)
    assert (folder / "tokenizer.json").read_bytes() == (exported_run / "tokenizer.json").read_bytes()
    assert (folder / "README.md").read_text() == result_of(
        "push", exported_run, MODEL, "--language", "de", "--dry-run"
    )["card"]


def test_nothing_pushed_holds_a_path_of_this_machine_or_a_token(hub, online, logged_in, exported_run, target, tmp_path):
    config = json.loads((exported_run / "config.json").read_text())
    (exported_run / "config.json").write_text(json.dumps(config | {"_name_or_path": str(target)}))
    done = clp("push", exported_run, MODEL, "--json")
    assert done.returncode == 0, done.stderr
    pushed = b"\n".join(hub.repos["models", MODEL].files.values())
    for place in (tmp_path, target.parent, Path.home() / "x", Path.cwd(), TOKEN):
        assert str(place).encode() not in pushed
    assert TOKEN not in done.stdout + done.stderr
    assert not any(TOKEN in path.read_text(errors="replace") for path in exported_run.iterdir())
    report = json.loads(hub.repos["models", MODEL].files["clp_transfer.json"])
    assert (report["source"], report["helper"], report["output"]) == ("source", "helper", "german")


def test_interrupted_push_leaves_no_commit_and_the_next_sends_the_rest(hub, online, hasty, logged_in, exported_run):
    weights = hashlib.sha256((exported_run / "model.safetensors").read_bytes()).hexdigest()
    hub.fail(f"PUT /lfs/{weights}", 400)
    assert f"400 for {MODEL}" in refused("push", exported_run, MODEL, code=1)
    assert hub.repos["models", MODEL].messages == ["initial commit"]
    hub.fail("POST /api/models/tester/german/commit", 400)
    refused("push", exported_run, MODEL, code=1)
    assert hub.repos["models", MODEL].messages == ["initial commit"]
    result_of("push", exported_run, MODEL)
    sent = [request.path.rpartition("/")[2] for request in uploads(hub) if request.status == 200]
    assert len(sent) == len(set(sent)) == 2  # provenance and weights, each once in three tries
    assert same_files(hub.repos["models", MODEL].files, exported_run)


def test_upload_that_breaks_off_is_told():
    from huggingface_hub.errors import HTTPError

    told = "the connection broke while a/b was pushed; run it again to go on"
    with pytest.raises(ClpError, match=told), explained("a/b", "pushed"):
        raise RuntimeError("Error while uploading 'x' to the Hub.") from HTTPError("broken pipe")


@pytest.mark.process
def test_killed_push_leaves_no_commit(hub, online, logged_in, exported_run):
    hub.drop("PUT /lfs/", 10_000, times=99)
    process = subprocess.Popen([sys.executable, "-m", "clp_core", "push", str(exported_run), MODEL], env=os.environ)
    wait_for(lambda: uploads(hub), 120)
    process.kill()
    process.wait()
    assert hub.repos["models", MODEL].messages == ["initial commit"]


def same_files(files, folder):
    weights = [name for name in files if name.endswith(".safetensors")]
    return weights == ["model.safetensors"] and files[weights[0]] == (folder / weights[0]).read_bytes()


def test_hub_that_is_down_for_a_moment_gets_the_push_all_the_same(hub, online, hasty, logged_in, exported_run):
    for text in ("/api/whoami-v2", "/preupload/", "PUT /lfs/", "/commit/"):
        hub.fail(text, 503)
    result_of("push", exported_run, MODEL)
    assert len(hub.repos["models", MODEL].messages) == 2


def test_files_of_the_model_that_was_there_before_go(hub, online, logged_in, exported_run):
    before = {
        "model-00001-of-00002.safetensors": b"x",
        "model.safetensors.index.json": b"{}",
        "merges.txt": b"of another tokenizer",
        "picture.png": b"y",
        "README.md": b"old",
    }
    hub.add(MODEL, before, private=True)
    planned = result_of("push", exported_run, MODEL, "--dry-run")
    assert planned["removed"] == ["merges.txt", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    assert "replaced in the repository: README.md" in planned["notes"]
    result_of("push", exported_run, MODEL)
    held = hub.repos["models", MODEL].files
    assert held["picture.png"] == b"y"
    assert not set(held) & set(planned["removed"])
    assert same_files(held, exported_run)


def test_push_needs_a_login_and_the_right_account(hub, online, exported_run):
    assert "`hf auth login`" in refused("push", exported_run, MODEL)
    online.mkdir(exist_ok=True)
    (online / "token").write_text(TOKEN)
    told = refused("push", exported_run, "somebody/german")
    assert f"choose {USER}/" in told
    (online / "token").write_text("hf_" + "x" * 24)
    assert "does not know the token" in refused("push", exported_run, MODEL)
    assert not hub.repos


def test_public_is_only_what_is_asked_to_be(hub, online, logged_in, exported_run):
    repo = hub.add(MODEL, {"a.txt": b"a"})
    assert f"{MODEL} is public; add --public" in refused("push", exported_run, MODEL)
    assert len(repo.commits) == 1
    assert result_of("push", exported_run, MODEL, "--public")["visibility"] == "public"
    result_of("push", exported_run, f"{USER}/new", "--public")
    assert not hub.repos["models", f"{USER}/new"].private
    hub.add(f"{USER}/kept", {"a.txt": b"a"}, private=True)
    found = result_of("push", exported_run, f"{USER}/kept", "--public", "--dry-run")
    assert found["visibility"] == "private"
    assert "the repository is private and stays so" in found["notes"][0]


def test_licence_must_be_stated(hub, online, logged_in, pair, tmp_path):
    shutil.copytree(pair[0], tmp_path / "model")
    told = refused("push", tmp_path / "model", MODEL)
    assert "--license" in told
    found = result_of("push", tmp_path / "model", MODEL, "--dry-run")
    assert len(found["problems"]) == 1
    assert "| this model | not stated |" in found["card"]
    assert not hub.repos
    assert "license: mit" in result_of("push", tmp_path / "model", MODEL, "--license", "mit")["card"]


def test_card_that_the_user_wrote_is_kept(hub, online, logged_in, exported_run):
    (exported_run / "README.md").write_text("---\nlicense: gpl-3.0\n---\n\n# Mine\n\nWhat I found out.\n")
    card = result_of("push", exported_run, MODEL, "--license", "mit", "--dry-run")["card"]
    assert card.endswith("# Mine\n\nWhat I found out.\n")
    assert "license: mit" in card.split("---")[1]


def test_what_is_no_whole_model_is_not_pushed(hub, online, logged_in, exported_run, workspace, tmp_path, pair):
    def refusal(folder, repo=MODEL, **more):
        with pytest.raises(InputError) as told:
            push(PushOptions(str(folder), repo, **{"license": "mit"} | more), workspace)
        return str(told.value)

    assert f"no folder {tmp_path / 'none'}" in refusal(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty holds no config.json" in refusal(tmp_path / "empty")
    pickled = shutil.copytree(pair[0], tmp_path / "pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80")
    assert "pytorch_model.bin" in refusal(pickled)
    short = shutil.copytree(pair[0], tmp_path / "short")
    with open(short / "model.safetensors", "r+b") as file:
        file.truncate(1000)
    assert "not a valid safetensors file" in refusal(short)
    mute = shutil.copytree(pair[0], tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer.json"))
    assert "holds no tokenizer" in refusal(mute)
    assert "--license: 'M I T'" in refusal(exported_run, license="M I T")
    assert "owner/name" in refusal(exported_run, "german")
    assert "--language: 'German'" in refusal(exported_run, language=("German",))
    assert "access token" in refusal(exported_run, message="hf_" + "a" * 30)
    (job,) = JobStore(workspace.jobs).jobs()
    (job.path / "checkpoints" / "checkpoint-200" / "manifest.json").unlink()
    assert "checkpoint-200 is no complete checkpoint" in refusal(job.path / "checkpoints" / "checkpoint-200")
    assert not hub.log


def test_checkpoint_is_pushed_without_its_run_state(hub, online, logged_in, exported_run, workspace):
    (job,) = JobStore(workspace.jobs).jobs()
    found = result_of("push", job.path / "checkpoints" / "checkpoint-200", MODEL, "--dry-run")
    assert {file["reason"] for file in found["left_out"]} == {"optimiser or run state"}
    assert {"model.safetensors", "clp_training.json", "training_curve.csv"} <= {file["name"] for file in found["files"]}
    assert "| run" not in found["card"]
    assert "## Training" in found["card"]


@pytest.mark.process
def test_push_as_a_job_tells_its_progress_and_writes_no_token(
    real_processes, hub, online, logged_in, exported_run, workspace
):
    hub.fail("PUT /lfs/", 503, times=2)
    job = submit_push(workspace, PushOptions(str(exported_run), MODEL, language=("de",)))
    assert job.command == f"clp push {exported_run} {MODEL} --language de"
    phases = set()

    def is_over():
        phases.add(job.heartbeat().get("phase"))
        return job.status().is_over

    wait_for(is_over, 120)
    assert job.status().state == "finished", job.log_tail()
    assert any(str(phase).startswith("uploading ") for phase in phases)
    assert job.result()["commit"] == hub.repos["models", MODEL].refs["main"]
    assert not any(TOKEN in path.read_text(errors="replace") for path in job.path.rglob("*") if path.is_file())


def test_dry_run_without_the_network_still_shows_files_and_card(online, exported_run, monkeypatch):
    use_hub(monkeypatch, HF_ENDPOINT="http://127.0.0.1:9")
    found = result_of("push", exported_run, MODEL, "--dry-run")
    assert found["exists"] is None
    assert "the Hub could not be reached" in found["problems"]
    assert found["files"]
    assert "# german" in found["card"]
