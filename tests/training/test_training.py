"""Schedules in stages, frozen rows, sharded models, streamed and timed runs: real trainers, held to what they say."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.jobs import end_of, resume_here, train_here, train_options, wait_for
from support.tiny_models import make_model

from clp_core.checkpoints.provenance_reading import missing_rows
from clp_core.errors import InputError
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.spawning import ENVIRONMENT
from clp_core.jobs.training_checkpoints import read_manifest
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.distillation import Distillation
from clp_core.training.submit import resume, submit_train
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer

pytestmark = pytest.mark.process

RUN = {"max_steps": 24, "eval_every": 12, "save_every": 6, "keep_last": 4, "learning_rate": 5e-3}
SHARDED = {"name": "sharded", "device": "cpu", "processes_per_node": 2, "sharding": "fsdp"}


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizers, pair):
    """Targets of transfers: tied, and untied with output rows of their own."""
    root = tmp_path_factory.mktemp("targets")
    source = make_model(root / "untied-source", tokenizers["byte-level", "en"], "llama", tied=False, seed=3)
    for name, folder in (("tied", pair[0]), ("untied", source)):
        transfer(TransferOptions(str(folder), str(pair[1]), str(root / name), method="linear"))
    return {name: root / name for name in ("tied", "untied")}


def weights_of(folder):
    return load_file(folder / "model.safetensors")


def lines_with(job, name):
    return {line["step"]: line[name] for line in job.metrics() if name in line}


def finished(job, seconds=300):
    assert end_of(job, seconds).state == "finished", job.log_tail(30_000)
    return {int(path.name.rpartition("-")[2]): path for path in job.checkpoints()}


def trained(workspace, options):
    """Train in this process; return the run and its checkpoints by step."""
    job = train_here(workspace, options)
    return job, finished(job)


def test_rates_of_each_group_follow_the_stages(workspace, models, texts):
    options = train_options(
        (models["tied"], None),
        texts,
        **RUN,
        schedule="two-stage",
        first_stage_share=0.25,
        first_stage_rate=2e-2,
        embedding_rate=1e-3,
        final_rate_share=0.1,
        warmup_share=0.5,
    )
    job, _ = trained(workspace, options)
    body, embeddings = lines_with(job, "lr"), lines_with(job, "lr_embeddings")
    assert all(body[step] == 0 for step in range(1, 7))
    assert [embeddings[step] for step in (1, 2, 3)] == pytest.approx([2e-2 / 3, 4e-2 / 3, 2e-2])
    assert embeddings[4] == pytest.approx(2e-2)
    assert embeddings[6] == pytest.approx(2e-2 * (0.1 + 0.9 * 0.25))
    assert [body[step] for step in (7, 15)] == pytest.approx([5e-3 / 9, 5e-3])
    assert all(embeddings[step] == pytest.approx(body[step] / 5) for step in range(7, 25))
    assert body[24] == pytest.approx(5e-3 * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * 8 / 9))))


@pytest.mark.parametrize("name", ["tied", "untied"])
def test_copied_rows_and_body_stay_bit_equal_while_missing_rows_train_alone(workspace, models, texts, name):
    options = train_options((models[name], None), texts, **RUN, schedule="new-rows", first_stage_share=0.5)
    _, checkpoints = trained(workspace, options)
    before, first, last = (weights_of(path) for path in (models[name], checkpoints[12], checkpoints[24]))
    new = torch.from_numpy(missing_rows(models[name]))
    assert new.any()
    assert not new.all()
    embeddings = {"model.embed_tokens.weight", "lm_head.weight"} & before.keys()
    assert len(embeddings) == (1 if name == "tied" else 2)
    for key in before.keys() - embeddings:
        assert torch.equal(before[key], first[key]), key
        assert not torch.equal(before[key], last[key]), key
    for key in embeddings:
        assert torch.equal(before[key][~new], first[key][~new])
        assert not torch.equal(before[key][new], first[key][new])
        assert not torch.equal(first[key][~new], last[key][~new])


@pytest.mark.parametrize("step", [6, 18])
def test_run_of_two_stages_goes_on_in_either(workspace, models, texts, step):
    options = train_options((models["untied"], None), texts, **RUN, schedule="new-rows", first_stage_share=0.5)
    whole, checkpoints = trained(workspace, options)
    expected = weights_of(checkpoints[24])
    job = submit_train(workspace, replace(options, name=f"stopped at {step}"))
    wait_for(lambda: any(int(path.name.rpartition("-")[2]) >= step for path in job.checkpoints()), 120)
    job.ask_stop(kill=True)
    end_of(job, 60)
    for path in job.checkpoints():
        if int(path.name.rpartition("-")[2]) > step:
            (path / "manifest.json").unlink()
    found = weights_of(finished(resume_here(workspace, job))[24])
    assert all(torch.equal(expected[key], found[key]) for key in expected)
    assert lines_with(job, "loss") == pytest.approx(lines_with(whole, "loss"), abs=1e-6)


@pytest.mark.parametrize(
    ("name", "schedule", "sharding"),
    [("tied", "plain", "fsdp"), ("untied", "new-rows", "fsdp"), ("tied", "new-rows", "ddp")],
)
def test_two_processes_train_like_one(workspace, models, texts, name, schedule, sharding):
    options = train_options((models[name], None), texts, **RUN | {"learning_rate": 1e-4}, schedule=schedule)
    options = replace(options, first_stage_share=0.5, micro_blocks=1, prompt=("Der", "Ein"))
    one, expected = trained(workspace, options)
    two = submit_train(workspace, replace(options, **SHARDED | {"sharding": sharding}))
    checkpoints = finished(two)
    assert lines_with(two, "loss")[1] == pytest.approx(lines_with(one, "loss")[1], rel=1e-6)
    # Rounding grows where Adam divides a gradient that is almost nothing by its own size.
    assert lines_with(two, "loss") == pytest.approx(lines_with(one, "loss"), rel=1e-4)
    assert lines_with(two, "eval_loss") == pytest.approx(lines_with(one, "eval_loss"), rel=1e-4)
    assert lines_with(two, "grad_norm") == pytest.approx(lines_with(one, "grad_norm"), rel=1e-3)
    before, one_last, two_last = (weights_of(path) for path in (models[name], expected[24], checkpoints[24]))
    assert two_last.keys() == before.keys()  # what was tied is written once
    for key in one_last:
        torch.testing.assert_close(two_last[key], one_last[key], rtol=1e-3, atol=2e-5)
    if schedule == "new-rows":
        kept = torch.from_numpy(~missing_rows(models[name]))
        first = weights_of(checkpoints[12])
        key = "lm_head.weight" if name == "untied" else "model.embed_tokens.weight"
        assert torch.equal(first[key][kept], before[key][kept])
    files = read_manifest(checkpoints[24])["files"]
    states = {"optimizer-0.pt", "optimizer-1.pt"} if sharding == "fsdp" else {"optimizer.pt"}
    assert {*states, "model.safetensors"} <= files.keys()
    samples = [json.loads(line) for line in (two.path / "samples.jsonl").read_text().splitlines()]
    assert [sample["prompt"] for sample in samples] == ["Der", "Ein"] * 3


def test_sharded_run_goes_on_where_it_was_stopped(workspace, models, texts, monkeypatch):
    options = train_options((models["tied"], None), texts, **RUN, schedule="new-rows", first_stage_share=0.5)
    options = replace(options, **SHARDED)
    whole = submit_train(workspace, options)
    expected = weights_of(finished(whole)[24])
    monkeypatch.delenv(ENVIRONMENT)  # under torchrun, as users have it
    job = submit_train(workspace, replace(options, name="stopped"))
    wait_for(lambda: job.progress()[0] >= 7, 120)
    job.ask_stop()
    assert end_of(job, 120).state == "stopped", job.log_tail()
    resume(workspace, job)
    found = weights_of(finished(job)[24])
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], rtol=1e-5, atol=1e-6)
    assert lines_with(job, "loss") == pytest.approx(lines_with(whole, "loss"), abs=1e-5)


def test_missing_rows_cannot_train_alone_where_nothing_says_which_they_are(workspace, pair, texts):
    with pytest.raises(InputError, match="holds no provenance of missing rows"):
        submit_train(workspace, train_options(pair, texts, schedule="new-rows"))


def test_streamed_run_reads_the_text_in_its_order_and_goes_on_in_it(workspace, pair, texts, tmp_path):
    settings = RUN | {"streaming": True, "micro_blocks": 2}
    whole, _ = trained(workspace, train_options(pair, texts, **settings))
    assert not (workspace.cache / "blocks").exists()
    (told,) = json.loads((whole.path / "warnings.json").read_text())["warnings"]
    assert "was not searched for the held-out text" in told
    rows = tmp_path / "rows.jsonl"
    lines = texts[0].read_text().splitlines()
    rows.write_text("".join(json.dumps({"body": line}) + "\n" for line in lines))
    held_out = tmp_path / "valid.jsonl"
    held_out.write_text("".join(json.dumps({"body": line}) + "\n" for line in texts[1].read_text().splitlines()))
    job = submit_train(workspace, train_options(pair, (rows, held_out), **settings, text_field="body"))
    wait_for(lambda: job.progress()[0] >= 7, 120)
    job.ask_stop()
    assert end_of(job, 60).state == "stopped"
    finished(resume_here(workspace, job))
    assert lines_with(job, "loss") == pytest.approx(lines_with(whole, "loss"), abs=1e-6)
    found, expected = lines_with(job, "bits_per_byte"), lines_with(whole, "bits_per_byte")  # and one where it stopped
    assert {step: found[step] for step in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.flaky(reruns=1)  # how long the steps take is measured on a machine with other work
def test_run_by_time_settles_its_steps_and_fills_the_time(workspace, pair, texts):
    minutes = 0.15
    job = submit_train(workspace, train_options(pair, texts, max_minutes=minutes, eval_every=1_000_000))
    status = end_of(job, 300)
    if status.state == "stopped":  # other work slowed the machine after the steps were settled: time was up before
        assert status.reason_code == ReasonCode.TIME_BUDGET_SPENT
        assert max(line["seconds"] for line in job.metrics()) > 0.9 * 60 * minutes
        resume(workspace, job)
    finished(job)
    plan = job.plan
    settled = [json.loads(line) for line in (job.path / "events.jsonl").read_text().splitlines()]
    (event,) = [event for event in settled if event["event"] == "steps settled"]
    assert plan["steps"] == event["steps"] == job.result()["step"] != job.spec["plan"]["steps"]
    assert sum(stage["steps"] for stage in plan["stages"]) == plan["steps"]
    seconds = max(line["seconds"] for line in job.metrics())
    assert 20 * minutes < seconds < 120 * minutes
    last = [line for line in job.metrics() if "lr" in line][-1]
    assert last["lr"] < 0.01 * plan["learning_rate"]  # it came to the end of its cosine


def test_run_by_time_that_goes_on_ends_at_its_settled_steps(workspace, pair, texts):
    job = submit_train(
        workspace, train_options(pair, texts, max_minutes=0.1, eval_every=1_000_000, schedule="two-stage")
    )
    wait_for(lambda: (job.path / "plan.json").is_file(), 120)
    job.ask_stop()
    assert end_of(job, 60).state == "stopped", job.log_tail()
    steps = job.plan["steps"]
    assert job.result()["step"] < steps
    assert all(
        line["lr"] == 0 < line["lr_embeddings"] for line in job.metrics() if "lr" in line
    )  # still the first stage
    resume(workspace, job)
    finished(job)
    assert job.result()["step"] == steps == job.plan["steps"]


def test_run_that_outlasts_its_time_stops_saved_and_goes_on(workspace, pair, texts):
    job = submit_train(workspace, train_options(pair, texts, max_minutes=0.001, eval_every=1_000_000))
    status = end_of(job, 240)
    assert status.state == "stopped", job.log_tail()
    assert status.reason_code == ReasonCode.TIME_BUDGET_SPENT
    finished(resume_here(workspace, job))
    assert job.result()["step"] == job.plan["steps"]


def test_metrics_reach_the_reporters_of_the_trainer(workspace, pair, texts):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    job = submit_train(workspace, train_options(pair, texts, **RUN, report_to=("tensorboard",)))
    finished(job)
    found = EventAccumulator(str(job.path / "tensorboard"))
    found.Reload()
    losses = {event.step: event.value for event in found.Scalars("train/loss")}
    assert losses[24] > 0
    scores = {event.step: event.value for event in found.Scalars("eval/bits_per_byte")}
    assert scores == pytest.approx(lines_with(job, "bits_per_byte"), rel=1e-5)


@pytest.mark.parametrize("sharded", [{}, SHARDED])
def test_activations_computed_twice_give_the_same_run(workspace, pair, texts, sharded):
    options = train_options(pair[::-1], texts, **RUN | {"max_steps": 6, **sharded})  # the helper has dropout
    kept = submit_train(workspace, options)
    twice = submit_train(workspace, replace(options, gradient_checkpointing="on"))
    finished(kept), finished(twice)
    assert twice.plan["checkpointing"]
    assert lines_with(twice, "loss") == pytest.approx(lines_with(kept, "loss"), rel=1e-5)


def test_held_out_text_in_the_training_text_is_told_to_the_readers_of_the_run(workspace, pair, texts, tmp_path):
    held_out = tmp_path / "valid.txt"
    held_out.write_text(texts[0].read_text().splitlines()[0] + "\n" + texts[1].read_text())
    job, _ = trained(workspace, train_options(pair, (texts[0], held_out), **RUN))
    (told,) = job.warnings
    assert "held-out lines stand in the training text too" in told
    assert json.loads((job.path / "warnings.json").read_text())["warnings"] == [told]


def test_model_whose_tied_embeddings_came_apart_is_refused(models):
    from transformers import AutoModelForCausalLM

    from clp_core.errors import ClpError
    from clp_core.training.parameter_groups import refuse_untied

    model = AutoModelForCausalLM.from_pretrained(models["tied"])
    refuse_untied(model)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    with pytest.raises(ClpError, match="came untied"):
        refuse_untied(model)


def test_model_that_was_to_be_sharded_and_is_not_is_refused(models):
    from transformers import AutoModelForCausalLM

    from clp_core.errors import ClpError
    from clp_core.training.parameter_groups import refuse_unsharded

    with pytest.raises(ClpError, match="was to be sharded and is not"):
        refuse_unsharded(AutoModelForCausalLM.from_pretrained(models["tied"]))


def test_loss_with_a_teacher_is_the_mixture_of_text_and_expectations(models, pair):
    vocabulary = Vocabulary.open(models["tied"])
    taught = Distillation.open(pair[1], vocabulary, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, vocabulary.n_ids, (2, 9), generator=generator)
    labels[1, 6:] = -100
    rows = vocabulary.n_ids + 3  # padding beyond the tokenizer
    logits = torch.randn(2, 9, rows, generator=generator)
    scores = torch.log_softmax(logits.double(), dim=-1)
    inputs = labels.clamp(min=0)
    with torch.no_grad():
        expected = torch.softmax(taught.teacher(input_ids=inputs).logits[..., : vocabulary.n_ids].double(), dim=-1)
    text, total, counted = 0.0, 0.0, 0
    for b, i in np.ndindex(2, 8):
        follows = int(labels[b, i + 1])
        if follows != -100:
            own = -float(scores[b, i, follows])
            followed = -float((expected[b, i] * scores[b, i, : vocabulary.n_ids]).sum())
            text, total, counted = text + own, total + 0.25 * own + 0.75 * followed, counted + 1
    taught.weight = 0.75
    loss = taught(SimpleNamespace(logits=logits), labels)
    assert float(loss) == pytest.approx(total / counted, rel=1e-5)
    assert float(loss * taught.text_share) == pytest.approx(text / counted, rel=1e-5)
    assert float(taught(SimpleNamespace(logits=logits), labels, 7)) == pytest.approx(total / 7, rel=1e-5)
    taught.weight = 0.0
    assert float(taught(SimpleNamespace(logits=logits), labels)) == pytest.approx(text / counted, rel=1e-5)


def test_run_follows_its_helper_and_lets_go_of_it(workspace, models, pair, texts):
    plain, _ = trained(workspace, train_options((models["tied"], None), texts, **RUN, name="plain"))
    taught, _ = trained(
        workspace,
        train_options((models["tied"], None), texts, **RUN, name="taught", teacher="helper", teacher_share=0.5),
    )
    assert taught.spec["arguments"]["teacher"] == str(pair[1])
    weights = lines_with(taught, "teacher_weight")
    assert [weights[step] for step in (1, 7, 13, 24)] == pytest.approx([1, 0.5, 0, 0])
    losses = lines_with(plain, "loss"), lines_with(taught, "loss")
    assert losses[0][1] == pytest.approx(losses[1][1], rel=1e-3)  # of the text alone, whoever is followed
    assert losses[0][24] != losses[1][24]
    assert "teacher_weight" not in plain.metrics()[-1]


def test_two_processes_with_a_teacher_train_like_one(workspace, models, texts):
    settings = RUN | {"learning_rate": 1e-4, "micro_blocks": 1, "teacher": "helper"}
    runs = [
        submit_train(workspace, train_options((models["tied"], None), texts, **settings, **own))
        for own in ({"name": "one"}, {"name": "two", "device": "cpu", "processes_per_node": 2})
    ]
    for run in runs:
        finished(run)
    one, two = (lines_with(run, "loss") for run in runs)
    assert two[1] == pytest.approx(one[1], rel=1e-6)
    assert two == pytest.approx(one, rel=1e-4)


def test_taught_run_goes_on_where_it_was_stopped(workspace, models, texts):
    whole = train_here(workspace, train_options((models["tied"], None), texts, **RUN, name="w", teacher="helper"))
    stopped = submit_train(workspace, train_options((models["tied"], None), texts, **RUN, name="s", teacher="helper"))
    wait_for(lambda: stopped.progress()[0] >= 7)
    stopped.ask_stop()
    assert end_of(stopped).state == "stopped"
    found, expected = weights_of(finished(resume_here(workspace, stopped))[24]), weights_of(finished(whole)[24])
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_early_evaluations_halve_the_way_to_the_first(workspace, models, texts):
    settings = RUN | {"max_steps": 18, "early_evals": 5}
    job, _ = trained(workspace, train_options((models["tied"], None), texts, **settings))
    assert list(lines_with(job, "bits_per_byte")) == [0, 1, 3, 6, 12, 18]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"teacher": "helper", "model": "pair"}, "holds no report of a transfer"),
        ({"teacher": "source"}, "has another tokenizer than the model"),
        ({"teacher": "/nowhere"}, "there is no folder /nowhere"),
        ({"teacher_share": 0.5}, "--teacher-share: no effect without --teacher"),
        ({"teacher": "helper", "teacher_weight": 1.5}, "--teacher-weight: 1.5 is too large; give more than 0"),
        ({"teacher": "helper", "block_length": 4096}, "is longer than the teacher's"),
    ],
)
def test_teacher_that_cannot_teach_is_refused(workspace, models, pair, texts, changes, told):
    given = dict(changes)
    if given.get("teacher") == "source":
        given["teacher"] = str(pair[0])
    model = pair[0] if given.pop("model", "") else models["tied"]
    with pytest.raises(InputError, match=told):
        submit_train(workspace, train_options((model, None), texts, max_steps=2, **given))
    assert not list(workspace.jobs.glob("*"))
