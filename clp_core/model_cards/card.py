"""The model card: README.md of a target model, of one that was trained, and of what is pushed to the Hub.

All figures come from the transfer's report, the run's spec and its metrics; what is not known is said to be not stated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from clp_core import __version__
from clp_core.files.artifacts import CURVE_FILE, PROVENANCE_FILE, REPORT_FILE, TRAINING_FILE
from clp_core.initializers import initializer
from clp_core.reports.licence import NOT_STATED, Licence, Origin
from clp_core.reports.training_facts import EvaluationPoint, RunFacts
from clp_core.reports.transfer_report import HealthSummary, TransferReport, ZeroStep
from clp_core.tokenization.scripts import printable

if TYPE_CHECKING:
    from huggingface_hub import ModelCardData

T = TypeVar("T")
TEMPLATE = Path(__file__).parent / "card.md.jinja"
METADATA = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
BLANK_LINES = re.compile(r"\n(?:[ \t]*\n){2,}")
HASH_SHOWN = 16
SHOWN_ROWS = 10
MADE_WITH = "clp-transfer"


@dataclass(frozen=True)
class CardFields:
    """What only the user can say of a model.

    Attributes:
        licence: under which it is given on; ``None`` where that is not decided.
        languages: codes of its languages, such as ``de``.
        datasets: names of the texts it was trained on, as ids of the Hub or in words.
        repo_id: where it will lie on the Hub.
        data_licence: licence of these texts.
    """

    licence: Licence | None = None
    languages: tuple[str, ...] = ()
    datasets: tuple[str, ...] = ()
    repo_id: str = ""
    data_licence: str = ""


@dataclass(frozen=True)
class Card:
    """The card of one model.

    Attributes:
        name: what the model is called.
        report: of the transfer that made it; ``None`` for a model that no transfer made.
        runs: the facts of its training, the first run first.
        fields: what the user says.
    """

    name: str
    report: TransferReport | None
    runs: Sequence[RunFacts] = ()
    fields: CardFields = CardFields()

    @property
    def origins(self) -> dict[str, Origin]:
        """Source and helper; of a model that no transfer made, what its training began with."""
        if self.report:
            return self.report.made_from
        return {"source": self.runs[0].origin} if self.runs else {}

    def text(self) -> str:
        """Return the README.md: ``card.md.jinja``, filled in."""
        from huggingface_hub import ModelCard

        card = ModelCard.from_template(self.metadata(), template_path=str(TEMPLATE), **self.context())
        return with_single_blank_lines(str(card))

    def context(self) -> dict[str, Any]:
        """Return what the template is filled in with; all names and texts of others are escaped for Markdown."""
        report, runs = self.report, self.runs
        transferred = report.warnings if report else ()
        told = [*transferred, *(f"{each}." for run in runs for each in run.warnings)]
        replaced_class = any("PreTrainedTokenizerFast" in warning for warning in transferred)
        return {
            "title": as_words(self.name),
            "version": report.version if report else __version__,
            "transfer": self.transfer_facts(),
            "made": self.made(),
            "steps": f"{sum(run.step for run in runs):,}",
            "tokens": f"{sum(run.tokens or 0 for run in runs):,}",
            "unrecorded_steps": f"{report.trained_steps:,}" if report and report.trained_steps else "",
            "warnings": [as_words(str(warning)) for warning in told],
            "runs": [self.run_facts(i) for i in range(len(runs))],
            "has_scores": any(run.curve for run in runs),
            "not_comparable": self.not_comparable(),
            "tokenizer_class": "PreTrainedTokenizerFast" if replaced_class else "AutoTokenizer",
            "loaded_as": json.dumps(self.fields.repo_id or self.name, ensure_ascii=False),
            "licences": self.licences(),
            "curve_file": CURVE_FILE,
            "report_file": REPORT_FILE,
            "provenance_file": PROVENANCE_FILE,
            "training_file": TRAINING_FILE,
        }

    def metadata(self) -> ModelCardData:
        """Return what the Hub reads."""
        from huggingface_hub import EvalResult, ModelCardData

        bases = [origin.repo_id for origin in self.origins.values() if origin.repo_id]
        licence = self.fields.licence
        more: dict[str, Any] = {"base_model_relation": "finetune"} if bases and self.runs else {}
        return ModelCardData(
            language=list(self.fields.languages) or None,
            license=licence.id if licence else None,
            license_name=(licence.name or None) if licence else None,
            license_link=(licence.link or None) if licence else None,
            base_model=bases or None,
            datasets=[name for name in self.fields.datasets if is_dataset_id(name)] or None,
            library_name="transformers",
            pipeline_tag="text-generation",
            tags=[MADE_WITH],
            model_name=self.name if self.last_score() else None,
            eval_results=[
                EvalResult(
                    task_type="text-generation",
                    dataset_type="held-out-text",
                    dataset_name=self.eval_text() or "held-out text",
                    metric_type=metric,
                    metric_name=label,
                    metric_value=round(value, 4),
                )
                for metric, label, value in self.last_scores()
                # A reader of the metadata alone would compare it.
                if not (metric == "bits_per_byte" and self.not_comparable())
            ]
            or None,
            **more,
        )

    def last_score(self) -> EvaluationPoint | ZeroStep | None:
        """Return the last evaluation of the training, else that before any; ``None`` where there is neither."""
        scored = [run.curve[-1] for run in self.runs if run.curve]
        return scored[-1] if scored else self.report.zero_step if self.report else None

    def last_scores(self) -> list[tuple[str, str, float]]:
        """List the figures of the last score that are known: the Hub's name, a reader's name, the value."""
        score = self.last_score()
        if score is None:
            return []
        figures = (
            ("bits_per_byte", "bits per byte", score.bits_per_byte),
            ("perplexity", "perplexity per token", score.perplexity),
        )
        return [(metric, label, value) for metric, label, value in figures if value is not None]

    def not_comparable(self) -> list[str]:
        """List why the last score cannot be compared across tokenizers; empty where it can."""
        scored = [run.not_comparable for run in self.runs if run.curve]
        zero = self.report.zero_step if self.report else None
        obstacles = scored[-1] if scored else zero.not_comparable if zero else ()
        return [obstacle.reason for obstacle in obstacles]

    def eval_text(self) -> str:
        """Return the name of the text that was scored last."""
        named = [run.data.eval_text for run in self.runs if run.curve]
        return named[-1] if named else ""

    def transfer_facts(self) -> dict[str, Any]:
        """Return what the sentences of the card say of the transfer; empty for a model that no transfer made."""
        if self.report is None:
            return {}
        return {
            "is_whole_model": initializer(self.report.method).whole_model,
            "rows_at_risk": f"{n:,}" if (n := self.report.health.rows_at_risk) else "",
            "missing": f"{self.report.missing:,}",
        }

    def made(self) -> list[tuple[str, str]]:
        """Return the rows of the table of the transfer: source, helper, method, overlap, health, held-out anchors."""
        report = self.report
        if report is None:
            return rows_of([("began from", named(origin)) for origin in self.origins.values()])
        chosen = report.settings[report.method]
        settings = f" with {', '.join(f'{name} {value:g}' for name, value in chosen.items())}" if chosen else ""
        total = report.overlap + report.missing
        rows = [(f"{role} model", named(origin)) for role, origin in self.origins.items()]
        rows += [
            ("method", f"`{report.method}`{settings} (match `{report.match}`, seed {report.seed})"),
            ("tokens copied", f"{report.overlap:,} of {total:,}"),
            ("tokens initialised", f"{report.missing:,}"),
            ("rows at risk", f"{report.health.rows_at_risk:,}"),
            ("health", health_told(report.health)),
        ]
        heldout, zero = report.heldout, report.zero_step
        if heldout.centred_cosine is not None:
            scores = f"centred cosine {heldout.centred_cosine:.3f}"
            if heldout.relative_error is not None:
                scores += f", relative error {heldout.relative_error:.3f}"
            rows.append(("held-out anchors", scores))
        if zero is not None and zero.bits_per_byte is not None:
            codes = ", ".join(each.code for each in zero.not_comparable)
            told = f" (not comparable across tokenizers: {codes})" if codes else ""
            rows.append(("bits per byte before training", f"{zero.bits_per_byte:.3f}{told}"))
        if report.check:
            rows.append(("checked after writing", report.check.described))
        if report.auto:
            rows.append(("why this method", report.auto.reason))
        if report.overrides:
            rows.append(("tokens overridden by hand", f"{len(report.overrides):,}"))
        taken_over = {name: n for name, n in report.guard.taken_over.items() if n}
        if taken_over:
            told = ", ".join(f"{n:,} by `{name}`" for name, n in taken_over.items())
            rows.append(("rows at risk taken over", told))
        rows += [("source file", f"`{name}`, SHA-256 `{digest}`") for name, digest in report.source_files.items()]
        return rows_of(rows)

    def run_facts(self, i: int) -> dict[str, Any]:
        """Return what the template tells of a run: data, schedule, machine, versions, and its curve."""
        run = self.runs[i]
        data = run.data
        texts = ", ".join(map(as_code, data.text)) or NOT_STATED
        hashed = f", content under its tokenizer `{data.content[:HASH_SHOWN]}`" if data.content else ""
        rows = [("training text", texts + hashed)]
        if self.fields.datasets and i == len(self.runs) - 1:
            rows.append(("said to be of", as_words(", ".join(self.fields.datasets))))
        if data.eval_text:
            scored = f", SHA-256 `{data.eval_content[:HASH_SHOWN]}`" if data.eval_content else ""
            rows.append(("held-out text", f"{as_code(data.eval_text)}{scored}"))
        rows.append(("tokens seen", f"{run.tokens:,}" if run.tokens is not None else NOT_STATED))
        planned = f" of {run.steps_planned:,} planned" if run.steps_planned else ""
        each = f", {run.step_tokens:,} tokens each" if run.step_tokens else ""
        rows.append(("steps", f"{run.step:,}{planned}{each}"))
        if run.seconds:
            rows.append(("time", f"{run.seconds / 3600:.2f} hours, evaluations and checkpoints included"))
        rows.append(("devices", ", ".join(run.devices) or NOT_STATED))
        if run.parameters:
            rows.append(("parameters", f"{run.parameters:,}"))
        rows.append(("versions", ", ".join(f"{name} {found}" for name, found in run.versions.items())))
        rows += [(key.replace("_", " "), written(value)) for key, value in run.settings.items()]
        curve = [point_told(point) for point in shown_points(run.curve)]
        is_trained = len(run.curve) > 1
        return {
            "title": as_words(run.run),
            "name": as_code(run.run),
            "facts": rows_of(rows),
            "scores": curve,
            "first": curve[0] if is_trained else None,
            "last": curve[-1] if is_trained else None,
        }

    def licences(self) -> list[tuple[str, str]]:
        """Return the rows of the table of licences, as they were given."""
        rows = [("this model", str(self.fields.licence or NOT_STATED))]
        rows += [(f"{role} model", str(origin.licence or NOT_STATED)) for role, origin in self.origins.items()]
        if self.runs:
            rows.append(("training text", as_words(self.fields.data_licence) or NOT_STATED))
        return rows_of(rows)


def kept_card(file: Path, own: Card, new: Card) -> str:
    """Return the card to push: the new one, or what the user made of the folder's, with the new one's metadata.

    Args:
        file: the folder's README.md.
        own: the card as it was written there.
        new: the card with what the user says of the model.
    """
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    body = without_metadata(text)
    if not body or body == without_metadata(own.text()):
        return new.text()
    return f"---\n{new.metadata().to_yaml()}\n---\n\n{body}\n"


def without_metadata(text: str) -> str:
    """Return a card without the block that the Hub reads, whatever that holds."""
    return METADATA.sub("", text, count=1).strip()


def with_single_blank_lines(text: str) -> str:
    """Return Markdown in which no two blank lines follow each other, as parts that a template leaves out would make."""
    return BLANK_LINES.sub("\n\n", text).strip() + "\n"


def rows_of(rows: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return rows of a table, each on a line of its own."""
    return [(label.replace("\n", " "), value.replace("\n", " ")) for label, value in rows]


def point_told(point: EvaluationPoint) -> dict[str, str]:
    """Return an evaluation as the table of the card shows it."""
    return {
        "step": f"{point.step:,}",
        "tokens": written(point.tokens),
        "loss": number(point.eval_loss),
        "perplexity": number(point.perplexity),
        "bits_per_byte": number(point.bits_per_byte),
    }


def health_told(health: HealthSummary) -> str:
    """Return the health figures of the new rows."""
    told = []
    if health.n_eff_median is not None:
        told.append(f"half of the new rows rest on {health.n_eff_median:,.1f} anchors or more (n_eff)")
    if health.norm_ratio_max is not None:
        told.append(f"the longest is {health.norm_ratio_max:.2f} times as long as copied rows are on average")
    return "; ".join(told) or NOT_STATED


def named(origin: Origin) -> str:
    """Return an origin as a link where it lies on the Hub."""
    if not origin.repo_id:
        return as_code(origin.name)
    revision = origin.hub.partition("@")[2]
    return f"[{origin.repo_id}](https://huggingface.co/{origin.repo_id})" + (f" at `{revision}`" if revision else "")


def as_words(text: str) -> str:
    """Return a text on one line of Markdown: tokens such as ``<unk>``, brackets and bars stand for themselves."""
    shown = printable(" ".join(text.split()))
    return re.sub(r"[<\[\]|`\\]", r"\\\g<0>", shown)


def as_code(text: str) -> str:
    """Return a name as code in Markdown, a grave accent replaced by an apostrophe."""
    shown = printable(" ".join(text.split())).replace("`", "'").replace("|", "\\|")
    return f"`{shown}`"


def number(value: float | None) -> str:
    """Return a figure for a table."""
    return "-" if value is None else f"{value:,.4g}"


def written(value: Any) -> str:
    """Return a setting for a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "-"
    return f"{value:,}" if isinstance(value, int) else str(value)


def is_dataset_id(name: str) -> bool:
    """Say whether a name has the form of a dataset on the Hub, ``org/name``."""
    from clp_core.hub.repo_id import HubName

    return "/" in name and " " not in name and HubName.parse(name) is not None


def shown_points(curve: Sequence[T], n: int = SHOWN_ROWS) -> list[T]:
    """Return at most ``n`` evaluations for a table, the first and the last among them."""
    if len(curve) <= n:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (n - 1))] for i in range(n)]
