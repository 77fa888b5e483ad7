"""Models by Hub id: the files that transformers would load, fetched by the Hub's client into its own cache.

The client (``snapshot_download``, with Xet where the Hub offers it) fetches, takes up connections that break, and keeps
every file that is whole. Here it is decided which files are wanted, and whether the disk holds them; the bytes are
reported as progress, and what came is compared with the Hub's hashes.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from clp_core.errors import ClpError, InputError
from clp_core.hub.errors import explained, is_unreachable, patiently
from clp_core.hub.repo_id import HubName
from clp_core.progress import HEART, JOB_ENVIRONMENT, report_progress

SMALL_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "README.md")
"""Configuration, tokenizer, and the card, which states the licence."""
WEIGHT_KINDS = (("model.safetensors", "model.safetensors.index.json"),
                ("pytorch_model.bin", "pytorch_model.bin.index.json"))  # fmt: skip
VERIFYING_S = 3600.0


def cached(name: HubName, *, weights: bool = True) -> Path | None:
    """Return the folder of a model that was fetched before, whole, or ``None``; the network is not asked."""
    from huggingface_hub import try_to_load_from_cache

    from clp_core.files.model_files import checkpoint_files, pickled_files

    found = try_to_load_from_cache(name.repo_id, "config.json", revision=name.revision)
    if not isinstance(found, str):
        return None
    folder = Path(found).parent
    try:
        return folder if not weights or checkpoint_files(folder) or pickled_files(folder) else None
    except InputError:  # the index names files that are still to come
        return None


def fetch(name: HubName, *, weights: bool = True) -> Path:
    """Return the local folder of a model of the Hub; what its cache lacks is fetched.

    Args:
        name: which model.
        weights: whether the weights are wanted as well as the tokenizer and the configuration.

    Raises:
        InputError: there is no such model or revision, it is gated or private, it holds no weights, or the disk is too
            full.
        ClpError: the Hub failed, or the connection broke.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.constants import HF_HUB_CACHE

    from clp_core.files.disk import check_disk

    with explained(str(name)):
        try:
            info = patiently(lambda: HfApi().model_info(name.repo_id, revision=name.revision, files_metadata=True))
        except Exception as error:
            if is_unreachable(error) and (folder := cached(name, weights=weights)):
                return folder
            raise
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or [] if "/" not in file.rfilename}
        wanted = [path for path in sizes if any(fnmatch(path, pattern) for pattern in SMALL_FILES)]
        if "config.json" not in sizes:
            lacking = f"{name} holds no config.json on the Hub, so it is no model that transformers can build"
            raise InputError(other_format(name, info) or lacking)
        if weights:
            try:
                wanted += weight_names(name.repo_id, str(info.sha), list(sizes), named_weights(name, info))
            except InputError as error:
                raise InputError(other_format(name, info) or str(error)) from error
        wanted = [path for path in wanted if path in sizes]
        missing = missing_sizes(name, str(info.sha), {path: sizes[path] for path in wanted})
        check_disk(Path(HF_HUB_CACHE), sum(missing.values()))
        bars = progress_bars(name, sum(missing.values()))
        snapshot = Path(
            patiently(
                lambda: snapshot_download(name.repo_id, revision=name.revision, allow_patterns=wanted, tqdm_class=bars)
            )
        )
        # Where the Hub does not list its files, the client may return what the cache holds of them.
        if any(not (snapshot / path).exists() for path in wanted):
            raise ClpError(f"the Hub did not list the files of {name}; whole files are kept: run it again")
        if missing:
            check_hashes(name, snapshot, fetched=missing)
        return snapshot


def missing_sizes(name: HubName, revision: str, sizes: Mapping[str, int]) -> dict[str, int]:
    """Return the files that the Hub's cache lacks, with their sizes in bytes."""
    from huggingface_hub import try_to_load_from_cache

    def is_cached(path: str) -> bool:
        return isinstance(try_to_load_from_cache(name.repo_id, path, revision=revision), str)

    return {path: size for path, size in sizes.items() if not is_cached(path)}


def check_hashes(name: HubName, snapshot: Path, fetched: Collection[str]) -> None:
    """Compare a snapshot with the hashes that the Hub names; files that differ are removed from the cache.

    All its files are compared, not only those just fetched: others may be left from a fetch that failed before it
    compared anything. Where the hashes cannot be had, the snapshot loses the links to what was just fetched: the next
    fetch links the same contents again, without downloading them, and compares them then.

    Args:
        name: the model.
        snapshot: its folder in the Hub's cache, named after the commit.
        fetched: names of the files that were just fetched.

    Raises:
        ClpError: some differ.
    """
    from huggingface_hub import HfApi

    HEART.beat(f"comparing {name} with the hashes on the Hub", expect_next_s=VERIFYING_S)
    try:
        found = patiently(lambda: HfApi().verify_repo_checksums(name.repo_id, revision=snapshot.name))
    except BaseException:
        for path in (snapshot / file for file in fetched):
            if path.is_symlink():
                path.unlink(missing_ok=True)
        raise
    differing = [snapshot / mismatch["path"] for mismatch in found.mismatches]
    for path in differing:
        path.resolve().unlink(missing_ok=True)  # the content, to which the path is a link
        path.unlink(missing_ok=True)
    if differing:
        names = ", ".join(path.name for path in differing)
        raise ClpError(f"checksum mismatch for {names} of {name}: removed from the cache; run it again to download it")


def other_format(name: HubName, info: Any) -> str:
    """Name the format of a repository that holds no full checkpoint; empty where it is not a known one."""
    from clp_core.files.model_formats import ADAPTER_CONFIG, explanation

    names = [file.rfilename for file in info.siblings or []]
    adapter = read_from_hub(name.repo_id, ADAPTER_CONFIG, str(info.sha)) if ADAPTER_CONFIG in names else {}
    return explanation(str(name), names, adapter)


def named_weights(name: HubName, info: Any) -> str:
    """Return the weight file that config.json names as ``transformers_weights``, which goes before all others."""
    return str(read_from_hub(name.repo_id, "config.json", str(info.sha)).get("transformers_weights") or "")


def read_from_hub(repo_id: str, path: str, revision: str) -> dict[str, Any]:
    """Fetch a small JSON file and return its content."""
    from huggingface_hub import hf_hub_download

    from clp_core.files.json_files import read_json

    return read_json(Path(hf_hub_download(repo_id, path, revision=revision, tqdm_class=quiet())))


def weight_names(repo_id: str, revision: str, names: Sequence[str], explicit: str = "") -> list[str]:
    """Return the weight files that transformers would load: those of the index or the single one, no other copies.

    Args:
        repo_id: the model.
        revision: its revision.
        names: the files it holds.
        explicit: the file that its config.json names as ``transformers_weights``.

    Raises:
        InputError: there are none, neither as safetensors nor as pickles.
    """
    chosen = explicit or next((file for kind in WEIGHT_KINDS for file in kind if file in names), "")
    if chosen in names and chosen.endswith(".index.json"):
        return sorted(set(read_from_hub(repo_id, chosen, revision).get("weight_map", {}).values()))
    if chosen in names:
        return [chosen]
    raise InputError(f"{repo_id} holds no weights that can be read (model.safetensors or pytorch_model.bin)")


def progress_bars(name: HubName, total: int) -> type:
    """Return the class of the client's progress bars, which reports the bytes that came as progress.

    The client makes one bar for bytes that it receives, one for bytes that it writes, which differ with Xet, and one
    for files. A terminal shows them only where neither a job nor another listener takes the progress.

    Args:
        name: the model.
        total: bytes to fetch in all.
    """
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    is_shown = HEART.listener is None and JOB_ENVIRONMENT not in os.environ
    phase, lock = f"fetching {name}", threading.Lock()

    class Bars(tqdm):
        done = 0

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.counted = 0.0 if kwargs.get("unit") == "B" and total else None
            super().__init__(*args, **kwargs if is_shown else kwargs | {"disable": True})

        def update(self, n: float | None = 1) -> bool | None:
            if self.counted is not None:
                with lock:  # several files are fetched at once
                    self.counted += n or 0
                    Bars.done = max(Bars.done, min(int(self.counted), total))
                    report_progress(phase, Bars.done / total, bytes_done=Bars.done, bytes_total=total)
            return super().update(n)

    return Bars


def quiet() -> type:
    """Return a progress bar that shows nothing, for small files."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Quiet(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    return Quiet
