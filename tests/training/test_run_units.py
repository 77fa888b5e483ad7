"""The units of a run, each alone: losses, metrics, divergence, checkpoints, time, stop requests, samples, heartbeat."""

import json
import math
from types import SimpleNamespace

import pytest
import torch
from support.made_runs import make_run

from clp_core.errors import DivergedError
from clp_core.jobs.job import PLAN_FILE
from clp_core.jobs.metrics import read_lines
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.jobs.training_checkpoints import RUN_STATE_FILE, read_manifest
from clp_core.training import heartbeat, samples
from clp_core.training.checkpointing import CheckpointSealer
from clp_core.training.distributed import ControlGroup
from clp_core.training.divergence import DivergenceGuard
from clp_core.training.options import TrainOptions
from clp_core.training.plan import TrainPlan
from clp_core.training.recorder import RunRecorder
from clp_core.training.step_losses import StepLosses
from clp_core.training.stop_request import StopRequest
from clp_core.training.telemetry import RunTelemetry, Stopwatch
from clp_core.training.time_budget import TimeBudget

BLOCKS = SimpleNamespace(bytes_per_token=4.0)


class OtherSays(ControlGroup):
    """A group in which another process has a value too."""

    def __init__(self, value):
        super().__init__()
        self.value = value

    def max(self, value):
        return max(value, self.value)


@pytest.fixture
def run(workspace):
    return make_run(workspace, "a run", [])


def telemetry_of(job, *, attempt=1, **changes):
    return RunTelemetry(job, TrainPlan.of_spec(job.plan | changes), BLOCKS, attempt)


def losses_of(*values):
    losses = StepLosses()
    for value in values:
        losses.add(torch.tensor(value))
        losses.end_step()
    return losses


def test_loss_of_a_step_is_the_sum_over_its_micro_batches():
    losses = StepLosses()
    for value in (1.0, 0.5):
        losses.add(torch.tensor(value, requires_grad=True))
    losses.end_step()
    losses.add(torch.tensor(2.0))
    losses.end_step()
    assert (losses.means(), len(losses)) == ([1.5, 2.0], 2)
    losses.clear()
    losses.restore([0.25], torch.device("cpu"))
    assert losses.means() == [0.25]


def test_divergence_names_the_step_whose_loss_it_is_and_what_is_left(run):
    guard = DivergenceGuard(run)
    guard.check_losses([1.0, 2.0], 7)
    guard.check_gradient(3.0, 7)
    with pytest.raises(DivergedError, match=r"NaN.* at step 6; nothing is kept"):
        guard.check_losses([1.0, math.nan, 2.0], 7)
    with pytest.raises(DivergedError, match="gradient is infinite at step 7"):
        guard.check_gradient(math.inf, 7)


def recorder_of(run, *values, **changes):
    telemetry = telemetry_of(run, **changes)
    losses = losses_of(*values)
    return RunRecorder(telemetry, losses, Stopwatch(telemetry.plan.step_tokens), DivergenceGuard(run)), losses


def test_lines_are_due_at_the_first_the_last_and_every_so_many_steps(run):
    recorder, _ = recorder_of(run, loss_every=4)
    assert [step for step in range(1, 12) if recorder.is_due(step, 11)] == [1, 4, 8, 11]


def test_line_of_loss_is_the_mean_since_the_last_with_the_rates_of_its_step(run):
    recorder, losses = recorder_of(run, 1.0, 2.0, loss_every=2)
    recorder.note_rates(1)
    assert recorder.record_losses(3, 10, {"grad_norm": 0.5}) == {}
    assert len(losses) == 2
    recorder.record_losses(2, 10, {"grad_norm": 0.5})
    (line,) = read_lines(run.metrics_file)
    telemetry = telemetry_of(run)
    assert (line["loss"], line["grad_norm"], line["lr"]) == (1.5, 0.5, telemetry.rates(1)[0])
    assert (line["tokens"], line["bytes"]) == (2 * telemetry.plan.step_tokens, 8 * telemetry.plan.step_tokens)
    assert len(losses) == 0


def test_gradient_that_is_lost_writes_no_line(run):
    recorder, _ = recorder_of(run, 1.0)
    with pytest.raises(DivergedError):
        recorder.record_losses(1, 10, {"grad_norm": math.nan})
    assert not read_lines(run.metrics_file)


def test_losses_that_are_lost_are_refused_before_their_line(run):
    recorder, _ = recorder_of(run, 1.0, math.inf)
    with pytest.raises(DivergedError, match="at step 9"):
        recorder.check_losses(9)


def test_evaluation_is_written_and_kept_for_its_checkpoint(run):
    recorder, _ = recorder_of(run)
    recorder.record_evaluation(5, {"eval_loss": 2.0, "bits_per_byte": math.inf})
    (line,) = read_lines(run.metrics_file)
    assert (line["step"], line["eval_loss"], line["bits_per_byte"]) == (5, 2.0, None)
    assert recorder.scores[5]["eval_loss"] == 2.0


def test_sealed_checkpoint_has_companions_state_and_finite_scores_and_older_ones_go(run, tmp_path):
    companions = tmp_path / "companions"
    companions.mkdir()
    (companions / "tokenizer.json").write_text("{}")
    sealer = CheckpointSealer(run, companions, 1, keep_best=False)
    for step in (3, 6):
        folder = run.path / "checkpoints" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        (folder / "optimizer.pt").write_bytes(b"state")
        sealer.seal(folder, step, 12.5, [1.0, 2.0], {"bits_per_byte": 1.5, "perplexity": math.inf})
    (kept,) = run.checkpoints()
    assert kept.name == "checkpoint-6"
    assert json.loads((kept / RUN_STATE_FILE).read_text()) == {"step": 6, "seconds": 12.5, "losses": [1.0, 2.0]}
    manifest = read_manifest(kept)
    assert "tokenizer.json" in manifest["files"]
    assert manifest["resumable"]
    assert (manifest["bits_per_byte"], "perplexity" in manifest) == (1.5, False)
    events = [json.loads(line)["event"] for line in (run.path / "events.jsonl").read_text().splitlines()]
    assert events[-3:] == ["checkpoint", "checkpoint", "checkpoint removed"]


def test_stop_request_of_any_process_counts(run):
    request = StopRequest(run, ControlGroup())
    assert not request.is_raised()
    assert StopRequest(run, OtherSays(1.0)).is_raised()
    (run.path / "control").mkdir(exist_ok=True)
    (run.path / "control" / "stop").touch()
    assert request.is_raised()


def budget_of(run, telemetry, stopwatch=None, group=None):
    options = TrainOptions.of_json(run.spec["arguments"])
    return TimeBudget(telemetry, options, stopwatch or Stopwatch(1), group or ControlGroup())


@pytest.mark.parametrize(
    ("minutes", "attempt", "seconds", "expected"),
    [(1.0, 1, 61, True), (1.0, 1, 50, False), (1.0, 2, 61, False), (0.0, 1, 61, False)],
)
def test_time_is_spent_in_the_first_attempt_of_a_run_by_time_only(run, minutes, attempt, seconds, expected):
    telemetry = telemetry_of(run, attempt=attempt, minutes=minutes)
    telemetry.seconds_before = seconds
    budget = budget_of(run, telemetry)
    assert budget.is_spent() is expected
    assert budget.reason.code == ReasonCode.TIME_BUDGET_SPENT


def test_time_that_is_over_for_one_process_is_over_for_all(run):
    assert budget_of(run, telemetry_of(run, minutes=1.0), group=OtherSays(1.0)).is_spent()


def test_steps_are_settled_once_by_the_time_that_is_left(run):
    telemetry = telemetry_of(run, minutes=1.0)
    telemetry.seconds_before = 10.1
    steps = iter([None, 0.5])
    watch = SimpleNamespace(pure_step_seconds=lambda: next(steps), last={"evaluation": 0.0})
    budget = budget_of(run, telemetry, watch)
    assert budget.settle(3, 1000) is None
    plan = budget.settle(4, 1000)
    assert plan.steps == 4 + 96  # 97 % of 49.9 s at 0.5 s per step
    assert telemetry.plan == plan
    assert json.loads((run.path / PLAN_FILE).read_text())["steps"] == plan.steps
    assert budget.settle(5, 1000) is None
    assert telemetry_of(run, minutes=1.0).is_fitted


def test_run_by_steps_has_nothing_to_settle(run):
    assert budget_of(run, telemetry_of(run)).settle(10, 20) is None
    assert not (run.path / PLAN_FILE).exists()


def test_samples_stop_where_the_class_cannot_generate(run, monkeypatch, caplog):
    calls = []

    def fails(*args, **kwargs):
        calls.append(args)
        raise samples.InputError("cannot generate")

    writer = samples.SampleWriter(telemetry_of(run), None, ("a", "b"), DivergenceGuard(run))
    monkeypatch.setattr(samples, "generate", lambda model, vocabulary, prompt, *, synced: f"{prompt}+{synced}")
    writer.write(None, 5, sharded=True)
    lines = [json.loads(line) for line in (run.path / samples.SAMPLES_FILE).read_text().splitlines()]
    assert [(line["prompt"], line["text"], line["step"]) for line in lines] == [("a", "a+True", 5), ("b", "b+True", 5)]
    monkeypatch.setattr(samples, "generate", fails)
    writer.write(None, 6, sharded=False)
    writer.write(None, 7, sharded=False)
    assert len(calls) == 1
    assert len(caplog.messages) == 1


def test_heartbeat_expects_what_was_measured_and_ten_minutes_before():
    watch = Stopwatch(1)
    beat = heartbeat.StepHeartbeat(watch)
    assert beat.expected_seconds(evaluates=False, saves=False) == heartbeat.FIRST_STEPS_EXPECT_S
    watch.step_seconds = 3.0
    assert beat.expected_seconds(evaluates=False, saves=False) == 30.0
    assert beat.expected_seconds(evaluates=True, saves=False) == heartbeat.FIRST_STEPS_EXPECT_S
    watch.leave_out(4.0, "evaluation")
    assert beat.expected_seconds(evaluates=True, saves=False) == 70.0
    watch.step_seconds = 0.001
    assert beat.expected_seconds(evaluates=False, saves=False) == heartbeat.MIN_EXPECT_S


def test_sign_after_a_long_pause_is_written_at_once(monkeypatch):
    forced = []
    monkeypatch.setattr(heartbeat.HEART, "beat", lambda *args, force, **kwargs: forced.append(force))
    beat = heartbeat.StepHeartbeat(Stopwatch(1))
    for evaluates in (False, True, False, False):
        beat.beat(1, 10, evaluates=evaluates, saves=False)
    assert forced == [False, True, True, False]
