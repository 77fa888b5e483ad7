"""Weights in pickles: read without running code, converted once, and the same target comes out."""

import pickle
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import load_file
from support.tiny_models import make_model
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.checkpoints.pickle_conversion import convert, load_weights
from clp_core.errors import InputError
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer


def as_pickle(folder, **options):
    state = AutoModelForCausalLM.from_pretrained(folder).state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin", **options)
    return state


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("tied", [True, False])
def test_target_of_a_pickle_is_that_of_the_same_weights_in_safetensors(tmp_path, tokenizers, pair, tied, zipped):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], tied=tied, dtype="bfloat16")
    options = [str(source), str(pair[1])]
    transfer(TransferOptions(*options, str(tmp_path / "expected"), "linear"))
    as_pickle(source, _use_new_zipfile_serialization=zipped)
    transfer(TransferOptions(*options, str(tmp_path / "target"), "linear"))
    expected, found = (load_file(tmp_path / name / "model.safetensors") for name in ("expected", "target"))
    assert set(found) == set(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert sorted(path.name for path in source.glob("*.bin")) == ["pytorch_model.bin"]


def test_pickle_is_converted_once_and_again_when_it_changes(tmp_path, tokenizers, workspace):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    state = as_pickle(source)
    first = Checkpoint.open(source).weights
    assert first.is_relative_to(workspace.cache)
    assert Checkpoint.open(source).weights == first
    state["model.norm.weight"] += 1
    torch.save(state, source / "pytorch_model.bin")
    assert Checkpoint.open(source).weights != first


class Evil:
    def __reduce__(self):
        return print, ("code ran",)


def test_code_in_a_pickle_is_refused_and_not_run(tmp_path, tokenizers, pair, capsys, workspace):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    state = as_pickle(source)
    torch.save(dict(state) | {"x": Evil()}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"holds more than weights \(code could run from it\)"):
        transfer(TransferOptions(str(source), str(pair[1]), str(tmp_path / "target")))
    (source / "pytorch_model.bin").write_bytes(pickle.dumps(Evil()))
    with pytest.raises(InputError, match=r"more than weights|cannot be read as weights"):
        Checkpoint.open(source)
    assert "code ran" not in capsys.readouterr().out
    assert not (tmp_path / "target").exists()
    assert not [path for path in workspace.cache.iterdir() if path.is_dir()]


def test_cut_pickle_and_one_that_is_no_dictionary_are_refused(tmp_path, tokenizers):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    as_pickle(source)
    whole = (source / "pytorch_model.bin").read_bytes()
    (source / "pytorch_model.bin").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"cannot be read as weights .* fetch the file again"):
        Checkpoint.open(source)
    torch.save([torch.zeros(3)], source / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds a list, not a dictionary of weights"):
        Checkpoint.open(source)
    torch.save({"a": torch.zeros(3), "b": 4}, source / "pytorch_model.bin")
    with pytest.raises(InputError, match="holds b, which is no tensor"):
        Checkpoint.open(source)
    (source / "pytorch_model.bin").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(InputError, match="is no weight file"):
        Checkpoint.open(source)
    (source / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(InputError, match="cannot be read as weights"):
        Checkpoint.open(source)


@pytest.mark.parametrize(
    "entries",
    [
        {"w": torch.eye(3).to_sparse()},
        {"w": torch.ones(2, device="meta")},
        {7: torch.ones(2)},
        {"w": torch.ones(2).to(torch.complex64)},
    ],
    ids=["sparse", "meta", "name", "complex"],
)
def test_entries_that_are_no_plain_tensors_are_refused(tmp_path, entries):
    torch.save(entries, tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match="no tensor of plain numbers"):
        load_weights(tmp_path / "pytorch_model.bin")


def test_safetensors_are_taken_where_both_are_there(tmp_path, tokenizers):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    (source / "pytorch_model.bin").write_bytes(b"never looked at")
    assert Checkpoint.open(source).weights == source
    shutil.copyfile(source / "model.safetensors", tmp_path / "kept")
    assert not zipfile.is_zipfile(source / "pytorch_model.bin")


def test_values_of_any_stride_are_converted(tmp_path):
    whole = torch.arange(24, dtype=torch.float32)
    tensors = {
        "one of a step": whole[3::24],
        "step": whole[1::2],
        "transposed": whole.reshape(4, 6).t(),
        "expanded": whole[5:6].expand(4),
        "scalar": whole[7],
        "one column": whole.reshape(4, 6)[:1, 2:3],
        "empty": whole[:0],
    }
    torch.save(tensors, tmp_path / "weights.bin")
    assert convert(tmp_path / "weights.bin", tmp_path / "weights.safetensors") == list(tensors)
    found = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
