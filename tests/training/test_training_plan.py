"""What a plan chooses by the model, the text and the device, and what it refuses or warns of."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import numpy as np
import pytest
from support.jobs import plan_of, train_options
from support.tiny_models import GERMAN, make_model

from clp_core.checkpoints.memory_estimate import Shape
from clp_core.environment import gpus as driver
from clp_core.errors import InputError
from clp_core.jobs.job import WARNINGS_FILE
from clp_core.options import arguments_of
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training import device_choice
from clp_core.training import plan as plans
from clp_core.training import submit as submission
from clp_core.training.device_choice import TrainingDevice
from clp_core.training.main import look_for_leak
from clp_core.training.memory_fit import fit
from clp_core.training.options import PRESETS, TrainOptions
from clp_core.training.plan import TrainPlan, steps_of
from clp_core.training.schedule import Schedule, plain, staged

BIG = Shape(parameters=1_560_000_000, width=1600, inner=6400, layers=48, vocabulary=50_257, tied=True)


def gpus(count, gigabytes, name="NVIDIA H100 80GB HBM3"):
    return TrainingDevice("cuda", name, tuple(f"cuda:{i}" for i in range(count)), int(gigabytes * 1e9))


def fitted(options, device, shape=BIG, own_blocks=16):
    return fit(options, shape, device, device.count, 1024, own_blocks, bf16=True)


@pytest.fixture
def options(pair, texts):
    return train_options(pair, texts)


def test_model_that_fits_is_neither_sharded_nor_computed_twice(options):
    found = fitted(options, gpus(1, 80))
    assert (found["sharding"], found["checkpointing"]) == ("none", False)
    assert found["memory_bytes"] <= 80e9
    assert fitted(options, gpus(4, 80))["sharding"] == "ddp"


def test_activations_are_computed_twice_before_a_model_is_sharded(options):
    one_block = BIG.block_bytes(1024, bf16=True, checkpointing=False)
    state = BIG.state_bytes("ddp", 2, bf16=True)
    found = fitted(options, gpus(2, (state + 0.6 * one_block) / 0.95 / 1e9))
    assert (found["sharding"], found["checkpointing"]) == ("ddp", True)
    assert fitted(options, gpus(2, 0.9 * state / 1e9))["sharding"] == "fsdp"


def test_state_of_a_model_is_that_of_its_optimiser_its_buckets_and_its_casts():
    n = BIG.parameters
    assert BIG.state_bytes() == 16 * n
    assert BIG.state_bytes("ddp", 4, bf16=True) == 22 * n
    assert BIG.state_bytes("fsdp", 4) == 4 * n


def test_what_does_not_fit_is_refused_with_its_size(options):
    with pytest.raises(InputError, match=r"training needs about \d+\.\d GB on NVIDIA H100 .*, 20.0 GB free"):
        fitted(options, gpus(1, 20))
    with pytest.raises(InputError, match="training needs about"):
        fitted(replace(options, gradient_checkpointing="off"), gpus(1, 32))
    assert fitted(options, gpus(1, 32))["checkpointing"]
    assert fitted(replace(options, gradient_checkpointing="on"), gpus(1, 80))["checkpointing"]


def test_blocks_at_once_divide_those_of_a_step_and_fit(options):
    for own_blocks in (7, 12, 16):
        found = fitted(options, gpus(1, 60), own_blocks=own_blocks)
        assert own_blocks % found["micro_blocks"] == 0
    assert fitted(replace(options, micro_blocks=5), gpus(1, 80), own_blocks=16)["micro_blocks"] == 4


def test_operations_of_a_token_are_those_of_its_products():
    shape = Shape(parameters=1000 + 50 * 8, width=8, inner=32, layers=2, vocabulary=50, tied=False)
    assert shape.flops_per_token(16) == 6 * 1000 + 12 * 2 * 8 * 16
    assert replace(shape, tied=True).flops_per_token(16) == 6 * 1400 + 12 * 2 * 8 * 16


def test_rates_warm_up_fall_on_a_cosine_and_change_with_the_stage():
    schedule = staged(100, 20, 3e-3, 1e-3, 5e-4, 0.1, 0.1, rows="missing")
    rates = np.array([schedule.rates(step) for step in range(100)])
    assert (rates[:20, 0] == 0).all()
    assert rates[:20, 1].max() == pytest.approx(3e-3)
    assert rates[1, 1] == pytest.approx(3e-3)
    assert rates[20:, 0].max() == pytest.approx(1e-3)
    assert rates[99, 0] == pytest.approx(1e-4, rel=0.05)
    assert rates[20:, 1] == pytest.approx(rates[20:, 0] / 2)
    assert schedule.steps == 100
    assert Schedule.of_json(schedule.to_json()) == schedule
    assert schedule.stage_at(19)[0].rows == "missing"
    assert schedule.stage_at(20) == (schedule.stages[1], 0)
    alone = staged(100, 100, 3e-3, 1e-3, 1e-3, 0.1, 0.0, rows="missing")
    assert len(alone.stages) == 1
    assert plain(10, 1.0, 1.0, 0.0, 0.0).rates(0) == (1.0, 1.0)


def test_preset_fills_what_the_user_leaves(options):
    options = replace(options, block_length=0)
    published = replace(options, preset="published-two-stage").resolved().options
    assert (published.schedule, published.block_length, published.learning_rate) == ("two-stage", 512, 3e-4)
    own = replace(options, preset="published", learning_rate=1e-5).resolved().options
    assert (own.block_length, own.learning_rate) == (512, 1e-5)
    beside = replace(options, preset="new-rows").beside_preset(["first_stage_share"]).resolved().options
    assert (beside.schedule, beside.first_stage_share, beside.preset) == ("new-rows", 0.1, "default")
    assert replace(options, preset="new-rows").beside_preset(["seed"]).preset == "new-rows"
    taught = replace(options, preset="taught", teacher_share=0.5).resolved().options
    assert (taught.teacher, taught.teacher_share) == ("helper", 0.5)
    assert replace(options, preset="quick", max_tokens=5).resolved().options.max_steps == 0
    assert TrainOptions.of_json(json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_names_settings_that_exist_and_are_allowed(options, preset):
    assert PRESETS[preset].reason
    settings = asdict(replace(options, preset=preset).resolved().options)
    assert all(settings[name] == value for name, value in PRESETS[preset].settings.items() if name != "block_length")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"max_steps": 5, "max_minutes": 5.0}, "--max-steps: this and --max-minutes exclude each other"),
        ({"schedule": "cosine"}, "--schedule: 'cosine' is unknown; use one of plain, two-stage, new-rows"),
        (
            {"first_stage_share": 0.0},
            "--first-stage-share: 0.0 is too small; give more than 0",
        ),
        ({"embedding_rate": 1.5}, "--embedding-rate: 1.5 is too large; give less than 1"),
        ({"report_to": ("pigeon",)}, "--report-to: 'pigeon' is unknown; use one of tensorboard"),
        ({"report_to": ("clearml",)}, "--report-to: clearml needs the package clearml"),
        ({"keep_last": 0}, "--keep-last: 0 is too small; give 1 or more: a run resumes"),
        ({"micro_blocks": -1}, "--micro-blocks: -1 is too small"),
        ({"max_minutes": float("nan")}, "--max-minutes: nan is not a finite number"),
        ({"device": "tpu"}, "--device: 'tpu' is not valid; use auto, cpu"),
        ({"preset": "magic"}, "--preset: 'magic' is unknown"),
    ],
)
def test_bad_settings_are_refused_by_name(pair, texts, settings, told):
    with pytest.raises(InputError, match=told.replace("(", r"\(")):
        train_options(pair, texts, **settings)


def test_gpus_have_one_process_each(monkeypatch, pair, options):
    monkeypatch.setattr(device_choice, "find_device", lambda wanted: gpus(2, 80))
    chosen = plan_of(options, pair[0])
    assert (chosen.processes, chosen.sharding, chosen.bf16, chosen.peak_flops) == (2, "ddp", True, 989e12)
    assert chosen.step_blocks % 2 == 0
    with pytest.raises(InputError, match="on GPUs there is one process each"):
        plan_of(replace(options, processes_per_node=3), pair[0])
    with pytest.raises(InputError, match="--sharding none is for one process, 2 are planned"):
        plan_of(replace(options, sharding="none"), pair[0])


def test_long_runs_on_one_gpu_are_compiled(monkeypatch, pair, options):
    monkeypatch.setattr(device_choice, "find_device", lambda wanted: gpus(1, 80))
    assert plan_of(replace(options, max_steps=1000), pair[0]).compiled
    assert not plan_of(replace(options, max_steps=999), pair[0]).compiled
    assert not plan_of(replace(options, max_steps=1000, compile="off"), pair[0]).compiled
    monkeypatch.setattr(device_choice, "find_device", lambda wanted: gpus(2, 80))
    with pytest.raises(InputError, match="--compile on and --sharding fsdp do not go together"):
        plan_of(replace(options, compile="on", sharding="fsdp"), pair[0])


def test_steps_of_a_budget(options):
    device = gpus(2, 80)
    assert steps_of(replace(options, max_tokens=1001), 10**9, 500, 1.0, device, None) == 3
    assert steps_of(options, 1000, 500, 1.0, device, None) == 8  # four passes over a small text
    assert steps_of(options, 100_000_000, 500, 1.0, device, None) == 200_000
    by_time = replace(options, max_minutes=10.0)
    assert steps_of(by_time, None, 1000, 1e9, device, 1e15) == round(600 * 2 * 1e15 * 0.35 / 1e12)
    with pytest.raises(InputError, match="give --max-tokens or --max-steps"):
        steps_of(options, None, 500, 1.0, device, None)


def test_block_beyond_rotary_positions_is_warned_of_and_beyond_learnt_ones_refused(tmp_path, pair, texts, tokenizers):
    assert (
        "longer than the model's 64 positions"
        in plan_of(train_options(pair, texts, block_length=128), pair[0]).warnings[0]
    )
    assert plan_of(train_options(pair, texts, block_length=0, preset="published"), pair[0]).block_length == 64
    with pytest.raises(InputError, match="longer than the model's 64 positions"):
        plan_of(train_options(pair[::-1], texts, block_length=128), pair[1])


def test_held_out_text_in_the_training_text_is_warned_of(tmp_path, pair, texts):
    held_out = tmp_path / "valid.txt"
    held_out.write_text(f"{GERMAN[0].upper()}\nEin Satz, der sonst nirgends steht.\nkurz\n")
    (told,) = plan_of(train_options(pair, (texts[0], held_out)), pair[0]).warnings
    assert told.startswith("1 of 2 held-out lines stand in the training text too ('DER SCHNELLE")
    assert not plan_of(train_options(pair, texts), pair[0]).warnings
    rows = tmp_path / "train.jsonl"  # the line stands within a longer document
    rows.write_text(json.dumps({"text": "Davor.\n" + GERMAN[0] + "\nDanach."}) + "\n")
    assert "1 of 2 held-out lines" in plan_of(train_options(pair, (rows, held_out)), pair[0]).warnings[0]


def test_plan_survives_its_json(pair, options):
    chosen = plan_of(options, pair[0])
    assert TrainPlan.of_spec(json.loads(json.dumps(chosen.to_json()))) == chosen
    longer = chosen.with_steps(options, 10_000)
    assert (longer.steps, longer.schedule.steps, longer.eval_every) == (10_000, 10_000, 10)
    assert longer.warmup_steps == 1000


def test_options_become_the_arguments_that_give_them(options):
    given = replace(options, prompt=("a b", "c"), streaming=True, report_to=("tensorboard",))
    arguments = arguments_of(given)
    assert arguments.count("--prompt") == 2
    assert "--streaming" in arguments
    assert "--sharding" not in arguments


def test_untied_output_layer_of_a_made_model_is_seen(tmp_path, tokenizers, texts):
    tokenizer = tokenizers["byte-level", "de"]
    folders = {tied: make_model(tmp_path / str(tied), tokenizer, tied=tied) for tied in (True, False)}
    plans = {tied: plan_of(train_options((folder, None), texts), folder) for tied, folder in folders.items()}
    rows = len(tokenizer) * 32
    assert plans[False].parameters == plans[True].parameters + rows
    assert plans[False].flops_per_token == plans[True].flops_per_token
    taught = plan_of(train_options((folders[True], None), texts, teacher=str(folders[False])), folders[True])
    assert taught.flops_per_token == pytest.approx(4 / 3 * plans[True].flops_per_token)


def test_driver_is_not_asked_for_a_run_on_the_cpu(monkeypatch):
    monkeypatch.setattr(driver, "list_gpus", lambda: pytest.fail("the driver was asked"))
    assert device_choice.find_device("cpu").kind == "cpu"


@pytest.mark.parametrize(
    ("seconds", "step", "evaluation", "every", "expected"),
    [
        (100.0, 1.0, 0.0, 0, 100),
        (100.0, 1.0, 5.0, 0, 65),  # seven evaluations, ten steps apart
        (100.0, 1.0, 5.0, 50, 90),
        (12_000.0, 1.0, 100.0, 0, 10_800),  # twelve in the run
        (3.0, 1.0, 60.0, 0, 1),
        (-5.0, 1.0, 1.0, 0, 1),
    ],
)
def test_steps_that_fit_leave_time_for_their_evaluations(seconds, step, evaluation, every, expected):
    from clp_core.training.telemetry import steps_that_fit

    assert steps_that_fit(seconds, step, evaluation, every) == expected


@pytest.mark.parametrize("preset", PRESETS)
def test_resolved_options_know_what_was_given(options, preset):
    options = replace(options, block_length=0, learning_rate=1e-5, preset=preset)
    resolved = options.resolved()
    assert resolved.as_given == options
    assert "learning_rate" in resolved.given
    assert "block_length" not in resolved.given
    assert resolved.options.learning_rate == 1e-5
    assert resolved.options.block_length == PRESETS[preset].settings.get("block_length", 0)


@pytest.fixture
def reads(monkeypatch):
    """What planning reads of texts and tokenizers, by name; the caches begin empty."""
    found = []

    def watched(name):
        real = getattr(plans, name)

        def call(*args, **kwargs):
            found.append(name)
            return real(*args, **kwargs)

        return call

    for name in ("find_leak", "counts_of_beginning"):
        monkeypatch.setattr(plans, name, watched(name))
    caches = (plans.open_vocabulary, plans.count_beginning, plans.find_leak_once)
    for cache in caches:
        cache.cache_clear()
    yield found
    for cache in caches:
        cache.cache_clear()


def test_plan_reads_texts_and_tokenizer_once_for_all_settings(pair, texts, tmp_path, reads):
    train, held_out = (tmp_path / name for name in ("train.txt", "held.txt"))
    train.write_bytes(texts[0].read_bytes())
    held_out.write_bytes(texts[1].read_bytes())
    settings = train_options(pair, (train, held_out))
    first = plan_of(settings, pair[0])
    assert sorted(reads) == ["counts_of_beginning", "counts_of_beginning", "find_leak"]
    reads.clear()
    assert plan_of(replace(settings, learning_rate=1e-5), pair[0]).warnings == first.warnings == ()
    assert plans.open_vocabulary.cache_info().misses == 1
    assert not reads
    held_out.write_text(train.read_text().splitlines()[0] + "\n")
    assert "held-out line" in plan_of(settings, pair[0]).warnings[0]
    assert sorted(reads) == ["counts_of_beginning", "find_leak"]


def test_shown_plan_is_submitted_and_no_text_is_read_again(workspace, pair, texts, reads, monkeypatch):
    settings = replace(train_options(pair, texts, max_steps=2), preset="published")
    shown = replace(plans.plan(settings.resolved(), pair[0], workspace.cache), steps=7)
    reads.clear()
    monkeypatch.setattr(submission, "submit", lambda *args, plan, **more: plan)
    assert submission.submit_train(workspace, settings, planned=shown) == shown.to_json()
    assert not reads
    with pytest.raises(InputError, match="there is no such file"):
        submission.submit_train(workspace, replace(settings, eval_text="gone.txt"), planned=shown)


def test_run_finds_what_its_plan_has_found_of_contamination(workspace, pair, texts):
    settings = train_options(pair, texts)
    plans.plan(settings.resolved(), pair[0], workspace.cache)
    (file,) = (workspace.cache / "leaks").iterdir()
    file.write_text(json.dumps({"found": 3, "lines": 9, "example": "kept"}))
    vocabulary = Vocabulary.open(pair[0])
    job = SimpleNamespace(path=workspace.root)
    look_for_leak(job, settings, vocabulary, workspace.cache)
    assert "3 of 9" in (workspace.root / WARNINGS_FILE).read_text()
