"""Where a model comes from, as others may read it: names instead of paths of this machine, and licences."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clp_core.hub.repo_id import HubName, is_hub_id

NOT_STATED = "not stated"


@dataclass(frozen=True)
class Licence:
    """A licence as a model's card states it.

    Attributes:
        id: the Hub's name for it, such as ``apache-2.0``.
        name: its own name, where ``id`` is ``other``.
        link: where it can be read.
    """

    id: str
    name: str = ""
    link: str = ""

    @classmethod
    def of_folder(cls, folder: Path) -> Licence | None:
        """Return the licence in the metadata of a folder's README.md, or ``None`` where it states none."""
        from huggingface_hub import metadata_load

        try:
            found = metadata_load(folder / "README.md") if (folder / "README.md").is_file() else None
        except Exception:  # whatever a card that is no card makes YAML raise
            return None
        found = found or {}
        stated = found.get("license")
        if isinstance(stated, list) and len(stated) == 1:
            stated = stated[0]
        if not isinstance(stated, str) or not stated.strip():
            return None
        return cls(stated.strip(), str(found.get("license_name") or ""), str(found.get("license_link") or ""))

    def __str__(self) -> str:
        """Return what a reader is told."""
        return " ".join(filter(None, (self.id, f"({self.name})" if self.name else "", self.link)))


@dataclass(frozen=True)
class Origin:
    """A model that another one was made from.

    Attributes:
        name: what it is called: its Hub id, or its folder's own name.
        hub: its id on the Hub with the revision, empty where it came from elsewhere.
        licence: what its card states.
    """

    name: str
    hub: str = ""
    licence: Licence | None = None

    @classmethod
    def of_folder(cls, folder: Path) -> Origin:
        """Say what is known of a model in a local folder, one of the Hub's cache or another."""
        hub = HubName.of_snapshot(folder)
        return cls(hub.repo_id if hub else folder.name, str(hub or ""), Licence.of_folder(folder))

    def to_json(self) -> dict[str, Any]:
        """Return it as a report holds it."""
        return asdict(self)

    @property
    def repo_id(self) -> str | None:
        """Its id on the Hub without the revision, or ``None``."""
        return self.hub.partition("@")[0] or None


def origin_of(reference: str) -> Origin:
    """Return the origin that a run's model is: a folder, or a Hub id."""
    if is_hub_id(reference) and not Path(reference).is_dir():
        return Origin(reference.partition("@")[0], reference)
    return Origin.of_folder(Path(reference))


def replaced(value: Any, paths: Mapping[str, str]) -> Any:
    """Return a value of JSON in which texts have paths replaced by names, longer ones first."""
    if isinstance(value, Mapping):
        return {key: replaced(item, paths) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [replaced(item, paths) for item in value]
    if isinstance(value, str):
        for path in sorted(paths, key=len, reverse=True):
            value = value.replace(path, paths[path])
    return value


def bare(value: Any) -> Any:
    """Return a setting without folders of this machine: of a path its last part."""
    if isinstance(value, list | tuple):
        return [bare(item) for item in value]
    if isinstance(value, str) and (Path(value).is_absolute() or value.startswith(("~", "./", "../"))):
        return Path(value).name
    return value
