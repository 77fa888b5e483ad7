"""The playground: text that streams, sessions that answer, and memory that comes back."""

import json
import os
import signal
import threading
import time

import psutil
import pytest
from support.commands import clp, result_of
from support.jobs import end_of, process_of, wait_for
from support.slow_sessions import slow_down
from support.tiny_models import FAMILIES, GERMAN, make_model
from tokenizers.decoders import DecodeStream
from typer.testing import CliRunner

from clp_core.cli.app import app
from clp_core.environment import gpus as driver
from clp_core.environment.gpus import Gpu
from clp_core.errors import InputError
from clp_core.files.json_files import write_json
from clp_core.jobs import JobStore
from clp_core.jobs.device_queue import DeviceQueue
from clp_core.jobs.reason_codes import ReasonCode
from clp_core.options import command_of
from clp_core.playground.answers import Completion, GenerateOptions
from clp_core.playground.memory_placement import Needs, check_room, take_place
from clp_core.playground.options import PlaygroundOptions
from clp_core.playground.session import ask, session_for, start_session
from clp_core.tokenization.scripts import UNREADABLE, printable
from clp_core.tokenization.text_stream import TextStream
from clp_core.tokenization.vocabulary import Vocabulary

MIXED = "größer, 東京 und Ελλάδα – 🙂 naïve Mühle."


def options_for(folder, **more):
    settings = {"prompt": "Der alte Fuchs", "max_tokens": 12} | more
    folders = folder if isinstance(folder, tuple) else (folder,)
    return GenerateOptions(tuple(map(str, folders)), **settings)


def loaded(folder):
    from clp_core.playground.generation import LoadedModel, PromptEncoder

    return LoadedModel.load(PromptEncoder.open(str(folder)))


def answers_of(options, is_stopped=lambda: False, on_event=None):
    """Load the models and let them answer here; return the answers and all events."""
    from clp_core.playground.generation import complete

    answers, events = [Completion(model) for model in options.models], []

    def emit(event):
        events.append(event)
        answers[event["model"]] = answers[event["model"]].after(event)
        if on_event:
            on_event(event)

    complete([loaded(model) for model in options.models], options, emit, is_stopped)
    return answers, events


@pytest.fixture(scope="module")
def other(tmp_path_factory, tokenizers):
    """A model with a tokenizer of another family."""
    folder = tmp_path_factory.mktemp("other") / "sentences"
    return make_model(folder, tokenizers["sentencepiece-bpe", "de"], "gpt2", seed=3)


@pytest.fixture
def open_sessions(workspace):
    """Give the memory of all sessions back at the end."""
    yield
    for job in JobStore(workspace.jobs).jobs():
        if not job.status().is_over:
            job.ask_stop(kill=True)
            end_of(job)


# Text as it comes


@pytest.mark.parametrize("text", [*GERMAN[:3], MIXED, "  zwei Blanks", "\n\nZeilen\n"])
def test_pieces_joined_equal_the_whole_and_hold_no_half_character(folders, text):
    for folder in folders.values():
        vocabulary = Vocabulary.open(folder)
        ids = vocabulary.encode(text)
        stream = TextStream(vocabulary)
        pieces = [stream.add(i) for i in ids]
        assert not any(UNREADABLE in piece for piece in pieces)
        assert "".join([*pieces, stream.rest()]) == vocabulary.tokenizer.decode(ids)


def test_blank_before_the_first_word_is_kept_behind_a_prompt(folders):
    for family in FAMILIES:
        vocabulary = Vocabulary.open(folders[family, "de"])
        prompt, ids = vocabulary.encode("Der alte"), vocabulary.encode(" Wald")
        stream = TextStream(vocabulary, prompt)
        told = "".join([*map(stream.add, ids), stream.rest()])
        decode = vocabulary.tokenizer.decode
        assert decode(prompt) + told == decode(prompt + ids)
    assert TextStream(vocabulary, prompt).add(ids[0])[0] == " "


def test_broken_bytes_are_told_at_the_end_as_the_tokenizer_reads_them(folders):
    vocabulary = Vocabulary.open(folders["sentencepiece-bpe", "de"])
    ids = [vocabulary.ids[token] for token in ("<0xC3>", "<0xA4>", "<0xFF>")]
    stream = TextStream(vocabulary)
    assert [stream.add(i) for i in ids] == ["", "", ""]  # the third makes all three unreadable
    assert stream.rest() == vocabulary.tokenizer.decode(ids) == 3 * UNREADABLE


def test_decode_stream_of_tokenizers_still_fails_where_ours_does_not(folders):
    """Once this test fails, ``tokenizers.decoders.DecodeStream`` may replace ``TextStream``."""
    vocabulary = Vocabulary.open(folders["sentencepiece-bpe", "de"])
    decode, word = vocabulary.tokenizer.decode, vocabulary.encode("über")[-1]
    ids = [*(vocabulary.ids[token] for token in ("<0xC8>", "<0xAA>", "<0xEF>")), word]
    stream = DecodeStream(skip_special_tokens=True)
    told = [stream.step(vocabulary.tokenizer, i) for i in ids[:3]]
    assert told == [None, "Ȫ", None]  # too soon: with the third byte none of the three is a character
    with pytest.raises(Exception, match="Invalid prefix"):
        stream.step(vocabulary.tokenizer, word)
    ours = TextStream(vocabulary)
    assert "".join([*map(ours.add, ids), ours.rest()]) == decode(ids)
    cut = vocabulary.encode("🙂")[:-1]
    stream, ours = DecodeStream(skip_special_tokens=True), TextStream(vocabulary)
    assert "".join(filter(None, (stream.step(vocabulary.tokenizer, i) for i in cut))) != decode(cut)
    assert "".join([*map(ours.add, cut), ours.rest()]) == decode(cut)


def test_long_text_is_decoded_in_parts_and_stays_the_same(folders):
    for folder in folders.values():
        vocabulary = Vocabulary.open(folder)
        ids = vocabulary.encode(" ".join([MIXED, *GERMAN[:9]] * 3))
        stream = TextStream(vocabulary)
        assert "".join([*map(stream.add, ids), stream.rest()]) == vocabulary.tokenizer.decode(ids)
        assert len(stream._ids) < len(ids) / 2


def test_control_characters_become_signs():
    assert printable("a\x1b[31m\tb\nc\x00\x7f\x9bé") == "a␛[31m\tb\nc␀␡�é"


# One model


def test_greedy_text_is_that_of_a_loop_of_argmax(pair):
    import torch

    options = options_for(pair[0], temperature=0, ignore_end=True, max_tokens=20)
    (answer,), events = answers_of(options)
    model = loaded(pair[0])
    vocabulary = model.encoder.vocabulary
    ids = [vocabulary.roles["bos"], *vocabulary.encode(options.prompt)]
    n_before, log_p = len(ids), 0.0
    for _ in range(20):
        with torch.inference_mode():
            row = torch.log_softmax(model.model(torch.tensor([ids])).logits[0, -1].double(), dim=-1)
        ids.append(int(row.argmax()))
        log_p += float(row.max())
    assert [event["id"] for event in events if "id" in event] == ids[n_before:]
    assert answer.text == vocabulary.tokenizer.decode(ids)[len(options.prompt) :]
    assert answer.log_p == pytest.approx(log_p, rel=1e-4)
    n_bytes = sum(len(vocabulary.bytes_of(i)) for i in ids[n_before:] if i not in vocabulary.special_ids)
    assert answer.bits_per_byte == pytest.approx(-log_p / 0.693147 / n_bytes, rel=1e-4)
    assert (answer.tokens, answer.stopped, answer.prompt_tokens) == (20, "length", n_before - 1)


def test_log_probability_is_that_before_temperature_penalty_and_cuts(pair):
    import torch

    options = options_for(pair[0], temperature=3.0, top_k=40, top_p=0.9, repetition_penalty=1.3, ignore_end=True)
    _, events = answers_of(options)
    model = loaded(pair[0])
    vocabulary = model.encoder.vocabulary
    before = [vocabulary.roles["bos"], *vocabulary.encode(options.prompt)]
    drawn = [event for event in events if "id" in event]
    ids = [event["id"] for event in drawn]
    with torch.inference_mode():
        rows = torch.log_softmax(model.model(torch.tensor([before + ids])).logits[0], dim=-1)
    wanted = [float(rows[len(before) - 1 + i, token]) for i, token in enumerate(ids)]
    assert [event["log_p"] for event in drawn] == pytest.approx(wanted, rel=1e-4)


def test_same_seed_gives_the_same_text_alone_or_beside_others(pair, other):
    def texts(folder, **more):
        return [answer.text for answer in answers_of(options_for(folder, temperature=1.5, top_k=0, **more))[0]]

    alone = texts(pair[0]) + texts(other)
    assert texts((pair[0], other)) == alone
    assert texts((other, pair[0])) == alone[::-1]
    assert texts((pair[0], other), seed=7) != alone


def test_sample_of_a_run_is_what_the_playground_writes(pair):
    from clp_core.evaluation.bits_per_byte import SAMPLE_TOKENS, sample

    (answer,), _ = answers_of(options_for(pair[1], prompt="Der", max_tokens=SAMPLE_TOKENS))
    assert "Der" + answer.text == sample(pair[1], "Der")


def test_random_numbers_of_the_caller_are_left_as_they_were(pair):
    import torch

    torch.manual_seed(5)
    wanted = torch.rand(1)
    torch.manual_seed(5)
    answers_of(options_for(pair, seed=1))
    assert torch.rand(1) == wanted


def test_every_setting_has_an_effect(pair):
    base = {"temperature": 2.0, "top_k": 0, "max_tokens": 30, "ignore_end": True}
    (plain,), _ = answers_of(options_for(pair[0], **base))
    for change in ({"temperature": 0.1}, {"top_k": 2}, {"top_p": 0.1}, {"repetition_penalty": 50.0}, {"seed": 1}):
        (changed,), _ = answers_of(options_for(pair[0], **(base | change)))
        assert changed.text != plain.text, change


def test_checkpoints_own_wishes_for_sampling_are_not_mixed_in(pair, tmp_path):
    import shutil

    folder = tmp_path / "with-wishes"
    shutil.copytree(pair[0], folder)
    wishes = json.loads((folder / "generation_config.json").read_text())
    wishes |= {"do_sample": True, "top_k": 3, "repetition_penalty": 9.0, "min_new_tokens": 5, "max_length": 3}
    (folder / "generation_config.json").write_text(json.dumps(wishes))
    for more in ({"temperature": 0}, {"top_k": 0}):
        told = [answers_of(options_for(model, **more))[0][0].text for model in (pair[0], folder)]
        assert told[0] == told[1]


def ending_model(pair, folder):
    """A model that says the end of text whatever stands before it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(pair[1])
    tokenizer = AutoTokenizer.from_pretrained(pair[1])
    with torch.no_grad():
        final = model.transformer.ln_f
        final.weight.zero_()
        final.bias.copy_(model.transformer.wte.weight[tokenizer.eos_token_id] * 1e4)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_end_of_text_ends_the_answer_unless_it_is_ignored(pair, tmp_path):
    folder = ending_model(pair, tmp_path / "ending")
    (answer,), _ = answers_of(options_for(folder, temperature=0))
    assert (answer.text, answer.tokens, answer.stopped) == ("", 1, "end of text")
    assert answer.bits_per_byte is None
    (answer,), _ = answers_of(options_for(folder, temperature=0, ignore_end=True))
    assert (answer.tokens, answer.stopped) == (12, "length")


def test_prompt_without_room_or_beginning_is_refused_by_name(pair, tmp_path, tokenizers):
    options = options_for(pair, prompt="Wald " * 40, max_tokens=30)
    answers, _ = answers_of(options)
    assert {answer.stopped for answer in answers} == {"refused"}
    assert answers[0].error.startswith("source takes 64 tokens in all: the prompt has ")
    folder = make_model(tmp_path / "pieces", tokenizers["wordpiece", "de"])
    (answer,), _ = answers_of(options_for(folder, prompt=""))
    assert "pieces has no begin-of-text token" in answer.error
    (beside, refused), _ = answers_of(options_for((pair[0], folder), prompt="", temperature=0))
    assert (beside.error, refused.stopped) == ("", "refused")  # one does not stand in the other's way


def test_answers_of_several_models_grow_side_by_side(pair, other):
    _, events = answers_of(options_for((pair[0], other), ignore_end=True, max_tokens=10))
    order = [event["model"] for event in events if "id" in event]
    assert order == [0, 1] * 10


def test_stop_ends_all_models_in_the_middle(pair, other):
    seen = []
    options = options_for((pair[0], other), ignore_end=True, max_tokens=40)
    answers, _ = answers_of(options, lambda: len(seen) > 20, lambda event: seen.append(event))
    assert {answer.stopped for answer in answers} == {"stopped"}
    assert all(5 < answer.tokens < 15 for answer in answers)


def test_interruption_leaves_what_was_written(pair, other):
    events = []

    def interrupt(event):
        events.append(event)
        if sum("id" in seen for seen in events) == 5 and "stopped" not in event:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        answers_of(options_for((pair[0], other), ignore_end=True), on_event=interrupt)
    assert events[-1]["stopped"] == "stopped"
    assert events[-1]["model"] == 0


def test_error_of_one_model_is_told_and_leaves_the_other_alone(pair, other, monkeypatch):
    from transformers import GPT2LMHeadModel

    def no_memory(self, *args, **kwargs):
        raise MemoryError("4 GB could not be had")

    monkeypatch.setattr(GPT2LMHeadModel, "forward", no_memory)
    broken, whole = answers_of(options_for((other, pair[0])))[0]
    assert broken.stopped == "failed"
    assert broken.error.startswith(f"out of memory while answering with {other.name}: this machine has ")
    assert whole.tokens == 12


# Options and the command line


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ({"max_tokens": 0}, "--max-tokens"),
        ({"temperature": -1.0}, "--temperature"),
        ({"temperature": 1e-30}, "--temperature"),
        ({"temperature": float("nan")}, "--temperature"),
        ({"top_k": -1}, "--top-k"),
        ({"top_p": 0.0}, "--top-p"),
        ({"repetition_penalty": 0.0}, "--repetition-penalty"),
        ({"seed": -1}, "--seed"),
        ({"prompt": "x" * 100_001}, "--prompt"),
        ({"prompt": "\udc80"}, "--prompt"),
    ],
)
def test_bad_settings_are_refused_by_name(bad, told):
    with pytest.raises(InputError, match=told):
        options_for("m", **bad)


def test_models_are_named_once_and_not_too_many():
    for models in ((), ("",), ("a", "a"), tuple("abcdefghi")):
        with pytest.raises(InputError, match="model"):
            GenerateOptions(models)
    with pytest.raises(InputError, match="--idle-seconds"):
        PlaygroundOptions(("a",), 0)


def test_command_that_is_shown_asks_the_same(pair, monkeypatch):
    import shlex

    import clp_core.playground.server as session

    options = options_for(pair, prompt="-- 'Es' war\n\"einmal\" $HOME", temperature=0.0, seed=3, ignore_end=True)
    asked = []
    monkeypatch.setattr(session, "complete_one_by_one", lambda options, emit: asked.append(options))
    words = shlex.split(command_of(options))
    assert words[:2] == ["clp", "generate"]
    assert CliRunner().invoke(app, [*words[1:], "--json"]).exit_code == 0
    assert asked == [options]


def test_generate_prints_one_object_with_all_answers(pair, other):
    told = result_of("generate", pair[0], other, "--prompt", "Der alte", "--max-tokens", "5")["answers"]
    expected = answers_of(options_for((pair[0], other), prompt="Der alte", max_tokens=5))[0]
    assert [answer["text"] for answer in told] == [answer.text for answer in expected]
    assert [answer["model"] for answer in told] == [str(pair[0]), str(other)]
    assert set(told[0]) >= {"tokens", "tokens_per_s", "prompt_tokens", "stopped"}
    refused = clp("generate", pair[0], "--max-tokens", "65")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines()[-1].startswith("clp: source takes 64 tokens in all")


# Places


def fake_gpus(monkeypatch, *free):
    gpus = [Gpu(i, f"Card {i}", n, 80 << 30) for i, n in enumerate(free)]
    monkeypatch.setattr(driver, "list_gpus", lambda: gpus)


def run_on(workspace, device, name="a run", planned=0):
    """Make a job that waits for a device, as a run does."""
    job, _ = JobStore(workspace.jobs).create(
        "project",
        {"name": name},
        ["-c", "pass"],
        "clp project",
        name=name,
        devices=[device],
        plan={"memory_bytes": planned},
    )
    return job, DeviceQueue.of_this_machine().enter(job.path, [device])


def test_place_is_a_gpu_that_no_run_wants_else_the_cpu(workspace, pair, monkeypatch):
    needs, queue = Needs.of(pair), DeviceQueue.of_this_machine()
    fake_gpus(monkeypatch, 40 << 30, 50 << 30)
    me, _ = JobStore(workspace.jobs).create("playground", {}, ["-c", "pass"], "clp playground")
    place = take_place(needs, me.path)
    assert (place.device, place.name) == ("cuda:1", "Card 1")
    assert [ticket.job for ticket in queue.ahead(["cuda:1"])] == [me.path]  # the page Train sees who holds it
    assert place.waiting(queue) == []
    _, ticket = run_on(workspace, "cuda:1")
    assert place.waiting(queue) == [ticket]
    place.release(queue)
    assert queue.try_to_hold(ticket) is not None
    run_on(workspace, "cuda:0", "waits for the other")
    alone = take_place(needs)
    assert (alone.device, alone.why) == ("cpu", "cuda:0 belongs to waits for the other")
    assert alone.waiting(queue) == []


def test_full_gpu_is_passed_over_and_the_reason_told(workspace, pair, monkeypatch):
    fake_gpus(monkeypatch, 1 << 20)
    place = take_place(Needs.of(pair))
    assert (place.device, place.why) == ("cpu", "cuda:0 has 0.0 GB free")


def test_gpu_that_a_command_borrows_is_held_until_it_is_given_back(workspace, pair, monkeypatch):
    fake_gpus(monkeypatch, 40 << 30)
    queue = DeviceQueue.of_this_machine()
    place = take_place(Needs.of(pair))
    assert place.device == "cuda:0"
    assert take_place(Needs.of(pair)).why == "cuda:0 was taken this moment"
    _, ticket = run_on(workspace, "cuda:0")
    assert queue.try_to_hold(ticket) is None
    place.release(queue)
    assert queue.try_to_hold(ticket) is not None


def test_models_that_fit_nowhere_are_refused_before_a_job_is_made(workspace, pair, monkeypatch):
    fake_gpus(monkeypatch)
    memory = psutil.virtual_memory()._replace(available=1 << 20)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    with pytest.raises(InputError, match=r"helper and source need 0\.5 GB .*, 0\.0 GB"):
        ask(workspace, options_for(pair))
    assert not list(workspace.jobs.glob("*/spec.json"))


def test_memory_that_a_run_on_the_cpu_was_promised_is_left_alone(workspace, pair, monkeypatch):
    fake_gpus(monkeypatch)
    free = 4 << 30
    memory = psutil.virtual_memory()._replace(available=free)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    check_room(Needs.of(pair))
    _, ticket = run_on(workspace, "cpu", planned=free)
    held = DeviceQueue.of_this_machine().try_to_hold(ticket)
    with pytest.raises(InputError, match=r"4\.3 GB .* a run"):
        check_room(Needs.of(pair))
    held.release()


# Sessions


def wait_for_answers(session, number, seconds=120.0):
    def over():
        assert not session.job.status().is_over, session.job.log_tail()
        return all(answer.stopped for answer in session.answers(number))

    wait_for(over, seconds)
    return session.answers(number)


def is_gone(process):
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


LONG = {"prompt": "Der", "max_tokens": 60, "ignore_end": True}


@pytest.mark.process
def test_session_answers_prompts_of_two_tokenizers_and_ends_by_itself(workspace, pair, other, open_sessions):
    asked = options_for((pair[0], other))
    session, number = ask(workspace, asked, idle_seconds=4)
    answers = wait_for_answers(session, number)
    assert [answer.text for answer in answers] == [answer.text for answer in answers_of(asked)[0]]
    assert answers[0].prompt_tokens != answers[1].prompt_tokens
    assert session.held["device"] == "cpu"
    assert session.held["memory_bytes"] > 100e6
    process = process_of(session)
    wait_for(lambda: session.phase == "idle")
    assert 0 < session.seconds_left <= 4
    again, number = ask(workspace, options_for(other, prompt="Ein"))  # it holds that model too
    assert (again.job.id, number) == (session.job.id, 2)
    assert wait_for_answers(session, 2)[0].tokens == 12
    assert end_of(session.job).state == "finished"
    assert session.job.status().reason_code == ReasonCode.ENDED
    assert "after 4 s" in session.job.status().reason
    assert is_gone(process)
    assert session.job.result()["answered"] == 2
    assert not session.is_open
    fresh, number = ask(workspace, options_for(other, prompt="Ein"), idle_seconds=60)
    assert fresh.job.id != session.job.id
    assert number == 1


@pytest.mark.process
def test_prompts_wait_for_each_other_and_broken_ones_are_passed_over(workspace, pair, open_sessions):
    session, first = ask(workspace, options_for(pair, **LONG))
    assert ask(workspace, options_for(pair, **LONG)) == (session, first)  # a double click
    _, second = ask(workspace, options_for(pair[0], prompt="Ein"))
    session.request_file(3).write_text('{"prompt": "hal')
    write_json(session.request_file(4), {"models": [str(pair[0])], "temperature": "hot"})
    write_json(session.request_file(5), {"models": ["/etc"], "prompt": "x"})
    _, last = ask(workspace, options_for(pair[0], prompt="Das"))
    assert (first, second, last) == (1, 2, 6)
    assert wait_for_answers(session, last)[0].stopped in ("length", "end of text")
    assert [answer.tokens for answer in session.answers(first)] == [60, 60]
    told = [json.loads(session.answers_file(n).read_text())["error"] for n in (3, 4, 5)]
    assert all(part in error for part, error in zip(("prompt 3", "temperature", "/etc"), told, strict=True))
    with pytest.raises(InputError, match="access token"):
        session.ask(options_for(pair[0], prompt="hf_" + "a" * 30))


@pytest.mark.process
def test_answer_is_stopped_in_the_middle_and_the_session_goes_on(workspace, pair, open_sessions, monkeypatch, tmp_path):
    slow_down(monkeypatch, tmp_path / "slow", 0.2)
    session, number = ask(workspace, options_for(pair, **LONG))
    wait_for(lambda: session.answers(number)[1].tokens >= 2, 120)
    assert session.phase == "answering"
    assert session.seconds_left is None
    session.stop(number)
    began = time.monotonic()
    answers = wait_for_answers(session, number)
    assert time.monotonic() - began < 5
    assert {answer.stopped for answer in answers} == {"stopped"}
    assert all(2 <= answer.tokens < 60 for answer in answers)
    assert session.is_open


@pytest.mark.process
def test_asked_to_stop_it_ends_within_a_moment_in_the_middle_of_an_answer(
    workspace, pair, open_sessions, monkeypatch, tmp_path
):
    slow_down(monkeypatch, tmp_path / "slow", 0.2)
    session, number = ask(workspace, options_for(pair, **LONG))
    _, waiting = ask(workspace, options_for(pair, prompt="Ein"))
    wait_for(lambda: session.answers(number)[0].tokens >= 2, 120)
    process = process_of(session)
    session.job.ask_stop()
    wait_for(lambda: is_gone(process), 10)
    status = end_of(session.job, 10)
    assert (status.state, status.reason_code) == ("stopped", ReasonCode.ENDED)
    for n in (number, waiting):
        assert {(answer.stopped, answer.error) for answer in session.answers(n)} == {("stopped", status.reason)}
    with pytest.raises(Exception, match="this session is over"):
        session.ask(options_for(pair))


@pytest.mark.process
def test_stop_while_it_loads_ends_it_too(workspace, pair, open_sessions):
    session, _ = ask(workspace, options_for(pair))
    session.job.ask_stop()
    assert end_of(session.job, 60).state == "stopped"
    assert not session.is_open


@pytest.mark.process
def test_two_tabs_share_one_session(workspace, pair, open_sessions):
    found = []
    clicks = [
        threading.Thread(target=lambda models=models: found.append(ask(workspace, options_for(models))[0].job.id))
        for models in (pair, pair[::-1], pair, pair[::-1])
    ]
    for click in clicks:
        click.start()
    for click in clicks:
        click.join()
    assert len(set(found)) == 1
    (job,) = JobStore(workspace.jobs).jobs()
    assert session_for(workspace, [str(pair[1])]).job.id == job.id


@pytest.mark.process
def test_session_with_weights_that_have_changed_is_not_used(workspace, pair, open_sessions, tmp_path):
    import shutil

    folder = tmp_path / "model"
    shutil.copytree(pair[0], folder)
    session = start_session(workspace, PlaygroundOptions((str(folder),)))
    assert session_for(workspace, [str(folder)]) == session
    os.utime(folder / "model.safetensors", (1, 1))
    assert session_for(workspace, [str(folder)]) is None


@pytest.mark.process
def test_killed_session_says_how_it_ended_and_takes_no_prompt(workspace, pair, open_sessions):
    session, number = ask(workspace, options_for(pair))
    wait_for_answers(session, number)
    os.kill(process_of(session).pid, signal.SIGKILL)
    status = end_of(session.job, 30)
    assert status.state == "failed"
    assert status.reason_code in (ReasonCode.KILLED_BY_SIGNAL, ReasonCode.OUT_OF_MEMORY)
    assert status.reason.endswith("signal 9 (SIGKILL)")
    assert session_for(workspace, [str(folder) for folder in pair]) is None


@pytest.mark.process
def test_session_of_a_model_that_cannot_be_loaded_fails_with_the_reason(
    workspace, pair, open_sessions, tmp_path, tokenizers
):
    folder = make_model(tmp_path / "small", tokenizers["byte-level", "de"], rows=100)
    session, _ = ask(workspace, options_for((folder, pair[0])))
    status = end_of(session.job)
    assert status.state == "failed"
    assert "100 embedding rows" in status.reason


def test_session_gives_its_gpu_to_a_run_that_waits_for_it(workspace, pair, monkeypatch, tmp_path):
    from clp_core.playground.server import Playground

    fake_gpus(monkeypatch, 40 << 30)
    for name in ("CUDA_DEVICE_ORDER", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, "")  # the session sets them, and they are put back at the end
    monkeypatch.setattr("clp_core.playground.server.memory_bytes", lambda place: 1)
    models = tuple(sorted(map(str, pair)))
    job, _ = JobStore(workspace.jobs).create(
        "playground", {"models": models, "idle_seconds": 100, "content": {}}, ["-c", "pass"], "clp playground"
    )
    result = []
    session = Playground(job, PlaygroundOptions(models, 100))
    thread = threading.Thread(target=lambda: result.append(session.run()), daemon=True)
    thread.start()
    wait_for(lambda: session._session.held)
    assert session._session.held["device"] == "cuda:0"
    run, ticket = run_on(workspace, "cuda:0", "my run")
    thread.join(20)
    assert result[0]["reason_code"] == ReasonCode.ENDED.value
    assert "cuda:0" in result[0]["reason"]
    assert "my run" in result[0]["reason"]
    queue = DeviceQueue.of_this_machine()
    assert [found.job for found in queue.tickets()] == [run.path]
    assert queue.try_to_hold(ticket) is not None
