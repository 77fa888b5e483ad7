"""Weights that come as pickles (``pytorch_model.bin``): read without running code, written again as safetensors."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from clp_core.checkpoints.safetensors_writer import write_header
from clp_core.errors import InputError
from clp_core.files.disk import check_disk
from clp_core.files.hashing import fingerprint
from clp_core.files.model_files import pickled_files
from clp_core.progress import report_progress

if TYPE_CHECKING:
    import torch

CONVERTED = "converted-2"
"""Changed where the choice of the files to convert changes; older conversions are made again."""
PICKLE_MAGIC = (b"PK", b"\x80")  # a zip archive, or a pickle since its second protocol
FORMAT_NAMES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
    "torch.int64": "I64",
    "torch.int32": "I32",
    "torch.int16": "I16",
    "torch.int8": "I8",
    "torch.uint8": "U8",
    "torch.bool": "BOOL",
}


def converted(folder: Path, cache: Path) -> Path:
    """Return a folder with the same weights as safetensors; made once, one file after the other.

    Raises:
        InputError: a file is no whole pickle of weights, or holds code, or the disk is too full.
    """
    name = f"{CONVERTED}-{fingerprint(folder)}"
    done = cache / name
    if done.is_dir():
        return done
    cache.mkdir(parents=True, exist_ok=True)
    files = pickled_files(folder)
    with FileLock(cache / f"{name}.lock"):
        if done.is_dir():
            return done
        check_disk(cache, sum(path.stat().st_size for path in files))
        part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache))
        try:
            weight_map: dict[str, str] = {}
            for i, path in enumerate(files):
                report_progress("converting pickled weights", i / len(files))
                single = len(files) == 1
                target = "model.safetensors" if single else f"model-{i + 1:05d}-of-{len(files):05d}.safetensors"
                weight_map |= dict.fromkeys(convert(path, part / target), target)
            if len(files) > 1:
                size = sum(path.stat().st_size for path in part.glob("*.safetensors"))
                index = {"metadata": {"total_size": size}, "weight_map": weight_map}
                (part / "model.safetensors.index.json").write_text(json.dumps(index))
            os.replace(part, done)
        except BaseException:
            shutil.rmtree(part, ignore_errors=True)
            raise
    return done


def convert(path: Path, target: Path) -> list[str]:
    """Write the tensors of one pickle as a safetensors file, one at a time, and return their names.

    A tensor that is stored twice (tied embeddings) is written twice.
    """
    tensors = load_weights(path)
    header: dict[str, Any] = {}
    offset = 0
    for name, tensor in tensors.items():
        n_bytes = tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": FORMAT_NAMES[str(tensor.dtype)],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + n_bytes],
        }
        offset += n_bytes
    with open(target, "wb") as writer:
        write_header(writer, {"__metadata__": {"format": "pt"}, **header})
        for tensor in tensors.values():
            write_tensor(writer, tensor)
        writer.flush()
        os.fsync(writer.fileno())
    return list(tensors)


def write_tensor(writer: Any, tensor: torch.Tensor, step_bytes: int = 64 << 20) -> None:
    """Write a tensor's values in row-major order, some rows at a time."""
    import torch

    flat = tensor.reshape(1, -1) if tensor.dim() < 2 else tensor
    step = max(1, step_bytes // max(flat[:1].numel() * flat.element_size(), 1))
    for start in range(0, flat.shape[0], step):
        # A tensor with one element counts as contiguous whatever its stride, and a view of its bytes needs stride 1.
        rows = flat[start : start + step].clone(memory_format=torch.contiguous_format)
        writer.write(rows.view(torch.uint8).numpy().tobytes())


def load_weights(path: Path) -> Mapping[str, Any]:
    """Return the tensors of a pickle, mapped from the file where its format allows; no code in it is run.

    Raises:
        InputError: it is cut short, no dictionary of weights, or holds more than weights.
    """
    import torch

    with open(path, "rb") as file:
        if not file.read(4).startswith(PICKLE_MAGIC):
            raise InputError(f"{path} is no weight file (a pointer of Git LFS, or a web page?); fetch the file itself")
    try:
        try:
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            found = torch.load(path, map_location="cpu", weights_only=True)  # the format before torch 1.6
    except pickle.UnpicklingError as error:
        raise InputError(
            f"{path} holds more than weights (code could run from it), so it is not opened; "
            "save the model as safetensors where you trust it"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, OSError) as error:
        first_line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(f"{path} cannot be read as weights ({first_line}); fetch the file again") from error
    if not isinstance(found, Mapping):
        raise InputError(f"{path} holds a {type(found).__name__}, not a dictionary of weights")
    odd = [name for name, value in found.items() if not is_plain(name, value)]
    if odd:
        raise InputError(f"{path} holds {odd[0]}, which is no tensor of plain numbers")
    return found


def is_plain(name: Any, value: Any) -> bool:
    """Say whether an entry of a pickle is a named tensor with values of its own: not sparse, not on the meta device."""
    import torch

    return (
        isinstance(name, str)
        and isinstance(value, torch.Tensor)
        and value.layout == torch.strided
        and not value.is_meta
        and str(value.dtype) in FORMAT_NAMES
    )
