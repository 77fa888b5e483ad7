"""The model card: README.md of a target model, of one that was trained, and of what is pushed to the Hub.

All figures come from the transfer's report, the run's spec and its metrics; what is not known is said to be not stated.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clp_core import __version__
from clp_core.files.artifacts import CURVE_FILE, TRAINING_FILE
from clp_core.initializers import initializer
from clp_core.model_cards.licence import NOT_STATED, Licence, Origin, origins_of
from clp_core.reports.transfer_report import described
from clp_core.tokenization.scripts import printable

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
        report: of the transfer that made it; empty for a model that no transfer made.
        runs: the facts of its training, the first run first; see ``training_facts``.
        fields: what the user says.
    """

    name: str
    report: Mapping[str, Any]
    runs: Sequence[Mapping[str, Any]] = ()
    fields: CardFields = CardFields()

    @property
    def origins(self) -> dict[str, Origin]:
        """Source and helper; of a model that no transfer made, what its training began with."""
        if self.report:
            return origins_of(self.report)
        return {"source": Origin.read(self.runs[0]["origin"])} if self.runs else {}

    def text(self) -> str:
        """Return the README.md."""
        parts = [
            self.metadata(),
            f"# {as_words(self.name)}",
            self.summary(),
            self.made(),
            self.warnings(),
            self.training(),
        ]
        parts += [self.scores(), self.use(), self.limits(), self.licences(), self.files()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def metadata(self) -> str:
        """Return the block that the Hub reads."""
        from huggingface_hub import EvalResult, ModelCardData

        bases = [origin.repo_id for origin in self.origins.values() if origin.repo_id]
        licence = self.fields.licence
        more: dict[str, Any] = {"base_model_relation": "finetune"} if bases and self.runs else {}
        data = ModelCardData(
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
                for metric, label in (("bits_per_byte", "bits per byte"), ("perplexity", "perplexity per token"))
                if (value := self.last_score().get(metric)) is not None
                # A reader of the metadata alone would compare it.
                and not (metric == "bits_per_byte" and self.not_comparable())
            ]
            or None,
            **more,
        )
        return f"---\n{data.to_yaml()}\n---"

    def last_score(self) -> Mapping[str, Any]:
        """Return the last evaluation of the training, else that before any; empty where there is none."""
        scored = [run["curve"][-1] for run in self.runs if run["curve"]]
        return scored[-1] if scored else self.report.get("zero_step") or {}

    def not_comparable(self) -> Sequence[Mapping[str, str]]:
        """List why the last score cannot be compared across tokenizers: codes and reasons; empty where it can."""
        scored = [run.get("not_comparable") for run in self.runs if run["curve"]]
        found = scored[-1] if scored else (self.report.get("zero_step") or {}).get("not_comparable")
        return found or []

    def eval_text(self) -> str:
        """Return the name of the text that was scored last."""
        named = [run["data"]["eval_text"] for run in self.runs if run["curve"]]
        return named[-1] if named else ""

    def summary(self) -> str:
        """Say in a few sentences what it is."""
        steps, untold = sum(run["step"] for run in self.runs), self.report.get("trained_steps", 0)
        if self.runs:
            tokens = sum(run["tokens"] or 0 for run in self.runs)
            trained = f"It was trained on for {steps:,} steps ({tokens:,} tokens)."
        elif untold:
            trained = f"It was trained on for {untold:,} steps; nothing more is recorded of that here."
        else:
            trained = "It has not been trained since."
        if not self.report:
            return f"A causal language model, made with CLP Workbench {__version__}. {trained}"
        whole = initializer(self.report["method"]).whole_model
        made_of = (
            "the shape of the source model with weights drawn at random, and the tokenizer of the helper model"
            if whole
            else "the body of the source model, the tokenizer of the helper model, and new embedding rows"
        )
        return (
            f"A causal language model made by a CLP transfer with CLP Workbench {self.report['version']}. "
            f"It has {made_of}. {trained}"
        )

    def made(self) -> str:
        """Tell of the transfer: source, helper, method, overlap, health, held-out anchors."""
        report = self.report
        if not report:
            return table([("began from", named(origin)) for origin in self.origins.values()])
        chosen = report["settings"][report["method"]]
        settings = f" with {', '.join(f'{name} {value:g}' for name, value in chosen.items())}" if chosen else ""
        total = report["overlap"] + report["missing"]
        rows = [(f"{role} model", named(origin)) for role, origin in self.origins.items()]
        rows += [
            ("method", f"`{report['method']}`{settings} (match `{report['match']}`, seed {report['seed']})"),
            ("tokens copied", f"{report['overlap']:,} of {total:,}"),
            ("tokens initialised", f"{report['missing']:,}"),
            ("rows at risk", f"{report['health']['rows_at_risk']:,}"),
            ("health", health_told(report["health"])),
        ]
        heldout = report["heldout"]
        if heldout["centred_cosine"] is not None:
            scores = f"centred cosine {heldout['centred_cosine']:.3f}"
            if heldout["relative_error"] is not None:
                scores += f", relative error {heldout['relative_error']:.3f}"
            rows.append(("held-out anchors", scores))
        if (report.get("zero_step") or {}).get("bits_per_byte") is not None:
            codes = ", ".join(each["code"] for each in report["zero_step"].get("not_comparable") or ())
            told = f" (not comparable across tokenizers: {codes})" if codes else ""
            rows.append(("bits per byte before training", f"{report['zero_step']['bits_per_byte']:.3f}{told}"))
        if told := described(report.get("check")):
            rows.append(("checked after writing", told))
        if report["auto"]:
            rows.append(("why this method", report["auto"]["reason"]))
        if report["overrides"]:
            rows.append(("tokens overridden by hand", f"{len(report['overrides']):,}"))
        taken_over = {name: n for name, n in report["guard"]["taken_over"].items() if n}
        if taken_over:
            told = ", ".join(f"{n:,} by `{name}`" for name, n in taken_over.items())
            rows.append(("rows at risk taken over", told))
        rows += [("source file", f"`{name}`, SHA-256 `{digest}`") for name, digest in report["source_files"].items()]
        return table(rows)

    def warnings(self) -> str:
        """List what the transfer warned of, and the runs since."""
        told = [
            *self.report.get("warnings", ()),
            *(f"{each}." for run in self.runs for each in run.get("warnings", ())),
        ]
        return "## Warnings\n\n" + "\n".join(f"- {as_words(str(warning))}" for warning in told) if told else ""

    def training(self) -> str:
        """Tell of every run: data, schedule, machine, versions."""
        parts = ["## Training"] if self.runs else []
        for i, run in enumerate(self.runs):
            if len(self.runs) > 1:
                parts.append(f"### Run {i + 1}: {as_words(str(run['run']))}")
            data = run["data"]
            texts = ", ".join(map(as_code, data["text"])) or NOT_STATED
            hashed = f", content under its tokenizer `{data['content'][:HASH_SHOWN]}`" if data.get("content") else ""
            rows = [("training text", texts + hashed)]
            if self.fields.datasets and i == len(self.runs) - 1:
                rows.append(("said to be of", as_words(", ".join(self.fields.datasets))))
            if data.get("eval_text"):
                scored = f", SHA-256 `{data['eval_content'][:HASH_SHOWN]}`" if data.get("eval_content") else ""
                rows.append(("held-out text", f"{as_code(data['eval_text'])}{scored}"))
            rows.append(("tokens seen", f"{run['tokens']:,}" if run["tokens"] is not None else NOT_STATED))
            planned = f" of {run['steps_planned']:,} planned" if run.get("steps_planned") else ""
            each = f", {run['step_tokens']:,} tokens each" if run.get("step_tokens") else ""
            rows.append(("steps", f"{run['step']:,}{planned}{each}"))
            if run.get("seconds"):
                rows.append(("time", f"{run['seconds'] / 3600:.2f} hours, evaluations and checkpoints included"))
            rows.append(("devices", ", ".join(run["devices"]) or NOT_STATED))
            if run.get("parameters"):
                rows.append(("parameters", f"{run['parameters']:,}"))
            rows.append(("versions", ", ".join(f"{name} {found}" for name, found in run["versions"].items())))
            rows += [(key.replace("_", " "), written(value)) for key, value in run["settings"].items()]
            parts.append(table(rows))
        return "\n\n".join(parts)

    def scores(self) -> str:
        """Show the curve on the held-out text, from before the training to its end."""
        parts = []
        for run in self.runs:
            curve = run["curve"]
            if not curve:
                continue
            first, last = curve[0], curve[-1]
            if len(self.runs) > 1:
                parts.append(f"Run `{run['run']}`:")
            if first is not last:
                parts.append(
                    f"Bits per byte of the held-out text: {number(first['bits_per_byte'])} at step {first['step']:,}, "
                    f"{number(last['bits_per_byte'])} at step {last['step']:,}; perplexity per token "
                    f"{number(first['perplexity'])} and {number(last['perplexity'])}."
                )
            head = "| step | tokens | loss, nats a token | perplexity | bits per byte |\n|---:|---:|---:|---:|---:|"
            rows = [
                f"| {point['step']:,} | {written(point['tokens'])} | {number(point['eval_loss'])} "
                f"| {number(point['perplexity'])} | {number(point['bits_per_byte'])} |"
                for point in shown_points(curve)
            ]
            parts.append("\n".join([head, *rows]))
        if not parts:
            return ""
        told = (
            f"All points are in `{CURVE_FILE}`. Loss and perplexity are per token and cannot be compared with those of "
            "another tokenizer; "
        )
        if found := self.not_comparable():
            told += "neither can bits per byte here:\n\n" + "\n".join(f"- {each['reason']}" for each in found)
        else:
            told += "bits per byte can, on the same text."
        return "\n\n".join(["## Held-out text", *parts, told])

    def use(self) -> str:
        """Show the code that loads it."""
        name = json.dumps(self.fields.repo_id or self.name, ensure_ascii=False)
        replaced_class = any("PreTrainedTokenizerFast" in told for told in self.report.get("warnings", []))
        tokenizer = "PreTrainedTokenizerFast" if replaced_class else "AutoTokenizer"
        return f"""## Use

```python
from transformers import AutoModelForCausalLM, {tokenizer}

tokenizer = {tokenizer}.from_pretrained({name})
model = AutoModelForCausalLM.from_pretrained({name})
prompt = tokenizer("...", return_tensors="pt", return_token_type_ids=False)
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=60)[0]))
```"""

    def limits(self) -> str:
        """Say what it cannot be trusted with."""
        told = [
            "It goes on with text; it is not tuned to follow instructions.",
            "What its training texts, those of the source model included, hold of biases and errors, it may repeat; "
            "none of this was examined.",
        ]
        if self.report:
            at_risk, missing = self.report["health"]["rows_at_risk"], self.report["missing"]
            if at_risk:
                since = ", before the training" if self.runs else ""
                told.append(f"{at_risk:,} of {missing:,} new embedding rows were at risk{since}.")
        if self.report and not self.runs and not self.report.get("trained_steps"):
            told.append("Without training it is a starting point, not a model to use.")
        return "## Limits\n\n" + "\n".join(f"- {line}" for line in told)

    def licences(self) -> str:
        """State the licences as they were given."""
        rows = [("this model", str(self.fields.licence or NOT_STATED))]
        rows += [(f"{role} model", str(origin.licence or NOT_STATED)) for role, origin in self.origins.items()]
        if self.runs:
            rows.append(("training text", as_words(self.fields.data_licence) or NOT_STATED))
        return f"## Licences\n\n{table(rows)}\n\nThe licences of source and helper hold for this model."

    def files(self) -> str:
        """Say what lies beside the weights."""
        told = []
        if self.report:
            told.append(
                "`clp_transfer.json` holds all figures of the transfer; `clp_provenance.parquet` says for every token "
                "where its row is from."
            )
        if self.runs:
            told.append(f"`{TRAINING_FILE}` holds the settings and figures of the training.")
        return " ".join(told)


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
    return f"{new.metadata()}\n\n{body}\n"


def without_metadata(text: str) -> str:
    """Return a card without the block that the Hub reads."""
    return re.sub(r"\A---\n.*?\n---\n", "", text, count=1, flags=re.DOTALL).strip()


def table(rows: Sequence[tuple[str, str]]) -> str:
    """Return a table of two columns without a head."""
    lines = [f"| {label} | {value} |".replace("\n", " ") for label, value in rows]
    return "\n".join(["| | |", "|---|---|", *lines]) if rows else ""


def health_told(health: Mapping[str, Any]) -> str:
    """Return the health figures of the new rows."""
    told = []
    if health.get("n_eff_median") is not None:
        told.append(f"half of the new rows rest on {health['n_eff_median']:,.1f} anchors or more (n_eff)")
    if health.get("norm_ratio_max") is not None:
        told.append(f"the longest is {health['norm_ratio_max']:.2f} times as long as copied rows are on average")
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


def shown_points(curve: Sequence[Mapping[str, Any]], n: int = SHOWN_ROWS) -> list[Mapping[str, Any]]:
    """Return at most ``n`` evaluations for a table, the first and the last among them."""
    if len(curve) <= n:
        return list(curve)
    return [curve[round(i * (len(curve) - 1) / (n - 1))] for i in range(n)]
