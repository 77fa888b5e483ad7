"""The workspace: the folder that holds models, texts, jobs and the cache."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.files.artifacts import MANIFEST_FILE, REPORT_FILE, TOKENIZER_REPORT_FILE
from clp_core.files.json_files import read_json
from clp_core.files.model_files import chosen_weights
from clp_core.files.text_endings import is_text

ENVIRONMENT = "CLP_WORKSPACE"


@dataclass(frozen=True)
class ModelEntry:
    """A model of the workspace.

    Attributes:
        name: its path below the workspace, as shown.
        folder: where it lies.
        kind: ``model``, ``target`` (written by a transfer) or ``checkpoint`` (written by a run).
        config: the content of config.json; empty where it cannot be read.
    """

    name: str
    folder: Path
    kind: str
    config: dict[str, Any]

    @property
    def vocab_size(self) -> int | None:
        """Rows of the embedding by the configuration."""
        size = self.config.get("vocab_size")
        return size if type(size) is int else None

    @property
    def n_bytes(self) -> int:
        """Size of the weight files that transformers loads; 0 where they are incomplete."""
        try:
            weights = chosen_weights(self.folder)
        except InputError:
            return 0
        return sum(path.stat().st_size for path in weights.files) if weights is not None else 0


@dataclass(frozen=True)
class Workspace:
    """A workspace folder; nothing is made until something is written."""

    root: Path

    @classmethod
    def current(cls) -> Workspace:
        """Return the workspace that ``CLP_WORKSPACE`` names, by default ``./workspace``."""
        return cls(Path(os.environ.get(ENVIRONMENT, "workspace")).expanduser().resolve())

    @property
    def models(self) -> Path:
        """Folder of the models."""
        return self.root / "models"

    @property
    def tokenizers(self) -> Path:
        """Folder of the tokenizers that were trained here."""
        return self.root / "tokenizers"

    @property
    def texts(self) -> Path:
        """Folder of the texts."""
        return self.root / "texts"

    @property
    def jobs(self) -> Path:
        """Folder of the jobs."""
        return self.root / "jobs"

    @property
    def curves(self) -> Path:
        """Folder of the curves that were imported from elsewhere."""
        return self.root / "curves"

    @property
    def cache(self) -> Path:
        """Folder of what can be made again."""
        return self.root / "cache"

    def list_models(self) -> list[ModelEntry]:
        """Return all models: those in models/, and the complete checkpoints of runs, newest first."""
        found = [self._entry(path) for path in self._model_folders()]
        return sorted(found, key=lambda entry: (entry.kind == "checkpoint", entry.name))

    def _model_folders(self) -> Iterator[Path]:
        for config in self.models.glob("*/config.json"):
            if not config.parent.name.startswith("."):
                yield config.parent
        for manifest in self.jobs.glob(f"*/checkpoints/checkpoint-*/{MANIFEST_FILE}"):
            if (manifest.parent / "config.json").is_file():
                yield manifest.parent

    def _entry(self, folder: Path) -> ModelEntry:
        if folder.parent == self.models:
            kind = "target" if (folder / REPORT_FILE).is_file() else "model"
            name = folder.name
        else:
            kind, name = "checkpoint", f"{folder.parent.parent.name}/{folder.name}"
        try:
            config = read_json(folder / "config.json")
        except InputError:  # whoever opens the model is told so; the list goes on
            config = {}
        return ModelEntry(name, folder, kind, config)

    def list_texts(self) -> list[Path]:
        """Return the text files of every form, by name."""
        return sorted(path for path in self.texts.glob("*") if is_text(path) and not path.name.startswith("."))

    def list_tokenizers(self) -> list[Path]:
        """Return the folders of the tokenizers that were trained here, newest first."""
        reports = [path for path in self.tokenizers.glob(f"*/{TOKENIZER_REPORT_FILE}") if path.parent.name[0] != "."]
        return [path.parent for path in sorted(reports, key=lambda path: path.stat().st_mtime, reverse=True)]

    def list_training_texts(self) -> list[Path]:
        """Return what a run can be trained on, by name: text files of every form, and folders that hold some."""
        found = [path for path in self.texts.glob("*") if not path.name.startswith(".")]
        return sorted(path for path in found if is_text(path) or (path.is_dir() and any(map(is_text, path.rglob("*")))))

    def contains(self, path: Path) -> bool:
        """Say whether a path lies in the workspace once links are followed."""
        return path.resolve().is_relative_to(self.root)
