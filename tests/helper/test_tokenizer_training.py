"""Tokenizers trained here: the same every time, without unknown text, measured on what they have not seen."""

import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
from support.commands import refused, result_of

from clp_core.data.text_sources import Texts
from clp_core.environment.native_code import ended_by_signals
from clp_core.errors import ClpError, InputError
from clp_core.helper import tokenizer_training
from clp_core.helper.tokenizer_options import TokenizerOptions
from clp_core.helper.tokenizer_training import train_tokenizer
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.pre_tokens import LONGEST_RUN
from clp_core.tokenization.vocabulary import Vocabulary

HINDI = "नमस्ते दुनिया, यह हिन्दी में एक छोटा वाक्य है।"


@pytest.fixture(scope="module")
def german(tmp_path_factory, demo):
    """Fifteen hundred lines of real text."""
    path = tmp_path_factory.mktemp("german") / "german.txt"
    lines = list(Texts.open([demo["train_text"]]))[:1500]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def written(tmp_path, name, lines):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def train(text, output, **more):
    return train_tokenizer(TokenizerOptions(text=(str(text),), output=str(output), **more))


@pytest.mark.process
@pytest.mark.parametrize(("hashes", "threads"), [("1", "true"), ("2", "false")])
def test_same_text_gives_the_same_bytes_in_every_process(tmp_path, german, hashes, threads):
    styles = ("byte-level", "sentencepiece")
    for style in styles:
        train(german, tmp_path / "here" / style, vocab_size=2000, style=style)
    given = ["tokenizer", "--text", str(german), "--vocab-size", "2000"]
    commands = [[*given, "--style", style, "--output", str(tmp_path / "there" / style)] for style in styles]
    code = f"from clp_core.cli import main; assert [main(command) for command in {commands}] == [0, 0]"
    environment = os.environ | {"PYTHONHASHSEED": hashes, "TOKENIZERS_PARALLELISM": threads}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        for style in styles:
            here, there = ((tmp_path / where / style / name).read_bytes() for where in ("here", "there"))
            assert here == there, (style, name)


@pytest.mark.parametrize("style", ["byte-level", "sentencepiece"])
def test_folder_opens_with_transformers_and_gives_every_text_back(tmp_path, german, style):
    from transformers import AutoTokenizer

    report = train(german, tmp_path / "made", vocab_size=2000, style=style)
    opened = AutoTokenizer.from_pretrained(tmp_path / "made")
    vocabulary = Vocabulary.open(tmp_path / "made")
    config = json.loads((tmp_path / "made" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"  # transformers 4 knows no TokenizersBackend
    assert (len(opened), vocabulary.size, report.size) == (2000, 2000, 2000)
    assert vocabulary.family == style
    assert vocabulary.roles["eos"] == vocabulary.roles["bos"] == opened.eos_token_id
    lines = list(Texts.open([german]))[:300]
    for line in [*lines, HINDI, "emoji 🙂 and 漢字", "two  blanks, a\ttab", "<0x41> is no byte"]:
        ids = opened(line, add_special_tokens=False)["input_ids"]
        assert ids == vocabulary.encode(line)
        assert vocabulary.roles.get("unk", -1) not in ids
        assert opened.decode(ids, clean_up_tokenization_spaces=False) == line


def test_words_are_not_cut_at_combining_marks(tmp_path):
    text = written(tmp_path, "hindi.txt", [f"{HINDI} {i}" for i in range(60)])
    for style in ("byte-level", "sentencepiece"):
        train(text, tmp_path / style, vocab_size=900, style=style)
        vocabulary = Vocabulary.open(tmp_path / style)
        pieces = [vocabulary.token_bytes[i].decode() for i in vocabulary.encode(HINDI)]
        assert {" दुनिया", " हिन्दी", " वाक्य"} <= set(pieces)


def test_held_out_documents_are_not_learned_and_measured_on(tmp_path, german):
    lines = [line if i % 50 != 7 else f"{line} Quarkzwiebel" for i, line in enumerate(Texts.open([german]))]
    report = train(written(tmp_path, "marked.txt", lines), tmp_path / "made", vocab_size=4000)
    assert report.measured_on == "30 documents that were held out (every 50th)"
    assert "ĠQuarkzwiebel" not in Vocabulary.open(tmp_path / "made").ids
    seen = [line if (i + 1) % 49 else f"{line} Quarkzwiebel" for i, line in enumerate(Texts.open([german]))]
    train(written(tmp_path, "seen.txt", seen), tmp_path / "other", vocab_size=4000)
    assert "ĠQuarkzwiebel" in Vocabulary.open(tmp_path / "other").ids
    held = "\n".join(lines[7::50])
    expected = len(held.encode()) / len(Vocabulary.open(tmp_path / "made").encode(held))
    assert report.bytes_per_token == pytest.approx(expected)


def test_small_text_says_that_it_is_measured_on_itself_and_gives_fewer_tokens(tmp_path, texts):
    report = train(texts[0], tmp_path / "made", vocab_size=5000)
    assert report.measured_on.startswith("the text it was trained on")
    assert report.size < 5000
    assert f"the text gave {report.size:,} of 5,000 tokens" in report.warnings[0]


def test_text_in_two_spellings_is_told_and_nfc_reads_them_alike(tmp_path):
    lines = [f"schöne grüne Bäume {i}" if i % 2 else f"scho\u0308ne gru\u0308ne Ba\u0308ume {i}" for i in range(40)]
    text = written(tmp_path, "mixed.txt", lines)
    told = train(text, tmp_path / "as-it-is", vocab_size=320).warnings
    assert any("20 of 40 documents" in warning for warning in told)
    told = train(text, tmp_path / "nfc", vocab_size=320, normalization="nfc").warnings
    assert not any("of 40 documents" in warning for warning in told)
    kept, alike = Vocabulary.open(tmp_path / "as-it-is"), Vocabulary.open(tmp_path / "nfc")
    assert alike.encode("scho\u0308ne") == alike.encode("schöne")
    assert kept.encode("scho\u0308ne") != kept.encode("schöne")


def test_overlap_with_the_source_is_told_and_its_end_of_text_taken(tmp_path, german, folders):
    source = folders["byte-level", "en"]
    report = train(german, tmp_path / "made", vocab_size=1000, source=str(source))
    one, other = Vocabulary.open(source), Vocabulary.open(tmp_path / "made")
    assert report.end_of_text == "<|end|>" == other.tokens[other.roles["eos"]]
    for match in ("raw", "canonical"):
        found = Overlap.of(one, other, match)
        assert getattr(report.source, match).overlap == found.size > 256
        assert getattr(report.source, match).share_of_target == found.share_of_target
        assert 0 < getattr(report.source, match).coverage <= 1
    assert report.source.bytes_per_token < report.bytes_per_token


def test_style_follows_the_source_or_says_how_to_match(tmp_path, german, folders):
    source = str(folders["sentencepiece-bpe", "en"])
    followed = train(german, tmp_path / "auto", vocab_size=1000, source=source)
    assert (followed.style, followed.end_of_text) == ("sentencepiece", "</s>")
    assert not any("canonical" in warning for warning in followed.warnings)
    forced = train(german, tmp_path / "bytes", vocab_size=1000, source=source, style="byte-level")
    assert any("--match canonical" in warning for warning in forced.warnings)
    assert followed.source.raw.overlap > 2 * forced.source.raw.overlap
    own = train(german, tmp_path / "own", vocab_size=1000, source=str(tmp_path / "auto"))
    assert any("a new one gains nothing" in warning for warning in own.warnings)


def test_digits_pad_and_frequency_have_their_effect(tmp_path, german):
    train(german, tmp_path / "plain", vocab_size=3000)
    options = {"split_digits": True, "pad_token": "<|pad|>", "min_frequency": 200, "end_of_text": "<end>"}
    report = train(german, tmp_path / "made", vocab_size=3000, **options)
    plain, made = Vocabulary.open(tmp_path / "plain"), Vocabulary.open(tmp_path / "made")
    assert report.size < plain.size == 3000
    assert (plain.categories == "digits").sum() > (made.categories == "digits").sum() <= 11
    assert made.tokens[made.roles["pad"]] == "<|pad|>"
    assert made.tokens[made.roles["eos"]] == "<end>"
    assert "pad" not in plain.roles


def test_rare_characters_fall_back_to_bytes(tmp_path, german):
    lines = [*Texts.open([german]), *[f"{chr(0x4E00 + i)}" for i in range(20)]]
    train(written(tmp_path, "rare.txt", lines), tmp_path / "made", vocab_size=1000, style="sentencepiece")
    vocabulary = Vocabulary.open(tmp_path / "made")
    assert "\u4e00" not in vocabulary.ids
    assert [vocabulary.tokens[i] for i in vocabulary.encode("\u4e00")][-3:] == ["<0xE4>", "<0xB8>", "<0x80>"]


def test_tokenizer_that_reopens_otherwise_is_not_kept(tmp_path, texts, monkeypatch):
    monkeypatch.setattr(tokenizer_training, "check_tokenizer", lambda *_: ["3 lines differ"])
    with pytest.raises(ClpError, match="it is not kept"):
        train(texts[0], tmp_path / "made", vocab_size=300)
    assert not list(tmp_path.glob("*made*"))


def test_output_that_exists_is_kept_and_a_model_is_never_replaced(tmp_path, texts, pair):
    output = tmp_path / "made"
    train(texts[0], output, vocab_size=300)
    with pytest.raises(InputError, match="exists and is kept"):
        train(texts[0], output, vocab_size=310)
    train(texts[0], output, vocab_size=310, overwrite=True)
    assert Vocabulary.open(output).size == 310
    with pytest.raises(InputError, match="holds more than a tokenizer"):
        train(texts[0], pair[1], vocab_size=310, overwrite=True)
    assert (pair[1] / "model.safetensors").is_file()
    (output / "config.json").write_text("{}")
    with pytest.raises(InputError, match="holds more than a tokenizer"):
        train(texts[0], output, vocab_size=310, overwrite=True)


def test_command_gives_the_contract_and_one_line_for_bad_input(tmp_path, texts, pair):
    found = result_of("tokenizer", "--text", texts[0], "--vocab-size", 300, "--output", tmp_path / "made")
    assert (found["output"], found["size"]) == (str(tmp_path / "made"), 300)
    assert found["bytes_per_token"] > 1
    assert json.loads((tmp_path / "made" / "clp_tokenizer.json").read_text()) == found
    given = ("tokenizer", "--text", texts[0], "--output", tmp_path / "new")
    assert "--vocab-size: 256" in refused(*given, "--vocab-size", 256)
    assert "no.txt" in refused("tokenizer", "--text", tmp_path / "no.txt", "--output", tmp_path / "new")
    assert "--text" in refused("tokenizer", "--output", tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"vocab_size": -1}, "--vocab-size"),
        ({"min_frequency": 0}, "--min-frequency"),
        ({"style": "unigram"}, "--style: 'unigram'"),
        ({"normalization": "nfd"}, "--normalization: 'nfd'"),
        ({"end_of_text": "the end"}, "--end-of-text: 'the end'"),
        ({"pad_token": "<|endoftext|>"}, "--pad-token"),
        ({"vocab_size": 290, "style": "sentencepiece"}, "--vocab-size: 290"),
        ({"source": "./no/model"}, "./no/model"),
    ],
)
def test_bad_option_is_named_with_its_cure(tmp_path, texts, given, told):
    with pytest.raises(InputError) as error:
        train(texts[0], tmp_path / "new", **given)
    assert told in str(error.value)
    assert not list(tmp_path.iterdir())


def test_folder_that_holds_the_text_is_no_output(texts):
    with pytest.raises(InputError, match="holds more than a tokenizer"):
        train(texts[0], texts[0].parent, overwrite=True)


def long_runs():
    """Lines without blanks, of letters, marks, numbers, signs and white space, and of all of them."""
    rng = random.Random(0)
    runs = ["".join(rng.choice(characters) for _ in range(1500)) for characters in
            ("abcdef", "कखग\u093f\u094d", "0123456789", "=-_+", " ", "\t\u3000 ", "漢字仮名", "ab1-漢 ")]  # fmt: skip
    return [f"x{run}y" for run in runs]


@pytest.mark.parametrize("style", ["byte-level", "sentencepiece"])
def test_runs_without_blanks_are_bounded_and_come_back(tmp_path, german, style):
    from transformers import AutoTokenizer

    runs = long_runs()
    text = written(tmp_path, "runs.txt", [*Texts.open([german]), *runs])
    train(text, tmp_path / "made", vocab_size=3000, style=style)
    opened = AutoTokenizer.from_pretrained(tmp_path / "made")
    for run in runs:
        assert opened.decode(opened(run, add_special_tokens=False)["input_ids"]) == run
        assert max(map(len, opened.tokenize(run))) <= LONGEST_RUN + 1
    if style == "sentencepiece":
        return
    # A bounded run is read as its parts are, each for itself.
    for run in (runs[0], runs[2], runs[3], runs[6]):
        parts = [run[1:-1][i : i + LONGEST_RUN] for i in range(0, len(run) - 2, LONGEST_RUN)]
        alone = [opened(part, add_special_tokens=False)["input_ids"] for part in parts]
        assert opened(run[1:-1], add_special_tokens=False)["input_ids"] == list(itertools.chain(*alone))


@pytest.mark.parametrize("style", ["byte-level", "sentencepiece"])
def test_cuts_of_long_runs_are_counted_and_reported(tmp_path, german, style):
    lines = list(Texts.open([german]))
    longest = " ".join(["a" * LONGEST_RUN, "ß" * LONGEST_RUN])
    report = train(written(tmp_path, "none.txt", [*lines, longest]), tmp_path / "none", vocab_size=1000, style=style)
    assert report.cuts == 0
    assert not any("blank" in warning for warning in report.warnings)
    runs = ["b" * (3 * LONGEST_RUN + 1), "und " + "漢" * (LONGEST_RUN + 1) + " Rest", "=" * (2 * LONGEST_RUN)]
    report = train(written(tmp_path, "some.txt", [*runs, *lines]), tmp_path / "some", vocab_size=1000, style=style)
    assert report.cuts == 3 + 1 + 1
    assert any("5 times" in warning and f"{LONGEST_RUN} characters" in warning for warning in report.warnings)


def test_ordinary_text_is_read_as_by_the_same_tokenizer_without_a_bound(tmp_path, german):
    from tokenizers import Tokenizer

    train(german, tmp_path / "made", vocab_size=2000)
    content = (tmp_path / "made" / "tokenizer.json").read_text()
    bound = f"{{1,{LONGEST_RUN}}}"
    assert content.count(bound) == 5
    bounded, unbounded = Tokenizer.from_str(content), Tokenizer.from_str(content.replace(bound, "+"))
    lines = [*Texts.open([german]), HINDI, "two  blanks, a\ttab \n\n end  "]
    assert [e.ids for e in bounded.encode_batch(lines)] == [e.ids for e in unbounded.encode_batch(lines)]


def test_signals_end_native_code_and_are_handled_again_behind_it():
    def handler(number, frame):
        raise AssertionError

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        signal.signal(signal.SIGTERM, handler)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        with ended_by_signals():
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is handler
    finally:
        for number, kept in before.items():
            signal.signal(number, kept)


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_training_ends_at_once_on_a_signal_and_leaves_nothing(tmp_path, number):
    rng = random.Random(0)
    lines = [f"{rng.getrandbits(1000):x}".translate(str.maketrans("0123456789", "ghijklmnop")) for _ in range(30_000)]
    text = written(tmp_path, "random.txt", lines)  # learning the merges of 7.5 MB takes half a minute
    command = [sys.executable, "-m", "clp_core", "tokenizer", "--text", str(text), "--vocab-size", "40000"]
    process = subprocess.Popen(
        [*command, "--output", str(tmp_path / "out" / "made")],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a shell's "&" ignores it
    )
    with process:
        try:
            assert any(b"learning the merges" in line for line in process.stderr)
            time.sleep(1.0)  # until the last batch of the text is read
            assert process.poll() is None
            process.send_signal(number)
            assert process.wait(5) == -number
        finally:
            process.kill()
    assert sorted(tmp_path.iterdir()) == [text]
