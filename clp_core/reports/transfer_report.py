"""The report that a transfer leaves in its target: written as JSON, and read back from any version."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from clp_core.errors import InputError
from clp_core.evaluation.obstacle import Obstacle
from clp_core.files.artifacts import REPORT_FILE
from clp_core.files.json_files import read_json
from clp_core.files.typed_json import typed
from clp_core.reports.licence import Origin
from clp_core.workspace import Workspace

NEEDED_FOR_CARD = ("match", "missing", "version", "heldout", "guard", "source_files")
"""Entries that no row depends on, but of which the card of a target tells."""


OTHER_BEGIN = ("bits_per_byte_begin_first", "bits_per_byte_begin_every")
"""Scores with the start token elsewhere, which are measured only where that differs."""


@dataclass(frozen=True)
class HealthSummary:
    """How sound the new rows of one side are; see ``transfer.provenance.Health``.

    Attributes:
        rows_at_risk: rows that are too long, cancelled or collapsed.
        too_long: rows more than three times as long as copied ones.
        cancelled: rows with less than one effective anchor.
        collapsed: rows of a dense method that lean on more than half of the anchors.
        n_eff_median: median of the effective anchors; ``None`` where none were counted.
        norm_ratio_max: largest length over the mean length of copied rows; ``None`` where it is not finite.
        output: the same of the output rows, where they are not tied.
    """

    rows_at_risk: int
    too_long: int
    cancelled: int
    collapsed: int
    n_eff_median: float | None = None
    norm_ratio_max: float | None = None
    output: HealthSummary | None = None


@dataclass(frozen=True)
class HeldOutSummary:
    """Scores on hidden anchors; see ``transfer.heldout_anchors.HeldOut``. ``None`` where none were hidden."""

    centred_cosine: float | None
    relative_error: float | None
    output: HeldOutSummary | None = None


@dataclass(frozen=True)
class GuardSummary:
    """What was done about rows at risk.

    Attributes:
        taken_over: number of input rows that each further method took over.
        policy: ``--guard``.
        output_taken_over: the same of output rows, where they are not tied.
    """

    taken_over: Mapping[str, int]
    policy: str = ""
    output_taken_over: Mapping[str, int] | None = None


@dataclass(frozen=True)
class AutoSummary:
    """What ``--method auto`` chose, and why; see ``transfer.method_selection.Choice``."""

    reason: str
    method: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float | None] = field(default_factory=dict)
    folds: int = 0
    margin: float = 0.0


@dataclass(frozen=True)
class CheckSummary:
    """What was checked after writing; see ``transfer.functional_check``.

    Attributes:
        kind: ``logits`` or ``files``.
        reason: of ``files``: why logits were not compared.
        layers: of ``logits``: layers that were run.
        of_layers: layers of the model.
        dtype: data type in which they were run.
        tokens_fed: tokens that were fed.
        tokens_compared: tokens whose logits were compared.
        largest_difference: in standard deviations of the source's logits.
        limit: largest difference that is let pass.
    """

    kind: str
    reason: str | None = None
    layers: int | None = None
    of_layers: int | None = None
    dtype: str | None = None
    tokens_fed: int | None = None
    tokens_compared: int | None = None
    largest_difference: float | None = None
    limit: float | None = None

    @property
    def described(self) -> str:
        """What was checked, in words."""
        if self.kind == "files":
            return f"the files alone, {self.reason}"
        is_whole = self.layers == self.of_layers
        layers = "all layers" if is_whole else f"the first {self.layers} of {self.of_layers} layers"
        return (
            f"the files, and logits of {self.tokens_compared or 0:,} common tokens against the source's ({layers}, "
            f"{self.dtype}; largest difference {self.largest_difference or 0:g} standard deviations)"
        )


@dataclass(frozen=True)
class ZeroStep:
    """Scores of the target on a text before any training, and what it says; see ``evaluation.bits_per_byte``."""

    text: str = ""
    sample: str = ""
    loss: float | None = None
    perplexity: float | None = None
    bits_per_byte: float | None = None
    bits_per_byte_begin_first: float | None = None
    bits_per_byte_begin_every: float | None = None
    bytes_per_token: float | None = None
    unknown_share: float | None = None
    lossy_share: float | None = None
    lossy_byte_share: float | None = None
    tokens: int | None = None
    bytes: int | None = None
    dtype: str | None = None
    begin: str | None = None
    control_strings: Mapping[str, int] = field(default_factory=dict)
    replacement_characters: int | None = None
    comparable: bool | None = None
    not_comparable: tuple[Obstacle, ...] = ()

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> ZeroStep:
        """Read figures of an evaluation of any version; entries that it does not know are passed over.

        Raises:
            ValueError: an entry is of another kind; the text is its name.
        """
        return typed(cls, content, none_is_absent=True)


@dataclass(frozen=True)
class TransferReport:
    """What a transfer did.

    Attributes:
        output: folder of the target.
        source: folder of the source.
        helper: folder of the helper.
        method: that made the missing rows.
        seed: of random rows and of the held-out choice.
        overlap: tokens that were copied.
        settings: of each method in use, defaults included.
        parameters: what fitting chose, by side, method and name.
        overrides: source ids whose mean is the row, by target id.
        health: of the new rows.
        match: how tokens were compared.
        missing: tokens that were initialised.
        version: of the workbench.
        heldout: scores on hidden anchors.
        guard: what was done about rows at risk.
        source_files: SHA-256 of each weight file of the source, by name.
        origins: what is known of source and helper; ``None`` in old reports, as all that follows may be.
        helper_content: digest of the helper's rows.
        auto: what ``auto`` chose.
        special_tokens: how special tokens were matched.
        device: where large products were done.
        match_norms: whether new rows were scaled to the usual length.
        provenance: ``full`` or ``light``.
        tied: whether input and output embeddings are one.
        rows: of the target's matrices.
        statuses: number of rows by what became of them.
        share_of_source: share of the source's tokens that were copied.
        share_of_target: share of the target's tokens that were copied.
        check: what was checked after writing.
        check_seconds: time of that.
        zero_step: scores before any training, where a text was given.
        trained_steps: steps that the model was trained for since, where it is a run's checkpoint.
        warnings: what a user should know.
        seconds: time of the whole transfer.
        peak_rss_bytes: peak resident memory.
    """

    output: str
    source: str
    helper: str
    method: str
    seed: int
    overlap: int
    settings: Mapping[str, Mapping[str, float]]
    parameters: Mapping[str, Mapping[str, Mapping[str, float]]]
    overrides: Mapping[str, tuple[int, ...]]
    health: HealthSummary
    match: str = ""
    missing: int = 0
    version: str = ""
    heldout: HeldOutSummary = HeldOutSummary(None, None)
    guard: GuardSummary = field(default_factory=lambda: GuardSummary({}))
    source_files: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, Origin] | None = None
    helper_content: str | None = None
    auto: AutoSummary | None = None
    special_tokens: str | None = None
    device: str | None = None
    match_norms: bool | None = None
    provenance: str | None = None
    tied: bool | None = None
    rows: int | None = None
    statuses: Mapping[str, int] | None = None
    share_of_source: float | None = None
    share_of_target: float | None = None
    check: CheckSummary | None = None
    check_seconds: float | None = None
    zero_step: ZeroStep | None = None
    trained_steps: int | None = None
    warnings: tuple[str, ...] = ()
    seconds: float | None = None
    peak_rss_bytes: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return what ``clp_transfer.json`` and ``clp transfer --json`` hold."""
        found = without_none(asdict(self)) | {"auto": asdict(self.auto) if self.auto else None}
        found["warnings"] = list(self.warnings)
        for name in ("health", "heldout"):
            found[name] = without_none(found[name], ("output",))
            if "output" in found[name]:
                found[name]["output"] = without_none(found[name]["output"], ("output",))
        for name in ("guard", "check"):
            if name in found:
                found[name] = without_none(found[name])
        if "zero_step" in found:
            found["zero_step"] = without_none(found["zero_step"], OTHER_BEGIN)
        return found

    @property
    def made_from(self) -> dict[str, Origin]:
        """Source and helper; of an older report by the folders that it names."""
        folders = {"source": self.source, "helper": self.helper}
        return dict(self.origins) if self.origins else {r: Origin.of_folder(Path(f)) for r, f in folders.items()}

    def names_of_paths(self, workspace: Workspace) -> dict[str, str]:
        """Return what stands for each path of this machine in a report that others read: a name or a Hub id."""
        origins = self.made_from
        paths = {self.source: origins["source"], self.helper: origins["helper"]}
        names = {path: origin.hub or origin.name for path, origin in paths.items()}
        names[self.output] = Path(self.output).name
        if self.zero_step and self.zero_step.text:
            names[self.zero_step.text] = Path(self.zero_step.text).name
        return names | {f"{workspace.root}/": "", f"{Path.home()}/": "~/"}  # in what is told in words

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> TransferReport:
        """Read a report of any version; entries that it does not know are passed over.

        Raises:
            ValueError: an entry without which no row can be explained is missing, or one is of another kind; the text
                is its name.
        """
        report = typed(cls, content, none_is_absent=True)
        if "input" not in report.parameters:
            raise ValueError("parameters.input")
        return report


def without_none(content: Mapping[str, Any], names: Collection[str] | None = None) -> dict[str, Any]:
    """Return an object of JSON without those of the named entries, by default of all, that are ``None``."""
    return {name: value for name, value in content.items() if value is not None or not (names is None or name in names)}


def read_transfer_report(folder: Path, *, for_card: bool = False) -> TransferReport | None:
    """Return the report in a folder, ``None`` where it holds none.

    Args:
        folder: a target, or a model that was trained from one.
        for_card: whether a card is made of it.

    Raises:
        InputError: it is not the report of a transfer.
    """
    content = read_json(folder / REPORT_FILE)
    if not content:
        return None
    try:
        report = TransferReport.of_json(content)
        if for_card and (lacking := next((name for name in NEEDED_FOR_CARD if content.get(name) is None), None)):
            raise ValueError(lacking)
    except ValueError as error:
        raise InputError(
            f"{folder / REPORT_FILE} is damaged or foreign: its entry {str(error)!r} is missing or of another kind; "
            "write the target again"
        ) from error
    return report
