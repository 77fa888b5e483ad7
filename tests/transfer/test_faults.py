"""What goes wrong in the middle: the output never exists half-made, the source is never touched, the reason is told."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from support.tiny_models import make_model
from transformers import AutoModelForCausalLM

from clp_core.errors import ClpError, InputError
from clp_core.transfer import target_writer as module
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer


def run(source, helper, output, **options):
    return transfer(TransferOptions(str(source), str(helper), str(output), **options))


def command_for(source, helper, output):
    return [sys.executable, "-m", "clp_core", "transfer", "--source", str(source), "--helper", str(helper),
            "--output", str(output), "--method", "mean"]  # fmt: skip


def content(folder):
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.iterdir())}


def big_source(folder, tokenizer):
    """A source of some tens of megabytes, so that there is a middle to be interrupted in."""
    return make_model(folder, tokenizer, width=1024, rows=len(tokenizer))


def test_truncated_and_missing_weights_are_refused(tmp_path, pair):
    source = shutil.copytree(pair[0], tmp_path / "source")
    weights = source / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cut short"):
        run(source, pair[1], tmp_path / "target")
    weights.unlink()
    with pytest.raises(InputError, match="no weights"):
        run(source, pair[1], tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("shard", [0, 1])
def test_truncated_or_missing_shard_is_named(tmp_path, tokenizers, pair, shard):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], tied=False)
    model = AutoModelForCausalLM.from_pretrained(source)
    (source / "model.safetensors").unlink()
    model.save_pretrained(source, max_shard_size="60KB")
    victim = sorted(source.glob("*.safetensors"))[shard]
    victim.write_bytes(victim.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{victim.name} is cut short"):
        run(source, pair[1], tmp_path / "target")
    victim.unlink()
    with pytest.raises(InputError, match=f"lacks {victim.name}"):
        run(source, pair[1], tmp_path / "target")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "workspace") == ["source"]


@pytest.mark.parametrize("header", [b"[1]", b'{"a": 3}', b'{"a": {"dtype": "F32", "shape": [1]}}', b"\xff\xfe"])
def test_header_of_another_form_is_refused(tmp_path, pair, header):
    source = shutil.copytree(pair[0], tmp_path / "source")
    (source / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(InputError, match="safetensors"):
        run(source, pair[1], tmp_path / "target")


@pytest.mark.parametrize("name", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_index_of_another_form_is_refused(tmp_path, pair, name):
    source = shutil.copytree(pair[0], tmp_path / "source")
    (source / "model.safetensors").unlink()
    (source / name).write_text('{"weight_map": []}')
    with pytest.raises(InputError, match="weight_map"):
        run(source, pair[1], tmp_path / "target")


def test_interrupt_between_the_two_renames_keeps_the_old_model(tmp_path, pair, monkeypatch):
    run(*pair, tmp_path / "target", method="mean")
    before = content(tmp_path / "target")
    rename = os.rename

    def interrupted(old, new):
        if str(new) == str(tmp_path / "target") and "partial" in str(old):
            raise SystemExit(143)
        rename(old, new)

    monkeypatch.setattr(os, "rename", interrupted)
    with pytest.raises(SystemExit):
        run(*pair, tmp_path / "target", method="random", overwrite=True)
    assert content(tmp_path / "target") == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "workspace"] == ["target"]


def test_model_that_a_killed_transfer_had_moved_aside_is_put_back(tmp_path, pair):
    run(*pair, tmp_path / "target", method="mean")
    before = content(tmp_path / "target")
    (tmp_path / ".target.replaced-abc").mkdir()
    (tmp_path / "target").rename(tmp_path / ".target.replaced-abc" / "old")
    with pytest.raises(InputError, match="exists and is kept"):
        run(*pair, tmp_path / "target", method="random")
    assert content(tmp_path / "target") == before
    assert [path.name for path in tmp_path.iterdir() if path.name != "workspace"] == ["target"]


@pytest.mark.parametrize("where", ["source", "helper"])
def test_nan_rows_leave_nothing_behind(tmp_path, tokenizers, pair, where):
    folders = {"source": pair[0], "helper": pair[1]}
    shape, language = ("llama", "en") if where == "source" else ("gpt2", "de")
    folders[where] = make_model(tmp_path / where, tokenizers["byte-level", language], shape)
    model = AutoModelForCausalLM.from_pretrained(folders[where])
    model.get_input_embeddings().weight.data[5] = float("nan")
    model.save_pretrained(folders[where])
    with pytest.raises(InputError, match="not finite"):
        run(folders["source"], folders["helper"], tmp_path / "target", method="clp")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "workspace") == [where]


def test_source_that_shrinks_while_it_is_read_is_told(tmp_path, tokenizers, pair, monkeypatch):
    source = big_source(tmp_path / "source", tokenizers["byte-level", "en"])
    write = module.target_config

    def shrink(*arguments, **options):
        with open(source / "model.safetensors", "r+b") as file:
            file.truncate(file.seek(0, 2) - 4096)
        return write(*arguments, **options)

    monkeypatch.setattr(module, "target_config", shrink)
    with pytest.raises(InputError, match=r"cut short|ended while it was read|ends before|cannot be loaded"):
        run(source, pair[1], tmp_path / "target", method="mean")
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "workspace") == ["source"]


@pytest.mark.parametrize("kind", ["body", "copied row", "nan"])
def test_damage_after_writing_is_found_by_the_check(tmp_path, tokenizers, pair, monkeypatch, kind):
    """A disk that returns other bytes than were written."""
    check = module.verify

    def damage(folder, *arguments):
        path = folder / "model.safetensors"
        header = int.from_bytes(path.read_bytes()[:8], "little")
        entries = json.loads(path.read_bytes()[8 : 8 + header])
        name = "model.norm.weight" if kind == "body" else "model.embed_tokens.weight"
        start = 8 + header + entries[name]["data_offsets"][0]
        with open(path, "r+b") as file:
            file.seek(start)
            file.write(np.float32(np.nan if kind == "nan" else 123.0).tobytes())
        return check(folder, *arguments)

    monkeypatch.setattr(module, "verify", damage)
    told = {"body": "model.norm.weight differs", "copied row": "a copied row", "nan": "holds NaN"}[kind]
    with pytest.raises(ClpError, match=told):
        run(*pair, tmp_path / "target", method="mean")
    assert [path.name for path in tmp_path.iterdir() if path.name != "workspace"] == []


@pytest.mark.process
@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_interrupted_transfer_leaves_nothing_behind(tmp_path, pair, signal_number):
    process = subprocess.Popen(command_for(*pair, tmp_path / "out" / "target"), stderr=subprocess.DEVNULL)
    wait_for_part(tmp_path / "out", process)
    process.send_signal(signal_number)
    process.wait(60)
    assert process.returncode != 0
    assert list((tmp_path / "out").iterdir()) == []


def wait_for_part(folder, process):
    deadline = time.time() + 60
    while not list(folder.glob(".target.partial-*/.writing")) and process.poll() is None and time.time() < deadline:
        time.sleep(0.005)


@pytest.mark.process
def test_killed_transfer_leaves_no_target_and_its_rest_goes_with_the_next_one(tmp_path, tokenizers, pair):
    source = big_source(tmp_path / "source", tokenizers["byte-level", "en"])
    before = content(source)
    out = tmp_path / "out"
    process = subprocess.Popen(command_for(source, pair[1], out / "target"), stderr=subprocess.DEVNULL)
    wait_for_part(out, process)
    process.kill()
    process.wait(60)
    assert not (out / "target").exists()
    assert len(list(out.glob(".target.partial-*"))) == 1
    assert content(source) == before
    run(source, pair[1], out / "target", method="mean")
    assert [path.name for path in out.iterdir()] == ["target"]
    assert not (out / "target" / ".writing").exists()


def test_part_of_a_living_transfer_is_left_alone(tmp_path, pair):
    from clp_core.files.output_folder import partial_folder

    with partial_folder(tmp_path / "target") as part:
        (part / "file").write_text("being written")
        run(*pair, tmp_path / "target", method="mean")
        assert (part / "file").read_text() == "being written"
    assert (tmp_path / "target" / "config.json").is_file()


def test_full_disk_is_told_before_the_first_byte(tmp_path, pair, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(InputError, match=r"needs .* MB, 0\.0 MB free"):
        run(*pair, tmp_path / "target")


LIMITED = """
import resource, runpy, sys
kind, limit = sys.argv[1], int(sys.argv[2])
resource.setrlimit(getattr(resource, kind), (limit, limit))
sys.argv = ["clp", *sys.argv[3:]]
runpy.run_module("clp_core", run_name="__main__")
"""


@pytest.mark.process
def test_disk_that_fills_up_while_writing_leaves_nothing_behind(tmp_path, tokenizers, pair):
    """A limit on the size of files stands in for a quota: the write fails in the middle."""
    source = big_source(tmp_path / "source", tokenizers["byte-level", "en"])
    before = content(source)
    limit = (source / "model.safetensors").stat().st_size // 2
    command = [sys.executable, "-c", LIMITED, "RLIMIT_FSIZE", str(limit)]
    command += command_for(source, pair[1], tmp_path / "out" / "target")[3:]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("clp: File too large")
    assert list((tmp_path / "out").iterdir()) == []
    assert content(source) == before


@pytest.mark.process
def test_memory_does_not_grow_with_the_checkpoint(tmp_path, tokenizers, pair):
    """A body of 1.2 GB goes through a process that may not hold half of it beside what its libraries need.

    The limit counts the map of the whole file, too, with which transformers looks at the result.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tokenizers["byte-level", "en"]
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=2048, intermediate_size=2048, num_hidden_layers=21,
        num_attention_heads=2, num_key_value_heads=2, bos_token_id=0, eos_token_id=0, tie_word_embeddings=True,
    )  # fmt: skip
    with torch.device("meta"):
        shapes = {name: tuple(p.shape) for name, p in LlamaForCausalLM(config).state_dict().items()}
    source = tmp_path / "source"
    source.mkdir()
    config.save_pretrained(source)
    tokenizer.save_pretrained(source)
    write_zeros(source / "model.safetensors", {n: s for n, s in shapes.items() if n != "lm_head.weight"})
    size = (source / "model.safetensors").stat().st_size
    assert size > 1.2e9
    idle = limited_run(tmp_path, pair[0], pair[1], "small", None)["peak_rss_bytes"]
    found = limited_run(tmp_path, source, pair[1], "large", int(idle + 1.5 * size))
    assert found["peak_rss_bytes"] < idle + 0.4 * size


def write_zeros(path, shapes):
    """A sparse file of bfloat16 zeros with ones in the embedding: no disk is used for the holes."""
    from clp_core.checkpoints.safetensors_writer import write_header

    header, offset = {}, 0
    for name, shape in shapes.items():
        n_bytes = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [offset, offset + n_bytes]}
        offset += n_bytes
    with open(path, "wb") as file:
        write_header(file, header)
        start = file.tell()
        place, stop = header["model.embed_tokens.weight"]["data_offsets"]
        file.seek(start + place)
        file.write(b"\x80\x3f" * ((stop - place) // 2))
        file.truncate(start + offset)


def limited_run(tmp_path, source, helper, name, limit):
    """Run a transfer whose anonymous memory (RLIMIT_DATA) is limited, and return its report."""
    arguments = [*command_for(source, helper, tmp_path / name)[3:], "--device", "cpu", "--check", "files", "--json"]
    command = [sys.executable, "-c", LIMITED, "RLIMIT_DATA", str(limit or 2**40), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "2"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])
