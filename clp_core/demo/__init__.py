"""The packaged demo: an English source, a German helper, and German text to go on with."""

from __future__ import annotations

import lzma
import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from clp_core.errors import InputError
from clp_core.files.atomic import whole_file
from clp_core.geometry.embedding_cache import prepare
from clp_core.workspace import Workspace

DATA = Path(__file__).parent / "data"
SOURCE, HELPER = "demo-source-en", "demo-helper-de"
TRAIN_TEXT, EVAL_TEXT = "demo-train-de.txt", "demo-valid-de.txt"


def unpack(workspace: Workspace) -> dict[str, str]:
    """Put the demo's models and texts into a workspace, unless they are there, and prepare them for the pages.

    Returns:
        The paths: workspace, source, helper, train_text, eval_text.

    Raises:
        InputError: the package came without the demo's data.
    """
    if not DATA.is_dir():
        raise InputError(f"the demo's data is missing from {DATA}; install the whole package")
    workspace.models.mkdir(parents=True, exist_ok=True)
    workspace.texts.mkdir(parents=True, exist_ok=True)
    workspace.cache.mkdir(parents=True, exist_ok=True)
    with FileLock(workspace.cache / "demo.lock"):  # two commands at once would write the same files
        for packed, name in (("source", SOURCE), ("helper", HELPER)):
            copy_folder(DATA / packed, workspace.models / name)
            prepare(workspace.models / name, workspace.cache)
        for packed, name in (("train.txt.xz", TRAIN_TEXT), ("valid.txt.xz", EVAL_TEXT)):
            write_once(lzma.decompress((DATA / packed).read_bytes()), workspace.texts / name)
        write_once((DATA / "NOTICE.txt").read_bytes(), workspace.texts / "demo-NOTICE")
    return {
        "workspace": str(workspace.root),
        "source": str(workspace.models / SOURCE),
        "helper": str(workspace.models / HELPER),
        "train_text": str(workspace.texts / TRAIN_TEXT),
        "eval_text": str(workspace.texts / EVAL_TEXT),
    }


def copy_folder(source: Path, target: Path) -> None:
    """Copy a folder under a temporary name first; one that is there already is kept."""
    if target.exists():
        return
    part = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        shutil.copytree(source, part, dirs_exist_ok=True)
        part.chmod(0o755)
        os.rename(part, target)
    except BaseException:
        shutil.rmtree(part, ignore_errors=True)
        raise


def write_once(data: bytes, target: Path) -> None:
    """Write a file under a temporary name first; one that is there already is kept."""
    if not target.exists():
        with whole_file(target) as part:
            part.write_bytes(data)
