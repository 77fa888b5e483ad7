"""Experiments: read from a file, run as jobs, kept one file a measurement, told in tables made of these alone."""

import json
import re
import shlex
import shutil
from dataclasses import asdict
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import yaml
from support.commands import clp, clp_process, refused, result_of, within
from support.jobs import end_of

from clp_core.errors import InputError
from clp_core.experiments import records as kept_records
from clp_core.experiments import runner as experiment_runner
from clp_core.experiments.design import read_design
from clp_core.experiments.figure import draw
from clp_core.experiments.measurements import measures_of
from clp_core.experiments.records import Records, saved_curve, saved_experiments
from clp_core.experiments.runner import Runner, digest_of
from clp_core.experiments.staleness import measure_differs, run_differs
from clp_core.experiments.summary import summarise
from clp_core.experiments.tables import tables_of
from clp_core.figures import paper_figure
from clp_core.initializers import initializer
from clp_core.jobs import JobStore
from clp_core.run_comparison.curve import published_curves
from clp_core.run_comparison.tokens_saved import crossing
from clp_core.workspace import Workspace
from scripts.publish_results import documents, filled

TRAIN = {"max_steps": 6, "eval_every": 2, "block_length": 32, "batch_tokens": 128, "learning_rate": 1e-3}
TRAIN |= {"keep_last": 1, "only_last": True}


@pytest.fixture(autouse=True)
def looks_often(monkeypatch):
    """Small runs are over in a second; a runner that looks every other second would wait most of the time."""
    monkeypatch.setattr(experiment_runner, "POLL_S", 0.05)


@pytest.fixture
def described(tmp_path, pair, texts):
    """Write an experiment on a small pair, with changes, and return its file."""
    return description(tmp_path, pair, texts)


def description(folder, pair, texts):
    def write(**changes):
        told = {
            "title": "A small one",
            "source": str(pair[0]),
            "helper": str(pair[1]),
            "train_text": [str(texts[0])],
            "eval_text": str(texts[1]),
            "seeds": [1, 2],
            "baselines": ["random"],
            "train": TRAIN,
            "arms": {
                "random": {"method": "random"},
                "taught": {"method": "linear", "train": {"teacher": "helper"}, "seeds": [1]},
            },
        } | changes
        file = folder / "small.yaml"
        file.write_text(yaml.safe_dump({key: value for key, value in told.items() if value is not None}))
        return file

    return write


@pytest.fixture(scope="module")
def measured(tmp_path_factory, pair, texts):
    """The small experiment with its three runs done: first one of them, then the others."""
    root = tmp_path_factory.mktemp("measured")
    workspace = Workspace(root / "workspace")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLP_WORKSPACE", str(workspace.root))
        patch.setenv("CLP_QUEUE", str(root / "queue"))
        patch.setattr(experiment_runner, "POLL_S", 0.05)
        design = read_design(description(root, pair, texts)())
        assert Runner(design, workspace).run_all(limit=1) == []
        assert [run.key for run in Records(design).measured_runs] == ["random-s1"]
        first = Records(design).file("runs", "random-s1.jsonl")
        assert first.read_bytes() == JobStore(workspace.jobs).jobs()[0].metrics_file.read_bytes()
        assert Runner(design, workspace).run_all() == []
    return design, workspace


@pytest.mark.process
def test_runs_are_jobs_that_are_kept_and_not_done_again(measured):
    design, workspace = measured
    kinds = [job.kind for job in JobStore(workspace.jobs).jobs()]
    assert kinds.count("train") == 3
    before = len(kinds)
    assert Runner(design, workspace).run_all() == []
    assert len(JobStore(workspace.jobs).jobs()) == before
    told = json.loads(Records(design).file("runs", "taught-s1.json").read_text())
    assert told["transfer"]["method"] == "linear"
    assert told["arguments"]["teacher"] == "helper"
    everything = "".join(path.read_text() for path in design.folder.rglob("*.json"))
    assert str(workspace.root.parent) not in everything


@pytest.mark.process
def test_run_that_was_stopped_is_resumed(described, workspace):
    design = read_design(described(seeds=[1], arms={"random": {"method": "random"}}))
    runner = Runner(design, workspace)
    (run,) = design.runs
    job = runner.start(run, runner.make_targets([run])[runner.target_name(run)])
    job.ask_stop()
    assert end_of(job).state == "stopped"
    assert runner.run_all() == []
    (trained,) = [job for job in JobStore(workspace.jobs).jobs() if job.kind == "train"]
    assert trained.status().state == "finished"
    assert Records(design).has_run(run)


@pytest.mark.process
def test_run_that_is_asked_otherwise_is_done_anew(described, workspace):
    design = read_design(described(seeds=[1], arms={"random": {"method": "random"}}))
    assert Runner(design, workspace).run_all() == []
    assert not Runner(design, workspace).left
    changed = read_design(described(seeds=[1], arms={"random": {"method": "random"}}, train=TRAIN | {"max_steps": 4}))
    assert Records(changed).measured_runs == []  # what is measured is another run: no table shows it as this one
    assert tables_of(Records(changed)) == []
    assert Runner(changed, workspace).run_all() == []
    assert json.loads(Records(changed).file("runs", "random-s1.json").read_text())["plan"]["steps"] == 4


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({}, []),
        ({"helper": "/elsewhere/other"}, ["helper"]),
        ({"source": "other"}, ["source"]),
        ({"match": "canonical"}, ["match"]),
        ({"train_text": ["other.txt"]}, ["text"]),
        ({"eval_text": "other.txt"}, ["eval_text"]),
        ({"train": TRAIN | {"learning_rate": 2e-3}}, ["learning_rate"]),
        ({"train": {key: value for key, value in TRAIN.items() if key != "batch_tokens"}}, ["batch_tokens"]),
        ({"arms": {"a": {"method": "linear:neighbours=8"}}}, ["method"]),
        ({"arms": {"a": {"method": "auto"}}}, ["method"]),
        ({"arms": {"a": {"method": "linear", "train": {"teacher": "helper"}}}}, ["teacher"]),
    ],
)
def test_record_is_held_to_what_the_file_asks(described, pair, texts, changes, differs):
    arms = {"a": {"method": "linear"}}
    design = read_design(described(seeds=[1], baselines=None, arms=arms))
    told = {
        "arguments": {
            **{key: list(value) if isinstance(value, tuple) else value for key, value in options_of(design).items()},
            "text": [Path(texts[0]).name],
            "eval_text": Path(texts[1]).name,
            "teacher": "",
        },
        "transfer": {
            **{"source": Path(pair[0]).name, "helper": Path(pair[1]).name, "match": "raw", "seed": 1, "auto": None},
            **{"method": "linear", "settings": {"linear": initializer("linear").resolve({})}},
        },
    }
    asked = read_design(described(**({"seeds": [1], "baselines": None, "arms": arms} | changes)))
    assert run_differs(asked, asked.runs[0], told) == differs
    del told["arguments"]["weight_decay"]  # as if the option were newer than the record
    assert run_differs(asked, asked.runs[0], told) == differs
    heavier = read_design(described(seeds=[1], baselines=None, arms=arms, train=TRAIN | {"weight_decay": 0.3}))
    assert run_differs(heavier, heavier.runs[0], told) == ["weight_decay"]


def options_of(design):
    return asdict(design.train_options(design.runs[0], Path("model"), Workspace(Path("workspace"))))


def test_job_is_not_taken_up_for_a_text_or_teacher_that_has_changed(described, workspace, pair, texts, tmp_path):
    text, teacher = tmp_path / "mine.txt", tmp_path / "teacher"
    shutil.copy(texts[0], text)
    shutil.copytree(pair[1], teacher)
    arms = {"a": {"method": "random", "train": {"teacher": str(teacher)}}}
    design = read_design(described(seeds=[1], baselines=None, train_text=[str(text)], arms=arms))
    digests = []
    for change in (None, text, teacher / "config.json", None):
        if change:
            change.write_bytes(change.read_bytes() + b" ")
        digests.append(digest_of(design.train_options(design.runs[0], pair[0], workspace)))
    assert len(set(digests)) == 3
    assert digests[2] == digests[3]


def test_other_pair_or_method_has_other_targets(described, workspace, pair):
    source, helper = map(str, pair)
    told = [{}, {"source": helper, "helper": source}, {"match": "canonical"}, {"arms": {"random": {"method": "clp"}}}]
    told.append({"arms": {"random": {"method": "linear:neighbours=8"}}})
    told.append({"arms": {"random": {"method": "linear:neighbours=9"}}})
    designs = [read_design(described(**({"arms": {"random": {"method": "random"}}} | changes))) for changes in told]
    names = [Runner(design, workspace).target_name(design.runs[0]) for design in designs]
    assert len(set(names)) == len(names)
    again = read_design(described(arms={"random": {"method": "random"}}))
    assert Runner(again, workspace).target_name(again.runs[0]) == names[0]


def test_measurement_is_made_again_where_the_file_asks_otherwise(described, workspace, caplog):
    def commands(**changes):
        design = read_design(described(arms=None, baselines=None, methods={"names": ["mean"]} | changes))
        return {name: value for measure in measures_of(design, workspace) for name, value in measure.commands.items()}

    kept = {name: {"command": shlex.join(["clp", *command])} for name, command in commands().items()}
    assert not measure_differs(commands(), kept)
    assert measure_differs(commands(folds=3), kept)
    assert measure_differs(commands(names=["mean", "clp"]), kept)
    assert measure_differs({**commands(), "more": ["evaluate", "x"]}, kept)
    assert measure_differs(commands(), {**kept, "less": {"command": "clp evaluate x"}})
    asked = ["downstream", "one", "--text", "a/t.txt", "--questions", "5"]
    elsewhere = {"before": {"command": "clp downstream other --text t.txt --questions 5 --words w --source s"}}
    assert not measure_differs({"before": asked}, elsewhere)
    assert measure_differs({"before": [*asked[:-1], "6"]}, elsewhere)
    assert measure_differs({"before": [*asked, "--words", "other", "--source", "s"]}, elsewhere)


@pytest.mark.process
def test_run_whose_checkpoints_are_gone_is_left_out_downstream(described, workspace, caplog):
    design = read_design(described(seeds=[1], arms={"random": {"method": "random"}}, downstream={"questions": 5}))
    assert Runner(design, workspace).run_all() == []
    assert [measure.file for measure in measures_of(design, workspace)] == [("downstream", "random-s1.json")]
    (job,) = [job for job in JobStore(workspace.jobs).jobs() if job.kind == "train"]
    JobStore(workspace.jobs).remove(job)
    assert list(measures_of(design, workspace)) == []
    assert "the checkpoints of random-s1 are gone" in caplog.text


@pytest.mark.process
def test_table_says_what_the_raw_metrics_say(measured):
    design, _ = measured
    records = Records(design)
    random, taught = summarise(records)

    def raw(key):
        lines = [json.loads(line) for line in records.file("runs", f"{key}.jsonl").read_text().splitlines()]
        return np.array([[line["tokens"], line["bits_per_byte"]] for line in lines if "bits_per_byte" in line])

    assert random.best.values == tuple(raw(f"random-s{seed}")[:, 1].min() for seed in (1, 2))
    assert random.first.mean == pytest.approx(np.mean([raw("random-s1")[0, 1], raw("random-s2")[0, 1]]))
    level = raw("random-s1")[:, 1].min()
    points = taught.curves[0].points["bits_per_byte"]
    (reached,) = taught.reached
    expected = 1 - crossing(points, level).tokens / crossing(random.curves[0].points["bits_per_byte"], level).tokens
    assert reached.share.values == pytest.approx((expected,))
    table, tokens = tables_of(records)
    assert tokens.rows[0][1] == "–"
    assert table.rows[0][0] == "`random`"
    assert f"{random.best.mean:.3f}" in table.rows[0][3]
    assert f"{random.last.mean:.3f}" in table.rows[0][4]
    assert random.best_at.values == tuple(
        raw(f"random-s{seed}")[raw(f"random-s{seed}")[:, 1].argmin(), 0] for seed in (1, 2)
    )
    draw(records, design.file.with_suffix(".html"))
    assert "taught" in design.file.with_suffix(".html").read_text(encoding="utf-8")
    mean = records.mean_curve(design.arms[0]).points["bits_per_byte"]
    seconds = [curve.points["bits_per_byte"][:, 3] for curve in records.curves["random"]]
    assert np.array_equal(mean[:, 3], np.minimum(*seconds))
    assert mean[-1, -1] == pytest.approx((raw("random-s1")[-1, 1] + raw("random-s2")[-1, 1]) / 2)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"sources": "x"}, "sources: this name is unknown; use one of title, order, source"),
        ({"title": None}, "title: a value is missing; needed: what the experiment is called"),
        ({"order": "first"}, "order: 'first' is not a whole number"),
        ({"helper": None}, "helper: a value is missing"),
        ({"arms": {"a": {"method": "clpp"}}}, "arms.a.method: 'clpp' is unknown"),
        ({"arms": {"a": {}}}, "arms.a.method: a value is missing"),
        ({"arms": {"A b": {"method": "clp"}}}, "arms.A b.name: 'A b' is not valid; use small letters"),
        (
            {"arms": {"a": {"method": "clp", "seed": 3}}},
            "arms.a.seed: this name is unknown; use one of method, train",
        ),
        ({"baselines": ["nobody"]}, "baselines: nobody is not an arm; there are random, taught"),
        ({"train": {"steps": 3}}, "train.steps: this name is unknown; perhaps max_steps is meant"),
        ({"train": {"max_steps": -3}}, "train.max_steps: -3 is too small; give 0 or more"),
        ({"train": {"seed": 3}}, "train.seed: the experiment itself sets this"),
        ({"arms": None}, "nothing is to be done"),
        ({"methods": {"fold": 2}}, "methods.fold: this name is unknown; use one of names, folds"),
        ({"agreement": [["one"]]}, "agreement: a value is missing; needed: pairs of models"),
        ({"evaluate": "helper"}, r"evaluate: 'helper' is not a list; write it as in \[helper\]"),
        ({"seeds": 3}, r"seeds: '3' is not a list; write it as in \[3\]"),
        ({"agreement": "one"}, "agreement: 'one' is not a list"),
        ({"arms": None, "eval_text": None, "evaluate": ["helper"]}, "eval_text: a value is missing; evaluate needs it"),
    ],
)
def test_file_that_cannot_be_meant_is_refused(described, changes, told):
    with pytest.raises(InputError, match=told):
        read_design(described(**({"baselines": None} | changes)))


HEAD = """title: t
source: s
helper: h
train_text: [a.txt]
eval_text: v.txt
"""
ARMS = "arms: {a: {method: clp}}\n"


def written(folder, text):
    file = folder / "written.yaml"
    file.write_text(text, encoding="utf-8")
    return read_design(file)


def test_values_are_what_their_option_needs_however_yaml_reads_them(tmp_path):
    train = "{learning_rate: 3e-4, max_tokens: 1e5, weight_decay: 0, compile: off, streaming: on, prompt: [no, 010], "
    train += "launcher: slurm, time_limit: 12:00:00, signal_before_s: '60', micro_blocks: 1_6}"
    design = written(tmp_path, f"{HEAD}seeds: [3, 1.0]\ntrain: {train}\narms: {{no: {{method: clp, about: NO}}}}\n")
    options = design.train_options(design.runs[0], Path("m"), Workspace(tmp_path))
    assert (options.learning_rate, options.max_tokens, options.weight_decay) == (0.0003, 100_000, 0.0)
    assert (options.compile, options.streaming, options.prompt) == ("off", True, ("no", "010"))
    assert (options.time_limit, options.signal_before_s, options.micro_blocks) == ("12:00:00", 60, 16)
    assert (design.arms[0].name, design.arms[0].about, design.seeds) == ("no", "NO", (3, 1))
    dated = written(tmp_path, HEAD.replace("title: t", "title: 2024-01-01") + "methods: {folds: 3}\n")
    assert (dated.title, dated.methods.folds, dated.methods.names) == ("2024-01-01", 3, ())
    shared = "train: &all {max_steps: 3, keep_last: 5}\narms: {a: {method: clp, train: {<<: *all, max_steps: 4}}}\n"
    merged = written(tmp_path, HEAD + shared)
    options = merged.train_options(merged.runs[0], Path("m"), Workspace(tmp_path))
    assert (options.max_steps, options.keep_last) == (4, 5)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        (ARMS + "seeds: [1, 1]", "seeds: 1 is listed twice"),
        (ARMS + "seeds: [true]", "seeds: 'true' is not a whole number"),
        (ARMS + "seeds: [-1]", "seeds: -1 is too small; give 0 or more"),
        (ARMS + f"seeds: [{2**70}]", f"seeds: {2**70} is too large"),
        (ARMS + f"seeds: [{'9' * 5000}]", "seeds: a number of more than 60 digits is too large"),
        (ARMS + "seeds: [.inf]", "seeds: '.inf' is not a whole number"),
        (ARMS + "seeds: []", "seeds: a value is missing"),
        (ARMS + "train: []", "train: [] is not a table of names and values"),
        (ARMS + "train: {learning_rate: 3}", "train.learning_rate: 3 is too large; give less than 1"),
        (ARMS + "train: {learning_rate: nan}", "train.learning_rate: nan is not a finite number"),
        (ARMS + "train: {learning_rate: }", "train.learning_rate: the value is empty"),
        (ARMS + "train: {only_last: 1}", "train.only_last: '1' is neither true nor false"),
        (ARMS + "train: {text: [a]}", "train.text: the experiment itself sets this"),
        (ARMS + "train: {3: 4}", "train.3: this name is unknown"),
        (ARMS + "match: fuzzy", "match: 'fuzzy' is unknown; use one of raw, canonical"),
        (ARMS + "downstream: {questions: many}", "downstream.questions: 'many' is not a whole number"),
        (ARMS + "downstream: {arms: [b]}", "downstream.arms: b is not an arm; there are a"),
        (ARMS + "baselines: [a, a]", "baselines: a is listed twice"),
        (ARMS + "order: 1.5", "order: 1.5 is not a whole number"),
        (ARMS + "title: again", "line 7: title stands in line 1 already"),
        (ARMS + "order: !!int 3", "line 7: the tag tag:yaml.org,2002:int is not supported"),
        (ARMS + "file: x", "file: this name is unknown"),
        (ARMS + "train: {max_steps: 3, max_tokens: 4}", "train.max_tokens: this and train.max_steps exclude"),
        ("arms: {a: {method: clp}, a: {method: mean}}", "line 6: a stands in line 6 already"),
        ("arms: {a: null}", "arms.a: an empty value is not a table"),
        ("arms: {a: {method: ~}}", "arms.a.method: the value is empty"),
        ("arms: {~: {method: clp}}", "arms: the name of an arm is empty"),
        ("arms: {a: {method: clp, name: b}}", "arms.a.name: this name is unknown"),
        ("arms: {a: {method: clp, seeds: 3}}", "arms.a.seeds: '3' is not a list; write it as in [3]"),
        ("arms: {a: {method: clp, train: {keep_last: 0}}}", "arms.a.train.keep_last: 0 is too small; give 1 or more"),
        ("arms: {a: {method: 'clp-topk:k=x'}}", "arms.a.method: 'k=x' is not NAME=NUMBER"),
        ("arms: {a: {method: 'auto:k=3'}}", "arms.a.method: settings belong to one method"),
        ("arms: {a: {method: static-vectors}}", "arms.a.method: it needs word vectors, which no experiment has"),
        ("arms: [a]", "arms: this is not a table of names and arms"),
        ("methods: true", "methods: 'true' is not a table of names and values"),
        ("methods: {names: clp}", "methods.names: 'clp' is not a list; write it as in [clp]"),
        ("methods: {names: [clpp]}", "methods.names: 'clpp' is unknown; use one of clp"),
        ("methods: {folds: 11}", "methods.folds: 11 is too large; give 10 or less"),
        ("overlap: {tokenizers: [a]}", "overlap.tokenizers: one is not enough"),
        ("overlap: {tokenizers: [a, b], match: fuzzy}", "overlap.match: 'fuzzy' is unknown"),
        ("agreement: [1, 2]", "agreement: '1' is not a list"),
        ("agreement: [[a, '']]", "agreement: the value is empty"),
        ("evaluate: ['']", "evaluate: the value is empty"),
        ("train: {max_steps: many}\nmethods: {}", "train.max_steps: 'many' is not a whole number"),
        ("agreement: &a [*a]", "line 6: this value refers to itself"),
        ("agreement: " + "[" * 3000 + "]" * 3000, "it is nested more than 20 levels deep"),
        ("? [a]\n: b", "line 6: a list or table is not a name"),
        ("agreement: [x", "it is not valid YAML: while parsing"),
    ],
)  # fmt: skip
def test_error_names_the_place_in_the_file_and_the_cure(tmp_path, lines, told):
    with pytest.raises(InputError) as error:
        written(tmp_path, f"{HEAD}{lines}\n")
    assert f"written.yaml: {told}" in str(error.value)


def test_aliases_that_grow_without_bound_are_refused_at_once(tmp_path):
    growing = [f"  - &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
    with pytest.raises(InputError, match="more than 10,000 values"):
        written(tmp_path, "\n".join([f"{HEAD}agreement:", "  - &a0 [x, y]", *growing]))


def test_teacher_is_the_helper_or_a_model_that_the_file_names(described, workspace):
    (workspace.models / "younger").mkdir(parents=True)
    (workspace.models / "helper").mkdir()
    taught = {name: {"method": "clp", "train": {"teacher": name}} for name in ("helper", "younger")}
    design = read_design(described(baselines=None, arms={"alone": {"method": "clp"}} | taught, seeds=[1]))
    options = [design.train_options(run, Path("model"), workspace) for run in design.runs]
    assert [asked.teacher for asked in options] == ["", "helper", str((workspace.models / "younger").resolve())]
    assert str((workspace.models / "younger").resolve()) in design.paths(workspace)


@pytest.mark.process
def test_command_prints_tables_of_what_is_measured(described, workspace):
    file = described(seeds=[1], arms=None, baselines=None, methods={"names": ["mean"]}, overlap=None)
    command = ("experiment", file)
    told = result_of(*command, run=clp_process)
    assert [row["method"] for row in told["tables"]["methods"]] == ["`mean`"]
    kept = json.loads((Path(told["folder"]) / "methods.json").read_text())
    assert kept["methods"]["command"].startswith("clp compare-methods --source")
    assert result_of(*command, "--tables")["tables"] == told["tables"]
    assert "is measured in" in clp(*command).stderr
    anew = clp(*command, "--output", "anew", cwd=file.parent)
    assert anew.returncode == 0, anew.stderr
    assert "is measured in" not in anew.stderr
    again = json.loads((file.parent / "anew" / "methods.json").read_text())
    assert again["methods"] == kept["methods"] | {"result": again["methods"]["result"]}
    assert again["methods"]["result"]["methods"]
    assert "nothing of" in clp(*command, "--tables", "--output", "none", cwd=file.parent).stderr
    (file.parent / "anew" / "methods.json").write_text('{"methods": {"result": {"methods": [{"method": "mean"}]}}}')
    assert "methods.json is damaged" in refused(*command, "--tables", "--output", file.parent / "anew")
    assert "is not a folder" in refused(*command, "--output", file)
    for name, why in (("a.pdf", "ends in one of .html"), ("no/a.svg", "there is no folder"), ("a.html", "is measured")):
        with within(file.parent):
            assert why in refused(*command, "--tables", "--figure", name)
    assert "there is no file nowhere.yaml" in refused("experiment", "nowhere.yaml")


def shipped():
    return saved_experiments()


def test_documents_that_tell_of_experiments_hold_what_was_measured():
    assert {path.name for path in documents()} >= {"README.md", "experiments.md", "trials.md"}
    drawn = (Path(__file__).resolve().parents[2] / "docs" / "experiment-demo.svg").read_text(encoding="utf-8")
    for name in saved_experiments()[0].curves:
        assert f">{name}</text>" in drawn, "run `make results`"


@pytest.mark.parametrize("path", documents(), ids=lambda path: path.name)
def test_documents_say_what_was_measured(path):
    text = path.read_text(encoding="utf-8")
    assert filled(text) == text, "run `make results`"


def test_marker_that_names_nothing_measured_is_refused():
    with pytest.raises(InputError, match="there is no table nothing"):
        filled("<!-- result demo nothing -->x<!-- /result -->")
    with pytest.raises(InputError, match="no such cell"):
        filled("<!-- result demo runs clp: colour -->x<!-- /result -->")
    changed = filled("<!-- result demo runs clp: lowest -->wrong<!-- /result -->")
    assert "wrong" not in changed
    assert changed.startswith("<!-- result demo runs clp: lowest -->1.")


@pytest.mark.parametrize("records", shipped(), ids=lambda records: records.design.name)
def test_raw_measurements_are_whole_and_say_what_made_them(records):
    asked = {run.key: run for run in records.design.runs}
    for file in records.folder.glob("runs/*.json"):
        run = asked[file.stem]  # nothing lies here that the file does not ask for
        told = records.read("runs", file.name)
        assert run_differs(records.design, run, told) == []
        assert told["made_by"]["code"]
        assert "dirty" not in told["made_by"]["code"]
        assert (told["arm"], told["seed"]) == (run.arm.name, run.seed)
        assert told["arguments"]["seed"] == told["transfer"]["seed"] == run.seed
        steps = records.curve(run).points["bits_per_byte"][:, 0]
        assert steps[0] == 0
        assert steps[-1] == told["plan"]["steps"]
    raw = "".join(path.read_text(encoding="utf-8") for path in records.folder.rglob("*.json*"))
    assert not re.findall(r"/(?:work|tmp|root|home)/", raw)


def test_runs_of_machines_that_chose_other_precisions_are_told_of(tmp_path):
    kept = next(records for records in shipped() if records.design.name == "demo-short")
    assert not any(records.mixed_precision for records in shipped())
    shutil.copytree(kept.folder, tmp_path / "kept")
    file = tmp_path / "kept" / "runs" / "clp-s1.json"
    told = json.loads(file.read_text())
    file.write_text(json.dumps(told | {"plan": told["plan"] | {"bf16": not told["plan"]["bf16"]}}))
    done = clp("experiment", kept.design.file, "--tables", "--output", tmp_path / "kept")
    assert done.returncode == 0, done.stderr
    assert "not the same for all runs" in done.stderr
    assert "float32: clp-s1)" in done.stderr
    done = clp("experiment", kept.design.file, "--tables", "--output", kept.folder)
    assert (done.returncode, "not the same" in done.stderr) == (0, False)
    asked = told["arguments"] | {"precision": "float32"}
    file.write_text(json.dumps(told | {"arguments": asked}))
    assert Records(read_design(kept.design.file, tmp_path / "kept")).mixed_precision == ""  # it is another run now


def test_curves_of_shipped_experiments_have_keys_that_find_them(monkeypatch):
    read_once = cache(kept_records.described_experiments)
    monkeypatch.setattr(kept_records, "described_experiments", read_once)
    assert len({records.design.order for records in shipped()}) == len(shipped())
    assert shipped()[0].design.name == "demo"
    for records in shipped():
        for curve in records.all_curves:
            assert saved_curve(curve.key).points.keys() == curve.points.keys()
    names = [curve.name for records in shipped() for curve in records.all_curves]
    assert len(set(names)) == len(names)
    with pytest.raises(InputError, match="there is no curve experiment:demo/nobody"):
        saved_curve("experiment:demo/nobody")


def test_figure_draws_every_arm_with_its_band_beside_the_published_curves():
    records = shipped()[0]
    figure = paper_figure(records.curves, published_curves())
    named = [line.name for line in figure.data if line.name]
    assert named == [*records.curves, "paper: CLP, 6.4B", "paper: from scratch, 6.4B"]
    bands = [line for line in figure.data if line.fill == "toself"]
    assert len(bands) == sum(len(curves) > 1 for curves in records.curves.values())
