"""Headers of safetensors files, sound and damaged, against the safetensors library."""

import json
import random
import struct

import numpy as np
import pytest
from safetensors import SafetensorError, deserialize, safe_open
from safetensors.numpy import save_file

from clp_core.checkpoints.safetensors_header import BITS
from clp_core.checkpoints.safetensors_reader import read_header
from clp_core.errors import InputError

MATRIX = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}
VECTOR = {"dtype": "BF16", "shape": [4], "data_offsets": [24, 32]}
SOUND = {"__metadata__": {"format": "pt"}, "a": MATRIX, "b": VECTOR}
DATA = bytes(range(32))


def file_of(path, header, data=DATA):
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(content)) + content + data)
    return path


def by_library(path):
    """Return what the library reads, or ``None`` where it refuses the file."""
    try:
        with safe_open(path, "np") as file:
            metadata = file.metadata() or {}
        tensors = deserialize(path.read_bytes())
    except SafetensorError:
        return None
    return {name: (item["dtype"], item["shape"], bytes(item["data"])) for name, item in tensors}, metadata


def by_us(path):
    """Return what is read here, or ``None`` where the file is refused in one line."""
    try:
        entries, metadata = read_header(path)
    except InputError as error:
        message = str(error)
    else:
        message = ""
    if message:
        assert str(path) in message
        assert "\n" not in message
        return None
    content = path.read_bytes()
    return {
        name: (entry.dtype, list(entry.shape), content[entry.start : entry.stop]) for name, entry in entries.items()
    }, metadata


def changed(**entries):
    """Return a sound header with other entries of the tensor ``b``."""
    return SOUND | {"b": VECTOR | entries}


READ = {
    "sound": (SOUND, DATA),
    "padded": (json.dumps(SOUND).encode() + b"  ", DATA),
    "empty": ({}, b""),
    "no metadata": ({"a": MATRIX}, DATA[:24]),
    "null metadata": ({"__metadata__": None, "a": MATRIX}, DATA[:24]),
    "further field": (changed(note=[1, None, {"x": 2.5}]), DATA),
    "scalar": (changed(shape=[], data_offsets=[24, 26]), DATA[:26]),
    "empty tensor": (SOUND | {"c": {"dtype": "I64", "shape": [0, 9], "data_offsets": [32, 32]}}, DATA),
    "huge empty tensor": (SOUND | {"c": {"dtype": "F32", "shape": [2**61, 0], "data_offsets": [32, 32]}}, DATA),
    "other order": ({"b": VECTOR, "a": MATRIX}, DATA),
    "escaped name": (b'{"\\ud83d\\ude00":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}', DATA[:24]),
}
REFUSED = {
    "shape of fewer bytes": (changed(shape=[3]), "has 8 bytes, and its shape .3. in BF16 takes 6"),
    "shape of more bytes": (changed(shape=[5]), "takes 10"),
    "overlap": (changed(data_offsets=[20, 28]), "'b' overlaps 'a'"),
    "gap": (changed(data_offsets=[26, 34]), "'b' does not follow directly on 'a'"),
    "descending offsets": (changed(data_offsets=[32, 24]), "offsets"),
    "three offsets": (changed(data_offsets=[24, 32, 32]), "offsets"),
    "beyond the file": (changed(shape=[8], data_offsets=[24, 40]), "cut short"),
    "before the end": ({"a": MATRIX}, "8 bytes behind its last tensor"),
    "unknown data type": (changed(dtype="F3"), "unknown data type 'F3'"),
    "half a byte": (changed(dtype="F4", shape=[15]), "takes 7.5"),
    "negative size": (changed(shape=[-4]), "shape"),
    "size with a point": (changed(shape=[4.0]), "shape"),
    "bool as size": (changed(shape=[True, 4]), "shape"),
    "size of 5,000 digits": (changed(shape=["X"]), "out of range"),
    "overflow": (changed(shape=[2**63, 4]), "too large"),
    "overflow before 0": (changed(shape=[2**63, 4, 0], data_offsets=[24, 24]), "too large"),
    "missing field": (SOUND | {"b": {"dtype": "BF16", "shape": [4]}}, "lacks"),
    "metadata of numbers": (SOUND | {"__metadata__": {"format": 1}}, "metadata"),
    "list": (b"[]", "does not begin with {"),
    "byte order mark": (b"\xef\xbb\xbf" + json.dumps(SOUND).encode(), "does not begin with {"),
    "UTF-16": (json.dumps(SOUND).encode("utf-16"), "utf-8"),
    "not JSON": (b"{a}", "Expecting"),
    "text behind": (json.dumps(SOUND).encode() + b"\0", "Extra data"),
    "half a character": (b'{"\\ud83d":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}', "surrogates"),
    "NaN": (changed(note=float("nan")), "NaN"),
    "number out of range": (json.dumps(changed(note="X")).replace('"X"', "1e999").encode(), "out of range"),
    "field twice": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[8],"data_offsets":[0,32]}}', "'dtype' stands twice"),
    "deep": (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
}


@pytest.mark.parametrize("name", READ)
def test_sound_headers_are_read_as_the_library_reads_them(tmp_path, name):
    path = file_of(tmp_path / "x.safetensors", *READ[name])
    assert by_library(path) is not None
    assert by_us(path) == by_library(path)


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_library_refuses_is_refused_with_its_fault(tmp_path, name):
    header, message = REFUSED[name]
    if name == "size of 5,000 digits":
        header = json.dumps(header).replace('"X"', "9" * 5000).encode()
    path = file_of(tmp_path / "x.safetensors", header)
    assert by_library(path) is None
    with pytest.raises(InputError, match=message):
        read_header(path)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b'{"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]},"a":{"dtype":"F32","shape":[8],"data_offsets":[0,32]}}',
         "'a' stands twice"),
        (b" " + json.dumps(SOUND).encode(), "does not begin with {"),
    ],
)  # fmt: skip
def test_what_the_format_rules_out_is_refused_though_the_library_reads_it(tmp_path, header, message):
    path = file_of(tmp_path / "x.safetensors", header)
    assert by_library(path) is not None
    with pytest.raises(InputError, match=message):
        read_header(path)


@pytest.mark.parametrize("dtype", [*BITS, "U4", "I4", "C128", "F128", "f32", ""])
def test_the_known_data_types_and_their_sizes_are_those_of_the_library(tmp_path, dtype):
    n_bytes = 2 * BITS.get(dtype, 8)
    header = {"a": {"dtype": dtype, "shape": [16], "data_offsets": [0, n_bytes]}}
    path = file_of(tmp_path / "x.safetensors", header, bytes(n_bytes))
    assert (by_us(path) is None) == (by_library(path) is None) == (dtype not in BITS)


def test_short_files_and_headers_of_impossible_length_are_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    sound = file_of(path, SOUND).read_bytes()
    for content in (b"", sound[:7], sound[:20], struct.pack("<Q", 2**63) + sound[8:], struct.pack("<Q", 0) + sound[8:]):
        path.write_bytes(content)
        assert by_library(path) is by_us(path) is None


@pytest.mark.parametrize(("length", "is_read"), [(100_000_000, True), (100_000_001, False)])
def test_headers_of_up_to_100_megabytes_are_read(tmp_path, length, is_read):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", length) + b"{}")
        for _ in range(99):
            file.write(b" " * 1_000_000)
        file.write(b" " * (length - 99_000_002))
    assert (by_us(path) is not None) == is_read
    with safe_open(path, "np") if is_read else pytest.raises(SafetensorError, match="too large"):
        if not is_read:
            safe_open(path, "np").__enter__()


def test_headers_damaged_at_random_are_read_or_refused_as_by_the_library(tmp_path):
    draw = random.Random(0)
    path = tmp_path / "x.safetensors"
    save_file({"w": np.arange(12, dtype=np.float32).reshape(3, 4), "v": np.zeros(5, np.int8)}, path, {"format": "pt"})
    sound = path.read_bytes()
    end = 8 + struct.unpack("<Q", sound[:8])[0]
    n_read = n_refused = 0
    for _ in range(400):
        damaged = bytearray(sound)
        for _ in range(draw.choice([1, 1, 2])):
            place = draw.randrange(end)
            kind = draw.choice(["flip", "digit", "blank", "drop", "double"])
            if kind == "flip":
                damaged[place] ^= 1 << draw.randrange(8)
            elif kind == "digit":
                digits = [i for i in range(8, end) if chr(damaged[i]).isdecimal()]
                damaged[draw.choice(digits)] = draw.choice(b"0123456789")
            elif kind == "blank":
                damaged[end - 1] = draw.choice(b" \t\n\0")
            elif kind == "drop":
                del damaged[place]
            else:
                damaged.insert(place, damaged[place])
        path.write_bytes(damaged)
        expected, result = by_library(path), by_us(path)
        assert result == expected, bytes(damaged[:end])
        n_read, n_refused = n_read + (result is not None), n_refused + (result is None)
    assert n_read > 30
    assert n_refused > 200
