"""Models by Hub id: fetched into the Hub's own cache, with progress, and gone on with where a fetch broke off.

The Hub's client keeps nothing of a file whose download ended with its process. Here every large file is fetched over
plain HTTP into a part of its own, which the next try asks only the rest for; then the client, which finds it in its
cache, does all else: names, links and what it knows of the revision.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from filelock import FileLock, Timeout

from clp_core.errors import ClpError, InputError
from clp_core.hub.errors import explained, is_unreachable, patiently
from clp_core.hub.repo_id import HubName
from clp_core.progress import HEART, JOB_ENVIRONMENT, report_progress

log = logging.getLogger(__name__)

SMALL_FILES = ("*.json", "*.model", "*.txt", "*.tiktoken", "*.jinja", "README.md")
"""Configuration, tokenizer, and the card, which states the licence."""
WEIGHT_KINDS = (("model.safetensors", "model.safetensors.index.json"),
                ("pytorch_model.bin", "pytorch_model.bin.index.json"))  # fmt: skip
RESUMED_FROM_BYTES = 1 << 20
"""Smaller files are fetched by the client whole."""
SHA256_LENGTH = 64
PART_ENDING = ".clp.incomplete"


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
        fetch_large(name, str(info.sha), {path: sizes[path] for path in wanted if path in sizes})
        return Path(snapshot_download(name.repo_id, revision=name.revision, allow_patterns=wanted, tqdm_class=quiet()))


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


def fetch_large(name: HubName, revision: str, sizes: dict[str, int]) -> None:
    """Fetch the large files that the Hub's cache lacks, so that each can go on where a try before broke off.

    Raises:
        InputError: the disk cannot hold them.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.file_download import repo_folder_name

    from clp_core.files.disk import check_disk

    missing = {
        path: size
        for path, size in sizes.items()
        if size >= RESUMED_FROM_BYTES
        and not isinstance(try_to_load_from_cache(name.repo_id, path, revision=revision), str)
    }
    if not missing:
        return
    folder = Path(HF_HUB_CACHE) / repo_folder_name(repo_id=name.repo_id, repo_type="model")
    blobs = folder / "blobs"
    begun = sum(path.stat().st_size for path in blobs.glob(f"*{PART_ENDING}"))
    check_disk(Path(HF_HUB_CACHE), sum(missing.values()) - begun)
    blobs.mkdir(parents=True, exist_ok=True)
    with Fetched.of(name, sum(missing.values())) as fetched:
        for path in missing:
            fetch_file(name.repo_id, revision, path, folder, fetched)


def fetch_file(repo_id: str, revision: str, path: str, folder: Path, fetched: Fetched) -> None:
    """Fetch one file into the blobs of a model's folder in the Hub's cache.

    Args:
        repo_id: the model.
        revision: the commit.
        path: the file in it.
        folder: where the Hub's cache keeps the model.
        fetched: is told of every part that came.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.constants import MAX_HTTP_DOWNLOAD_SIZE
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    url = hf_hub_url(repo_id, path, revision=revision)
    about = patiently(lambda: get_hf_file_metadata(url))
    if about.etag is None or about.size is None or about.size > MAX_HTTP_DOWNLOAD_SIZE or "/" in about.etag:
        return  # the client fetches it in its own way
    blob, part = folder / "blobs" / about.etag, folder / "blobs" / f"{about.etag}{PART_ENDING}"
    # Where large files lie on another host, that one gets no token.
    headers = build_hf_headers(token=None if host_of(about.location) == host_of(url) else False)

    def get() -> None:
        with open(part, "r+b" if part.exists() else "wb") as file:
            at = file.seek(0, os.SEEK_END)
            fetched.begin_file(at)
            http_get(
                about.location,
                file,
                resume_size=at,
                headers=headers,
                expected_size=about.size,
                displayed_filename=path,
                tqdm_class=fetched.client_bar,  # type: ignore[arg-type]
            )

    with waited_for(folder.parent / ".locks" / folder.name / f"{about.etag}.lock", f"{repo_id}: {path}"):
        if not blob.exists():
            begun = part.stat().st_size if part.exists() else 0
            if begun > about.size:
                part.unlink()
            elif begun:
                log.info("%s: %.1f of %.1f MB are here already", path, begun / 1e6, about.size / 1e6)
            patiently(get)
            # Where locks do nothing (some Lustre, GPFS and NFS mounts) another process may have written into it.
            if len(about.etag) == SHA256_LENGTH and sha256_of(part) != about.etag:
                part.unlink()
                raise ClpError(f"{path} of {repo_id} came with another content than the Hub names; run it again")
            os.replace(part, blob)
    fetched.end_file(about.size)


def host_of(url: str) -> str:
    """Return the host that an address names, with its port."""
    return urlsplit(url).netloc


@contextlib.contextmanager
def waited_for(lock: Path, what: str) -> Iterator[None]:
    """Hold a file's lock, the client's own, and say so while another process has it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    while True:
        try:
            held.acquire(timeout=1)
            break
        except Timeout:
            report_progress(f"waiting for another download of {what}")
    try:
        yield
    finally:
        held.release()


@dataclass
class Fetched:
    """Counts the bytes that came, for the heartbeat and for a bar on a terminal that shows no other.

    Attributes:
        what: what is fetched, in words.
        total: bytes in all.
        bar: the bar.
        finished: bytes of the files that are whole.
        done: bytes that are here, those of the file under way included.
    """

    what: str
    total: int
    bar: Any
    finished: int = 0
    done: int = 0

    @classmethod
    def of(cls, name: HubName, total: int) -> Fetched:
        """Begin with nothing done."""
        from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

        is_shown = HEART.listener is None and JOB_ENVIRONMENT not in os.environ
        bar = tqdm(total=total, unit="B", unit_scale=True, desc=str(name), disable=None if is_shown else True)
        return cls(f"fetching {name}", total, bar)

    def __enter__(self) -> Fetched:
        """Say that it begins."""
        self.tell(0)
        return self

    def __exit__(self, *_: object) -> None:
        """Close the bar."""
        self.bar.close()

    def begin_file(self, at: int) -> None:
        """Begin a file, of which ``at`` bytes are here."""
        self.tell(self.finished + at)

    def end_file(self, size: int) -> None:
        """End a file of that size."""
        self.finished += size
        self.tell(self.finished)

    def client_bar(self, **_: Any) -> ClientBar:
        """Return what the client takes for the progress bar of the file under way."""
        return ClientBar(self)

    def tell(self, done: int) -> None:
        """Say how many bytes are here."""
        self.bar.update(done - self.done)
        self.done = done
        report_progress(self.what, done / max(self.total, 1), bytes_done=done, bytes_total=self.total)


@dataclass(frozen=True)
class ClientBar:
    """What the client tells of its progress, handed on."""

    fetched: Fetched

    def __enter__(self) -> ClientBar:
        """Begin a file."""
        return self

    def __exit__(self, *_: object) -> None:
        """End a file."""

    def update(self, n_bytes: int) -> None:
        """Take what came; a negative number where a file begins again."""
        self.fetched.tell(self.fetched.done + n_bytes)


def quiet() -> type:
    """Return a progress bar that shows nothing, for what the client does besides."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Quiet(tqdm):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs | {"disable": True})

    return Quiet


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file that was fetched."""
    report_progress(f"checking {path.name[:8]}", None)
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(8 << 20):
            digest.update(block)
    return digest.hexdigest()
