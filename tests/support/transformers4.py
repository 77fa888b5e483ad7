"""Another environment with transformers 4.57 beside the running one, and what it reads in folders written here.

It shares torch with the running environment, by links to torch and what torch itself needs; transformers 5 and its
tokenizers are not on its path. Making it downloads some 20 MB by pip.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import numpy as np

REQUIREMENT = "transformers==4.57.*"
READ = """
import json, sys
import numpy as np, torch, transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

assert transformers.__version__.startswith(sys.argv[3]), transformers.__version__
asked = json.load(open(sys.argv[1]))
told = {}
for name, item in asked.items():
    found = told[name] = {}
    tokenizer = AutoTokenizer.from_pretrained(item["folder"], trust_remote_code=False)
    found["class"] = type(tokenizer).__name__
    found["ids"] = [tokenizer(line)["input_ids"] for line in item["lines"]]
    found["plain"] = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in item["lines"]]
    found["decoded"] = [tokenizer.decode(ids) for ids in found["ids"]]
    found["skipped"] = [tokenizer.decode(ids, skip_special_tokens=True) for ids in found["ids"]]
    found["special"] = [getattr(tokenizer, role + "_token_id") for role in ("bos", "eos", "pad", "unk")]
    found["length"] = len(tokenizer)
    if item["model"]:
        model = AutoModelForCausalLM.from_pretrained(
            item["folder"], trust_remote_code=False, torch_dtype=torch.float32
        ).eval()
        found["tied"] = model.get_input_embeddings().weight is model.get_output_embeddings().weight
        with torch.no_grad():
            logits = model(input_ids=torch.arange(60)[None] * 5 % model.config.vocab_size).logits[0]
        np.save(f"{sys.argv[2]}/{name}.npy", logits.numpy())
json.dump(told, open(f"{sys.argv[2]}/told.json", "w"))
"""


def make_environment(folder: Path) -> Path:
    """Make the environment and return its interpreter."""
    venv.create(folder, with_pip=True, symlinks=True)
    python = folder / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", REQUIREMENT]
    subprocess.run(pip, check=True, timeout=500)
    site = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    link_torch(Path(site))
    return python


def link_torch(site: Path) -> None:
    """Link torch, and what it needs and the environment lacks, into a folder of packages."""
    for needed in needed_by("torch"):
        top = {file.parts[0] for file in needed.files or [] if file.parts[0] not in ("..", "__pycache__")}
        packages = [name for name in top if not name.endswith(".dist-info")]
        if any((site / name).exists() for name in packages):
            continue  # the environment has its own, such as that of transformers 4
        for name in sorted(top):
            (site / name).symlink_to(Path(str(needed.locate_file(name))))


def needed_by(name: str) -> list[Distribution]:
    """Return a package and all that it needs, as far as they are installed."""
    found: dict[str, Distribution] = {}
    waiting = [name]
    while waiting:
        wanted = waiting.pop()
        try:
            one = distribution(wanted)
        except PackageNotFoundError:  # of an extra, or of another system
            continue
        if one.metadata["Name"] not in found:
            found[one.metadata["Name"]] = one
            waiting += [re.split(r"[\s;<>=!~\[(]", text, maxsplit=1)[0] for text in one.requires or []
                        if "extra ==" not in text]  # fmt: skip
    return list(found.values())


def read_with(python: Path | str, version: str, folder: Path, asked: dict[str, dict]) -> dict[str, dict]:
    """Open folders in an environment of its own and return what it reads.

    Args:
        python: the environment's interpreter.
        version: how its version of transformers begins.
        folder: for the files of request and answer.
        asked: by name, ``folder``, ``lines``, and whether there is a ``model`` too.

    Returns:
        By name: class, ids, texts and roles of the tokenizer, and ``logits`` of 60 tokens.
    """
    folder.mkdir(parents=True)
    request = {name: item | {"folder": str(item["folder"])} for name, item in asked.items()}
    (folder / "asked.json").write_text(json.dumps(request))
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    done = subprocess.run(
        [python, "-c", READ, folder / "asked.json", folder, version],
        env=environment | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-6000:]
    told = json.loads((folder / "told.json").read_text())
    for name, item in asked.items():
        if item["model"]:
            told[name]["logits"] = np.load(folder / f"{name}.npy")
    return told
