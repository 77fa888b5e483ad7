"""What a bare machine without network lacks: wheels for its Python, and large files in parts with their hashes.

``pack`` fills a folder here: ``wheels/`` with the small packages, ``parts/00`` and so on with one part of a large
archive each, and ``manifest.json``. Each part fits one transfer. ``join`` puts the archives together there, checks
every hash and unpacks them: ``experiment/`` with source and corpora, ``faiss/`` with the wheels of FAISS for GPUs.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from gpu_items.findings import read_json, write_json

PYTHON_VERSION = "3.12"
PLATFORMS = (
    *(f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 24, 17)),
    "manylinux2014_x86_64",
    "manylinux1_x86_64",
)
AS_INSTALLED = ("transformers", "datasets", "dill", "multiprocess", "umap-learn", "pynndescent")
"""Packages that travel in the version that is installed here."""
OTHERS = ("torchao==0.18.0", "liger-kernel==0.8.5", "gguf==0.19.0")
FAISS_FOR_CUDA_13 = ("libcuvs-cu13==26.6.*", "libraft-cu13==26.6.*", "librmm-cu13==26.6.*", "rapids-logger==0.2.*")
"""What FAISS for GPUs needs beside itself where torch has brought the libraries of CUDA 13. ``faiss-gpu`` itself is
built for CUDA 12, whose libraries (700 MB) are not there."""
PART_BYTES = 40 << 20
BLOCK_BYTES = 1 << 20
MANIFEST = "manifest.json"
THERE, SITE, FAISS_SITE = "/tmp/gpu-kit", "/tmp/site", "/tmp/faiss-site"
"""Folders on the other machine: the kit, and the packages installed from it."""
INSTALL = "python3 -m pip install -q --no-index --no-deps --upgrade --target {site} {wheels}/*.whl"
JOIN = f"PYTHONPATH={SITE} python3 benchmarks/gpu.py --join {THERE}"
LAST = {
    "experiment.tar": ("experiment",),
    "faiss.tar": ("faiss", INSTALL.format(wheels=f"{THERE}/faiss", site=FAISS_SITE)),
}
"""Items that wait for an archive, and what is done before them."""
WEIGHTS = ".safetensors"


def pack(folder: Path, source: str, corpora: str, *, faiss: bool) -> int:
    """Fill a folder with what travels; print sizes and the calls to make there.

    Args:
        folder: what was in it before is replaced.
        source: folder of the experiment's source model, or empty. Where it holds a GGUF file, that travels in place of
            the wider safetensors, which are made from it there.
        corpora: folder with ``de`` and ``en``, or empty.
        faiss: whether FAISS for GPUs is included.

    Returns:
        The exit code.
    """
    for name in ("wheels", "parts", "archives"):
        shutil.rmtree(folder / name, ignore_errors=True)
    archives = folder / "archives"
    archives.mkdir(parents=True)
    small = [f"{name}=={version(name)}" for name in AS_INSTALLED]
    faiss_version = version("faiss-gpu")
    download(folder / "wheels", [*small, f"faiss-cpu=={faiss_version}", *OTHERS])
    if source or corpora:
        pack_experiment(archives / "experiment.tar", source, corpora)
    if faiss:
        download(archives / "faiss", [f"faiss-gpu-cuvs=={faiss_version}", *FAISS_FOR_CUDA_13])
        with tarfile.open(archives / "faiss.tar", "w") as archive:
            archive.add(archives / "faiss", "faiss")
    write_parts(sorted(archives.glob("*.tar")), folder)
    shutil.rmtree(archives)
    print(sizes(folder))
    print(calls(folder))
    return 0


def download(folder: Path, packages: Sequence[str]) -> None:
    """Download wheels for the other machine's Python, without what they need in turn.

    Raises:
        SystemExit: a package has no wheel for it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--python-version", PYTHON_VERSION, "--implementation", "cp"]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    done = subprocess.run([*command, "--dest", str(folder), *packages], check=False)
    if done.returncode:
        raise SystemExit(f"pip found no wheel for Python {PYTHON_VERSION} of one of {', '.join(packages)}")


def pack_experiment(file: Path, source: str, corpora: str) -> None:
    """Write the archive with source model and corpora."""
    with tarfile.open(file, "w") as archive:
        if source:
            weights_travel = not list(Path(source).glob("*.gguf"))
            for path in sorted(Path(source).iterdir()):
                if path.is_file() and (weights_travel or path.suffix != WEIGHTS):
                    archive.add(path, f"experiment/source/{path.name}")
        for language in ("de", "en") if corpora else ():
            for path in sorted((Path(corpora) / language).glob("*.txt.xz")):
                archive.add(path, f"experiment/corpora/{language}/{path.name}")


def write_parts(files: Sequence[Path], folder: Path) -> None:
    """Cut files into parts, one folder each, and write the manifest."""
    manifest: dict[str, Any] = {}
    place = 0
    for file in files:
        parts: list[dict[str, Any]] = []
        for content in blocks_of(file, PART_BYTES):
            name = f"parts/{place:02}/{file.name}.{len(parts):02}"
            part = folder / name
            part.parent.mkdir(parents=True)
            part.write_bytes(content)
            parts.append({"name": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)})
            place += 1
        manifest[file.name] = {"sha256": sha256(file), "bytes": file.stat().st_size, "parts": parts}
    write_json(folder / MANIFEST, manifest)


def blocks_of(file: Path, size: int) -> Iterator[bytes]:
    """Yield a file in blocks of so many bytes."""
    with open(file, "rb") as reader:
        while block := reader.read(size):
            yield block


def sha256(file: Path) -> str:
    """SHA-256 of a file."""
    digest = hashlib.sha256()
    for block in blocks_of(file, BLOCK_BYTES):
        digest.update(block)
    return digest.hexdigest()


def join(folder: Path) -> int:
    """Join and unpack every archive whose parts are all there; say what is missing or broken.

    Returns:
        The exit code: 1 where a part or an archive has another hash than when it was packed.
    """
    manifest = read_json(folder / MANIFEST)
    if not manifest:
        print(f"there is no {MANIFEST} in {folder}", file=sys.stderr)
        return 1
    broken = False
    for name, archive in manifest.items():
        missing = [part["name"] for part in archive["parts"] if not (folder / part["name"]).is_file()]
        if missing:
            print(f"{name}: {len(missing)} of {len(archive['parts'])} parts are missing: {', '.join(missing)}")
            continue
        bad = [part["name"] for part in archive["parts"] if sha256(folder / part["name"]) != part["sha256"]]
        if bad:
            print(f"{name}: other content than when it was packed: {', '.join(bad)}")
            broken = True
            continue
        unpack(folder, name, archive)
    return int(broken)


def unpack(folder: Path, name: str, archive: dict[str, Any]) -> None:
    """Put an archive together, unpack it, and widen a GGUF file among what it held.

    Raises:
        SystemExit: the whole has another hash than its parts promise.
    """
    whole = folder / name
    with open(whole, "wb") as writer:
        for part in archive["parts"]:
            writer.write((folder / part["name"]).read_bytes())
    if sha256(whole) != archive["sha256"]:
        raise SystemExit(f"{name} has another content than when it was packed")
    with tarfile.open(whole) as opened:
        opened.extractall(folder, filter="data")
    whole.unlink()
    print(f"{name}: {archive['bytes'] / 1e6:.1f} MB unpacked into {folder / Path(name).stem}")
    source = folder / "experiment" / "source"
    for gguf in source.glob("*.gguf"):
        widen(gguf)


def widen(gguf: Path) -> None:
    """Write a GGUF file's weights as bfloat16 safetensors beside the configuration that lies there already."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.bfloat16, quantization_config=GgufConfig(dequantize=True)
    )
    made = gguf.parent.parent / "widened"
    model.save_pretrained(made)
    for path in made.glob(f"*{WEIGHTS}*"):
        shutil.move(path, gguf.parent / path.name)
    shutil.rmtree(made)
    gguf.unlink()
    print(f"{gguf.name}: weights written as safetensors into {gguf.parent}")


def sizes(folder: Path) -> str:
    """Sizes of what travels."""
    wheels = sorted((folder / "wheels").glob("*.whl"))
    lines = [f"{path.stat().st_size / 1e6:8.1f} MB  wheels/{path.name}" for path in wheels]
    lines.append(f"{sum(path.stat().st_size for path in wheels) / 1e6:8.1f} MB  wheels in all")
    for name, archive in read_json(folder / MANIFEST).items():
        lines.append(f"{archive['bytes'] / 1e6:8.1f} MB  {name} in {len(archive['parts'])} parts")
    return "\n".join(lines)


def calls(folder: Path) -> str:
    """Commands to run there, in order; docs/gpu.md explains them.

    Before each command stand the paths that travel with it. While parts of an archive travel, items run that need none.
    """
    name = folder.name
    parts = {
        archive: [str(Path(part["name"]).parent) for part in content["parts"]]
        for archive, content in read_json(folder / MANIFEST).items()
    }
    idle = ["throughput", "savings"]
    found = [([f"{name}/wheels"], proof("transfer,train", INSTALL.format(wheels=f"{name}/wheels", site=SITE)))]
    for archive, places in parts.items():
        for place in places:
            keep = f"mkdir -p {THERE}/parts && cp {name}/{MANIFEST} {THERE}/ && cp -r {name}/{place} {THERE}/parts/"
            told = proof(idle.pop(0), keep) if idle else keep
            found.append(([f"{name}/{MANIFEST}", f"{name}/{place}"], told))
        item, *more = LAST[archive]
        found.append(([], proof(item, " && ".join([JOIN, *more]))))
    found += [([], proof(item)) for item in idle]
    lines = [f"{i}. take along {', '.join(paths) or 'nothing'}:\n   {told}" for i, (paths, told) in enumerate(found, 1)]
    return "\n".join(["", "Calls, in this order, while the machine keeps its files:", *lines])


def proof(items: str, before: str = "") -> str:
    """Command that runs items there, after another one, and copies the results to where they are fetched from."""
    inputs = (
        f"--source {THERE}/experiment/source --corpora {THERE}/experiment/corpora " if items == "experiment" else ""
    )
    run = f"python3 benchmarks/gpu.py --items {items} --minutes 9 --resume {inputs}"
    first = f"{before} || exit; " if before else ""
    return f'{first}export PYTHONPATH={FAISS_SITE}:{SITE}; {run.strip()}; cp -r build/gpu/. "$OUT"'
