"""An experiment as a user does it: tokenizer and helper, then arms and seeds as jobs, all of them scored."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clp_core.experiments.design import Design, read_design
from clp_core.experiments.records import Records
from clp_core.experiments.runner import Runner
from clp_core.experiments.summary import summarise
from clp_core.experiments.tables import tables_of
from clp_core.files.json_files import read_state
from clp_core.jobs.store import JobStore
from clp_core.workspace import Workspace
from gpu_items.findings import Findings, read_json, write_json
from gpu_items.setting import Setting, note
from gpu_items.texts import copy_demo, write_split

ARMS: dict[str, dict[str, Any]] = {
    "scratch": {"method": "scratch", "about": "all weights random"},
    "clp": {"method": "clp", "about": "the published rule"},
    "auto": {"method": "auto", "about": "the method that auto chooses"},
    "auto-taught": {"method": "auto", "train": {"teacher": "helper"}, "about": "auto that follows its helper"},
}
BASELINES = ("scratch", "clp")
BEGIN_SHARE = 1.1
"""A run is begun where the time left is at least this many times that of the longest one so far."""


@dataclass(frozen=True)
class Size:
    """How large the experiment is.

    Attributes:
        arms: names of its arms.
        seeds: seeds of each.
        vocabulary: tokens of the helper's tokenizer.
        helper: size of the helper, as ``clp pretrain`` names it.
        helper_tokens: tokens that the helper is trained on; 0: by its plan.
        valid_bytes: bytes of each held-out text.
        train: further options of every run.
        helper_train: further options of the helper's run.
    """

    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    vocabulary: int
    helper: str
    helper_tokens: int
    valid_bytes: int
    train: dict[str, Any]
    helper_train: tuple[str, ...] = ()


ONE_FILE = {"keep_last": 1, "only_last": True}
FULL = Size(tuple(ARMS), (1, 2), 16_384, "base", 0, 100_000, {"early_evals": 3, "save_every": 300, **ONE_FILE})
MINIATURE = Size(
    ("auto-taught",), (1,), 600, "tiny", 1024, 2000,
    {"batch_tokens": 256, "block_length": 64, "device": "cpu", **ONE_FILE},
    ("--batch-tokens", "256", "--block-length", "64", "--device", "cpu"),
)  # fmt: skip
MINIATURE_TOKENS = 1024


@dataclass(frozen=True)
class Inputs:
    """Models and texts of the experiment.

    Attributes:
        source: folder of the source model.
        helper: folder of the helper.
        train: training text of the target language.
        valid: held-out text of it.
        english: held-out text of the source's language; ``None`` without one.
    """

    source: Path
    helper: Path
    train: Path
    valid: Path
    english: Path | None


def run(setting: Setting, findings: Findings) -> None:
    """Prepare the inputs, do the runs that the time allows, and score English beside German after each."""
    size = MINIATURE if setting.smoke else FULL
    inputs = own_inputs(setting, size, findings) if setting.source else demo_inputs(setting, findings)
    if inputs.english is None:
        findings.skip("English is scored beside German", "--corpora names no folder with English text")
    design = write_design(setting, size, inputs)
    runner = Runner(design, Workspace.current())
    records = Records(design)
    scores = setting.work / "english.json"
    longest = 0.0
    problems: list[str] = []
    while runner.left and not problems:
        if setting.left_s < BEGIN_SHARE * longest:
            break
        began = time.monotonic()
        problems = runner.run_all(limit=1)
        score_english(runner, inputs, scores)
        longest = max(longest, time.monotonic() - began)
        report(findings, design, scores)
    score_english(runner, inputs, scores)
    report(findings, design, scores)
    measured, wanted = len(records.measured_runs), len(design.runs)
    left = ", ".join(run.key for run in runner.left)
    detail = "; ".join(problems) or (f"no time left for {left}: --resume does them" if left else f"{wanted} runs")
    if left and not problems:
        findings.incomplete("all runs are measured", detail)
    else:
        findings.check("all runs are measured", measured == wanted and not problems, detail)
    compare_arms(findings, records)


def demo_inputs(setting: Setting, findings: Findings) -> Inputs:
    """Use the packaged demo's pair, whose helper is trained already, and its texts."""
    folder = setting.work / "inputs"
    copy_demo(folder, *((200, 5) if setting.smoke else (0, 0)))
    findings.skip("a helper is trained", "the packaged demo's pair is taken; --source names another source")
    english = english_text(setting, 2000 if setting.smoke else 100_000)
    return Inputs(folder / "source", folder / "helper", folder / "train.txt", folder / "valid.txt", english)


def own_inputs(setting: Setting, size: Size, findings: Findings) -> Inputs:
    """Train a tokenizer and a helper on the German text for a source model; what an earlier call has made is kept."""
    space = Workspace.current()
    texts = {name: space.texts / f"german-{name}.txt" for name in ("train", "valid")}
    if not texts["valid"].is_file():
        if setting.corpora:
            write_split(Path(setting.corpora) / "de", texts["train"], texts["valid"], size.valid_bytes)
        else:
            copy_demo(setting.work / "demo")
            space.texts.mkdir(parents=True, exist_ok=True)
            for name, path in texts.items():
                path.write_bytes((setting.work / "demo" / f"{name}.txt").read_bytes())
    english = english_text(setting, size.valid_bytes)
    tokenizer, helper = space.tokenizers / "german", space.models / "german-helper"
    figures: dict[str, Any] = read_json(setting.work / "helper.json")
    if not (tokenizer / "tokenizer.json").is_file():
        figures["tokenizer"] = clp(
            "tokenizer", "--text", str(texts["train"]), "--vocab-size", str(size.vocabulary), "--source",
            setting.source, "--output", str(tokenizer),
        )  # fmt: skip
    if not (helper / "config.json").is_file():
        budget = ["--max-tokens", str(size.helper_tokens)] if size.helper_tokens else []
        began = time.monotonic()
        run = clp(
            "pretrain", "--tokenizer", str(tokenizer), "--size", size.helper, "--text", str(texts["train"]),
            "--eval-text", str(texts["valid"]), "--name", "german helper", *budget, *size.helper_train,
        )  # fmt: skip
        figures["helper"] = run | {"seconds": round(time.monotonic() - began, 1)}
        clp("jobs", "export", Path(run["job"]).name, "--output", str(helper))
    write_json(setting.work / "helper.json", figures)
    findings.figure("helper", figures)
    trained = figures["helper"]
    detail = (
        f"{trained['plan']['parameters'] / 1e6:.1f} million parameters, {trained['tokens']:,} tokens in "
        f"{trained['seconds']:.0f} s, {trained['bits_per_byte']:.3f} bits per byte"
    )
    findings.check("a helper is trained", trained["state"] == "finished", detail)
    return Inputs(Path(setting.source).absolute(), helper, texts["train"], texts["valid"], english)


def english_text(setting: Setting, n_bytes: int) -> Path | None:
    """Held-out text of the source's language; ``None`` where there are no corpora."""
    if not setting.corpora:
        return None
    texts = Workspace.current().texts
    valid = texts / "english-valid.txt"
    if not valid.is_file():
        write_split(Path(setting.corpora) / "en", texts / "english-train.txt", valid, n_bytes)
    return valid


def clp(*arguments: str) -> dict[str, Any]:
    """Run a ``clp`` command and return the object it prints.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "clp_core", *arguments, "--json"]
    note(f"clp {' '.join(arguments)}")
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        raise RuntimeError(f"clp {arguments[0]} failed with exit code {done.returncode}; the log says why")
    return dict(json.loads(lines[-1]))


def write_design(setting: Setting, size: Size, inputs: Inputs) -> Design:
    """Write the experiment's file and read it as ``clp experiment`` does."""
    tokens = MINIATURE_TOKENS if setting.smoke else setting.tokens
    content = {
        "title": f"{inputs.source.name} to German, {tokens:,} tokens per run",
        "source": str(inputs.source),
        "helper": str(inputs.helper),
        "train_text": [str(inputs.train)],
        "eval_text": str(inputs.valid),
        "seeds": list(size.seeds),
        "baselines": [name for name in BASELINES if name in size.arms],
        "train": {"max_tokens": tokens, **size.train},
        "arms": {name: ARMS[name] for name in size.arms},
    }
    file = setting.work / "gpu.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return read_design(file, setting.work / "records")


def score_english(runner: Runner, inputs: Inputs, file: Path) -> None:
    """Score the source, every target before training, and every run's end on English; each once, kept in a file."""
    if inputs.english is None:
        return
    from clp_core.evaluation.bits_per_byte import evaluate

    known = read_json(file)
    ledger, store = read_state(runner.ledger), JobStore(runner.workspace.jobs)
    models: dict[str, Path] = {"source": inputs.source}
    for run in Records(runner.design).measured_runs:
        models[f"{run.key} before"] = runner.workspace.models / runner.target_name(run)
        models[f"{run.key} after"] = store.get(ledger[run.key]["job"]).checkpoints()[-1]
    for name, folder in models.items():
        if name not in known:
            known[name] = evaluate(folder, [inputs.english]).bits_per_byte
            write_json(file, known)


def report(findings: Findings, design: Design, scores: Path) -> None:
    """Put what is measured so far into the findings."""
    records = Records(design)
    english = read_json(scores)
    arms = {}
    for row in summarise(records):
        ends = [english.get(f"{row.arm.name}-s{seed} after") for seed in design.seeds]
        starts = [english.get(f"{row.arm.name}-s{seed} before") for seed in design.seeds]
        arms[row.arm.name] = {
            "german_before": list(row.first.values),
            "german_after": list(row.last.values),
            "german_best": list(row.best.values),
            "english_before": [value for value in starts if value is not None],
            "english_after": [value for value in ends if value is not None],
            "tokens": row.tokens.mean,
            "seconds": list(row.seconds.values),
        }
    findings.figure("bits_per_byte", arms)
    findings.figure("english_source", english.get("source"))
    tables = [f"{table.title}\n\n{table.markdown}" for table in tables_of(records)]
    findings.figure("tables", [*tables, *([english_table(arms, english["source"])] if english else [])])


def english_table(arms: Mapping[str, Any], source: float) -> str:
    """Return a table of the scores on English, mean over the seeds."""
    lines = [f"Bits per byte of held-out English; the source itself {source:.3f}", ""]
    lines += ["| arm | before training | at the end |", "|---|---:|---:|"]
    for name, figures in arms.items():
        ends = [figures[f"english_{when}"] for when in ("before", "after")]
        cells = [f"{sum(values) / len(values):.3f}" if values else "" for values in ends]
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def compare_arms(findings: Findings, records: Records) -> None:
    """Say of neighbouring arms whether the later one ends better; a statement on methods, not on the code."""
    means = {row.arm.name: row.last.mean for row in summarise(records)}
    for worse, better in itertools.pairwise(name for name in ARMS if name in means):
        detail = f"{means[better]:.3f} against {means[worse]:.3f} bits per byte at the end"
        verdict = findings.met if means[better] < means[worse] else findings.missed
        verdict(f"{better} ends better than {worse}", detail)
