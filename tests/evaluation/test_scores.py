"""Scores and blocks against plain torch, transformers and sentencepiece, and what must not be compared.

Begin-of-text tokens, tokenizers that lose text, literal control strings, and values that are not finite.
"""

import json
import math
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.awkward_models import damaged_model
from support.awkward_tokenizers import added_in_json, bos_in_template, dropout, sentencepiece_folder
from support.commands import clp, refused, result_of
from support.jobs import plan_of, train_here, train_options
from support.tiny_models import GERMAN, make_model
from tokenizers import Tokenizer, normalizers
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    BertLMHeadModel,
    PreTrainedTokenizerFast,
)

from clp_core.checkpoints.loading import refuse_non_causal
from clp_core.data.block_datasets import ShuffledBlocks, StreamedBlocks, padding_of
from clp_core.data.packing import TextCounts, content_key, packed_blocks, token_stream
from clp_core.data.text_sources import Texts, as_read
from clp_core.errors import DivergedError, InputError
from clp_core.evaluation.bits_per_byte import EvaluationResult, EvaluationText, evaluate, load_model, sample, score
from clp_core.jobs.run_metrics import metrics_of_run
from clp_core.model_cards.card import Card
from clp_core.options import arguments_of
from clp_core.publishing.training_facts import facts_of_run
from clp_core.run_comparison.curve import BEGIN, BYTES, NOT_COMPARABLE, TOKENIZER, Curve, curve_of_run, settings_told
from clp_core.run_comparison.tokens_saved import Comparison
from clp_core.tokenization.text_coverage import TokenizerFigures
from clp_core.tokenization.text_reading import EVERY, FIRST, resolved_begin
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.distillation import Distillation
from clp_core.training.divergence import DivergenceGuard
from clp_core.training.main import load_for_training
from clp_core.training.parameter_groups import refuse_non_finite
from clp_core.training.samples import SampleWriter

END = "<|end|>"


def with_template(folder, tokenizer, **more):
    """A model whose tokenizer puts a token before every text."""
    make_model(folder, tokenizer, **more)
    bos_in_template(folder)
    return folder


@pytest.fixture
def gemma_like(tmp_path, tokenizers):
    return with_template(tmp_path / "model", tokenizers["byte-level", "de"], seed=4)


@pytest.fixture
def long_text(tmp_path):
    path = tmp_path / "long.txt"
    path.write_text("\n".join(GERMAN[:6]) + "\n", encoding="utf-8")
    return path


def written(tmp_path, *lines, name="text.txt"):
    path = tmp_path / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def codes(found):
    return [obstacle.code for obstacle in found.not_comparable]


def bits_by_hand(folder, path, window, begin):
    """Bits per byte token by token, each by a pass of its own through the model; AutoTokenizer reads the text."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder).eval()
    lines = path.read_text(encoding="utf-8").splitlines()
    ids = []
    for line in lines:
        ids += [*tokenizer(line, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    start, total = tokenizer("").input_ids[0], 0.0
    for i, token in enumerate(ids):
        k = 0 if i < window else math.ceil((i + 1 - window) / (window // 2))
        first = k * (window // 2)
        before = ids[first:i] if begin == EVERY or k == 0 else ids[first - 1 : i]
        context = [start, *before] if begin == EVERY or k == 0 else before
        with torch.no_grad():
            logits = model(torch.tensor([context])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[token])
        assert len(context) <= window
    return total / math.log(2) / len(path.read_bytes()), len(ids)


@pytest.mark.parametrize("begin", [EVERY, FIRST])
def test_bits_per_byte_with_the_start_token_in_every_window_or_the_first(gemma_like, long_text, begin):
    expected, n = bits_by_hand(gemma_like, long_text, 16, begin)
    text = EvaluationText.read(Texts.open([long_text]), Vocabulary.open(gemma_like), 16, begin)
    found = score(load_model(gemma_like), text)
    assert found.bits_per_byte == pytest.approx(expected, rel=1e-5)
    assert (found.scored, found.begin) == (n, begin)


def test_windows_begin_as_the_tokenizers_template_does(gemma_like, pair, long_text):
    with_start, without = Vocabulary.open(gemma_like), Vocabulary.open(pair[0])
    assert [resolved_begin(each) for each in (with_start, without)] == [EVERY, FIRST]
    text = EvaluationText.read(Texts.open([long_text]), with_start, 16)
    rows = [text.inputs(start, stop) for start, stop, _ in text.windows()]
    assert len(rows) > 2
    assert all(row[0] == with_start.template_start and len(row) <= 16 for row in rows)
    scored = [i for start, stop, skipped in text.windows() for i in range(start + skipped, stop)]
    assert scored == list(range(text.scored))


def test_both_figures_are_given_where_they_differ(gemma_like, pair, long_text):
    found = result_of("evaluate", gemma_like, "--text", long_text)
    first = result_of("evaluate", gemma_like, "--text", long_text, "--begin", "first")
    assert (found["begin"], first["begin"]) == ("every", "first")
    assert found["bits_per_byte_begin_first"] == pytest.approx(first["bits_per_byte"], rel=1e-6)
    assert first["bits_per_byte_begin_every"] == pytest.approx(found["bits_per_byte"], rel=1e-6)
    assert found["bits_per_byte"] != first["bits_per_byte"]
    assert found["comparable"]
    assert [each["code"] for each in first["not_comparable"]] == ["begin_against_template"]
    assert "bits_per_byte_begin_first" not in result_of("evaluate", pair[0], "--text", long_text)
    short = written(long_text.parent, "Ein Haus.", name="short.txt")
    assert "bits_per_byte_begin_first" not in result_of("evaluate", gemma_like, "--text", short)
    assert result_of("evaluate", gemma_like, "--text", short, "--begin", "first")["comparable"]
    against = result_of("evaluate", pair[0], "--text", long_text, "--begin", "every")
    assert [each["code"] for each in against["not_comparable"]] == ["begin_against_template"]


def test_start_in_every_window_needs_a_token_to_begin_with(tmp_path, tokenizers, long_text):
    folder = make_model(tmp_path / "m", without_roles(tokenizers["byte-level", "de"]))
    assert "has no begin-of-text token" in refused("evaluate", folder, "--text", long_text, "--begin", "every")
    assert "--begin: 'last' is unknown" in refused("evaluate", folder, "--text", long_text, "--begin", "last")


def test_every_block_begins_with_the_start_token_and_predicts_each_token_once(tmp_path, gemma_like, long_text):
    vocabulary, texts = Vocabulary.open(gemma_like), Texts.open([long_text])
    start = vocabulary.template_start
    stream, _ = token_stream(texts, vocabulary)
    dataset, counts = packed_blocks(texts, vocabulary, 16, tmp_path, start=start)
    n = len(dataset)
    read = ShuffledBlocks(dataset, counts, 16, padding_of(vocabulary), n, 1, start)
    streamed = StreamedBlocks(texts, vocabulary, 16, n, start)
    rows = [streamed[i] for i in range(n)]
    assert np.array_equal(np.concatenate([row["labels"][row["labels"] != -100] for row in rows]), stream)
    assert all(row["input_ids"][0] == start and row["input_ids"].shape == (16,) for row in rows)
    for i in range(n):
        assert np.array_equal(read[i]["input_ids"], rows[read.place(i)]["input_ids"])
    assert read.bytes_per_token == pytest.approx(counts.bytes / counts.tokens * 15 / 16)
    other, _ = packed_blocks(texts, vocabulary, 16, tmp_path)
    assert len(other[0]["input_ids"]) == 16


def test_blocks_are_named_by_how_they_begin_and_how_control_strings_are_read(gemma_like, long_text):
    texts, vocabulary = Texts.open([long_text]), Vocabulary.open(gemma_like)
    readings = [{}, {"start": 0}, {"control_strings": "text"}, {"control_strings": "separator"}]
    assert len({content_key(texts, vocabulary, 16, **reading) for reading in readings}) == len(readings)


def without_roles(tokenizer):
    """The same tokenizer, without any special token in a role."""
    description = json.loads(tokenizer.backend_tokenizer.to_str())
    for token in description["added_tokens"]:
        token["special"] = False
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(description)))


def test_tokenizer_without_start_and_end_leaves_bytes_that_no_token_predicts(tmp_path, tokenizers, texts):
    folder = make_model(tmp_path / "m", without_roles(tokenizers["byte-level", "de"]))
    found = evaluate(folder, [texts[1]])
    assert codes(found) == ["first_token_unscored", "line_ends_unpredicted"]
    assert found.scored == found.counts.tokens - 1
    warnings = plan_of(train_options((folder, None), texts), folder).warnings
    assert any("neither an end-of-text nor a separator token" in told for told in warnings)


def normalised(tokenizer, *normalizer):
    changed = deepcopy(tokenizer)
    changed.backend_tokenizer.normalizer = normalizers.Sequence(list(normalizer))
    return changed


NORMALIZERS = {
    "lower case": [normalizers.Lowercase()],
    "accents": [normalizers.NFD(), normalizers.StripAccents()],
    "compatibility": [normalizers.NFKC()],
    "composition": [normalizers.NFC()],
}
LINES = ["Größe und Straße: 3½ m² …", "Das Haus ist alt.", "Für Ännchen, über Bäume"]


@pytest.mark.parametrize(("kind", "share"), [("lower case", 1), ("accents", 2 / 3), ("compatibility", 1 / 3),
                                             ("composition", 0)])  # fmt: skip
def test_text_that_a_tokenizer_changes_is_counted_as_transformers_decodes_it(tmp_path, tokenizers, kind, share):
    tokenizer = normalised(tokenizers["byte-level", "de"], *NORMALIZERS[kind])
    folder = make_model(tmp_path / "m", tokenizer)
    theirs = AutoTokenizer.from_pretrained(folder)
    changed = [line != theirs.decode(theirs(line).input_ids, skip_special_tokens=True) for line in LINES]
    found = evaluate(folder, [written(tmp_path, *LINES)])
    assert found.counts.lossy_share == pytest.approx(share) == pytest.approx(sum(changed) / len(LINES))
    assert ("lossy_tokenizer" in codes(found)) == (share > 0)
    assert found.comparable == (share == 0)


@pytest.mark.parametrize("family", ["byte-level", "sentencepiece-bpe", "unigram"])
def test_tokenizers_that_keep_the_text_are_not_lossy(tmp_path, folders, family):
    lines = ["Der alte Fuchs läuft über den Fluss.", "  Ein Haus  und der  Wald", "das Haus, 42 davon"]
    _, counts = token_stream(
        Texts.open([written(tmp_path, *lines)]), Vocabulary.open(folders[family, "de"]), checks_round_trip=True
    )
    assert (counts.checked, counts.unknown, counts.lossy) == (3, 0, 0)


def test_blanks_that_sentencepiece_folds_are_counted_as_sentencepiece_decodes_them(tmp_path):
    import sentencepiece

    folder = sentencepiece_folder(tmp_path / "spm", "Unigram as Llama")
    processor = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    lines = ["Der schnelle braune", "das  Haus", "das Haus", "der   Fluss"]
    changed = sum(processor.decode(processor.encode(line)) != line for line in lines)
    _, counts = token_stream(Texts.open([written(tmp_path, *lines)]), Vocabulary.open(folder), checks_round_trip=True)
    assert counts.lossy == changed == 2
    assert "'das  Haus' becomes 'das Haus'" in counts.lossy_example


WORD = "Ж" * 5000


def with_fused_unknown(tokenizer):
    """A SentencePiece tokenizer without bytes, which reads a run of unknown characters as one token."""
    changed = deepcopy(tokenizer)
    description = json.loads(changed.backend_tokenizer.to_str())
    kept = {token: i for i, token in enumerate(t for t in description["model"]["vocab"] if "<0x" not in t)}
    merges = [pair for pair in description["model"]["merges"] if "".join(pair) in kept]
    added = [token | {"id": kept[token["content"]]} for token in description["added_tokens"]]
    model = {"vocab": kept, "merges": merges, "byte_fallback": False, "fuse_unk": True, "unk_token": "<unk>"}
    description |= {"added_tokens": added, "model": description["model"] | model, "post_processor": None}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(description)), eos_token="</s>", unk_token="<unk>"
    )


LOSSES = {
    "fused unknown characters": (lambda every: with_fused_unknown(every["sentencepiece-bpe", "de"]), WORD),
    "one token for a long word": (lambda every: every["wordpiece", "de"], WORD),
    "dropped characters": (
        lambda every: normalised(every["byte-level", "de"], normalizers.Replace("\u200b", "")), "\u200b" * 5000),
    "dropped indentation": (
        lambda every: normalised(every["byte-level", "de"], normalizers.Strip()), " " * 5000 + "das"),
    "beginning of a long document": (
        lambda every: normalised(every["byte-level", "de"], normalizers.Lowercase()), "A" + " das" * 30_000),
}  # fmt: skip


@pytest.mark.parametrize("loss", LOSSES)
def test_one_long_document_that_is_lost_among_many_short_ones_counts_by_its_bytes(tmp_path, tokenizers, loss):
    make, document = LOSSES[loss]
    folder = make_model(tmp_path / "m", make(tokenizers), width=16)
    lines = ["das"] * 240
    assert evaluate(folder, [written(tmp_path, *lines)]).comparable
    found = evaluate(folder, [written(tmp_path, *lines, document)])
    size = len(document.encode()) + 1
    assert found.counts.lossy_share == pytest.approx(1 / 241)
    assert found.to_json()["lossy_byte_share"] == pytest.approx(size / (240 * 4 + size))
    assert "lossy_tokenizer" in codes(found)


def stripped(tokenizer, *, left, right):
    return normalised(tokenizer, normalizers.Strip(left=left, right=right))


@pytest.mark.parametrize(
    ("line", "left", "right", "lossy"),
    [(" das Haus", True, False, 0), ("  das Haus", True, False, 1), ("das Haus ", False, True, 1),
     ("\tdas Haus", True, False, 1), ("das Haus ", True, False, 0)],
)  # fmt: skip
def test_only_one_blank_at_the_beginning_may_be_lost(tmp_path, tokenizers, line, left, right, lossy):
    folder = make_model(tmp_path / "m", stripped(tokenizers["byte-level", "de"], left=left, right=right))
    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs.decode(theirs(line).input_ids) in (line, line.strip(), line.lstrip(), line.rstrip())
    _, counts = token_stream(Texts.open([written(tmp_path, line)]), Vocabulary.open(folder), checks_round_trip=True)
    assert counts.lossy == lossy


def test_unknown_text_counts_where_the_configuration_names_another_token(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["wordpiece", "de"], "gpt2", width=16)
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"unk_token": "[PAD]"}), encoding="utf-8")
    vocabulary, line = Vocabulary.open(folder), "das 漢字 漢字 漢字"
    theirs = AutoTokenizer.from_pretrained(folder)
    share = theirs(line, add_special_tokens=False).tokens().count("[UNK]") / (len(vocabulary.encode(line)) + 1)
    assert share > 0.1
    counts = evaluate(folder, [written(tmp_path, line)]).counts
    assert counts.unknown_share == pytest.approx(share)
    on_text = TokenizerFigures.of(vocabulary, line)
    assert on_text.unknown_share == pytest.approx(counts.unknown / len(vocabulary.encode(line)))


def test_end_of_text_is_not_unknown_text(folders):
    opened = Vocabulary.open(folders["byte-level", "de"])
    vocabulary = replace(opened, roles=opened.roles | {"unk": opened.roles["eos"]})
    assert TokenizerFigures.of(vocabulary, f"das Haus{END}").unknown_share == 0.0


def test_text_with_dropout_in_its_tokenizer_scores_the_same_twice(tmp_path, tokenizers, long_text):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    dropout(folder)
    first, second = (evaluate(folder, [long_text]) for _ in range(2))
    assert first == second
    assert first.comparable


def literal(tmp_path):
    """Three documents, two of them with literal control strings, one of these closed by one."""
    return written(tmp_path, f"Ein Satz.{END}Noch einer.{END}", "Das Haus ist größer.", f"a{END}b")


def test_literal_control_strings_are_counted_as_autotokenizer_reads_them(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    path = literal(tmp_path)
    theirs = AutoTokenizer.from_pretrained(folder)
    lines = path.read_text(encoding="utf-8").splitlines()
    read = [theirs(line, add_special_tokens=False).input_ids for line in lines]
    found = evaluate(folder, [path])
    counts, eos = found.counts, theirs.eos_token_id
    assert counts.control == {END: sum(ids.count(eos) for ids in read)} == {END: 3}
    assert counts.control_documents == sum(eos in ids for ids in read) == 2
    assert counts.tokens == sum(len(ids) + 1 for ids in read)
    assert counts.bytes == len(path.read_bytes()) - 3 * len(END)
    assert codes(found) == ["control_strings"]
    assert any("--control-strings separator" in told and f"{END} (3)" in told for told in found.warnings)


def test_control_strings_are_read_as_text_on_request(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    path, vocabulary = literal(tmp_path), Vocabulary.open(folder)
    theirs = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    expected = []
    for line in path.read_text(encoding="utf-8").splitlines():
        expected += [*theirs(line, add_special_tokens=False).input_ids, theirs.eos_token_id]
    stream, counts = token_stream(Texts.open([path]), vocabulary, "text")
    assert stream.tolist() == expected
    assert stream.tolist().count(theirs.eos_token_id) == 3  # the ends of the documents alone
    assert (counts.control, counts.warnings) == ({}, [])
    assert counts.bytes == len(path.read_bytes())


def test_control_strings_end_documents_on_request(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    parts = ["Ein Satz.", "Noch einer.", "Das Haus ist größer.", "a", "b"]
    vocabulary = Vocabulary.open(folder)
    expected = token_stream(Texts.open([written(tmp_path, *parts, name="parts.txt")]), vocabulary)
    found = token_stream(Texts.open([literal(tmp_path)]), vocabulary, "separator")
    assert np.array_equal(found[0], expected[0])
    assert found[1] == expected[1]
    streamed = StreamedBlocks(Texts.open([literal(tmp_path)]), vocabulary, 8, 1, control_strings="separator")
    assert np.array_equal(streamed[0]["input_ids"], expected[0][:8])
    dataset, _ = packed_blocks(Texts.open([literal(tmp_path)]), vocabulary, 8, tmp_path, control_strings="separator")
    assert np.array_equal(dataset[0]["input_ids"], expected[0][:8])


def test_only_roles_of_separators_end_documents(tmp_path, folders):
    vocabulary = Vocabulary.open(folders["wordpiece", "de"])
    texts = Texts.open([written(tmp_path, "ein [SEP] zwei [PAD] drei [CLS] vier")])
    assert list(as_read(texts, vocabulary, "separator")) == ["ein ", " zwei [PAD] drei [CLS] vier"]
    _, counts = token_stream(texts, vocabulary, "separator")
    assert counts.control == {"[PAD]": 1, "[CLS]": 1}


def test_unknown_words_are_no_control_strings(tmp_path, folders):
    vocabulary = Vocabulary.open(folders["wordpiece", "de"])
    _, counts = token_stream(Texts.open([written(tmp_path, "漢字 [UNK] 漢字", "漢字")]), vocabulary)
    assert counts.unknown == 4
    assert (counts.control, counts.control_documents) == ({"[UNK]": 1}, 1)


def test_replacement_characters_are_counted_and_warned_of(tmp_path, tokenizers, texts):
    path = written(tmp_path, "Gr\ufffd\ufffde", "Das Haus ist größer.", "M\ufffdhle")
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    found = result_of("evaluate", folder, "--text", path)
    assert found["replacement_characters"] == 3
    (told,) = plan_of(train_options((folder, None), (texts[0], path)), folder).warnings
    assert told.startswith("held-out text: 2 of 3 documents contain U+FFFD (3 times)")


def test_plan_warns_of_literal_control_strings_and_finds_leaks_in_spite_of_them(tmp_path, pair, texts):
    held_out = written(tmp_path, f"{GERMAN[0]}{END}", name="valid.txt")
    warnings = plan_of(train_options(pair, (texts[0], held_out)), pair[0]).warnings
    assert any("held-out text: 1 of 1 documents contain strings of special tokens" in told for told in warnings)
    assert any("1 of 1 held-out lines stand in the training text too" in told for told in warnings)
    read_as_text = plan_of(train_options(pair, (texts[0], held_out), control_strings="text"), pair[0]).warnings
    assert not any("special tokens" in told for told in read_as_text)


@pytest.mark.parametrize(("damage", "named"), [("nan row", "row 70"), ("nan body", "up_proj")])
def test_score_that_is_not_finite_fails_by_naming_the_weights(tmp_path, tokenizers, texts, damage, named):
    folder = damaged_model(tmp_path / "m", tokenizers["byte-level", "de"], damage, tied=True)
    line = refused("evaluate", folder, "--text", texts[1], code=1)
    assert named in line
    assert "NaN or infinity" in line
    found = evaluate(folder, [texts[1]]).to_json()
    assert (found["loss"], found["bits_per_byte"], found["comparable"]) == (None, None, False)
    assert found["not_comparable"][-1]["code"] == "non_finite"
    assert named in found["not_comparable"][-1]["reason"]


def test_score_that_overflows_says_so(tmp_path, tokenizers, texts):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"], tied=False)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.lm_head.weight.mul_(1e38)
        model.model.norm.weight.mul_(1e38)
    model.save_pretrained(folder)
    assert "the computation overflows in float32" in refused("evaluate", folder, "--text", texts[1], code=1)


def test_figures_that_are_null_are_never_called_comparable():
    for loss in (1000.0, math.nan, math.inf):
        found = EvaluationResult(loss, TextCounts(1, 10, 10, 0), 10).to_json()
        assert found["perplexity"] is None
        assert (found["comparable"], [each["code"] for each in found["not_comparable"]]) == (False, ["non_finite"])


def test_run_on_weights_that_are_not_finite_fails_before_its_first_step(workspace, tmp_path, tokenizers, texts):
    folder = damaged_model(tmp_path / "m", tokenizers["byte-level", "de"], "nan row")
    with pytest.raises(InputError, match="the weights of the model m hold NaN or infinity in row 70"):
        train_here(workspace, train_options((folder, None), texts, max_steps=2))
    (job,) = [path for path in workspace.jobs.iterdir() if (path / "spec.json").is_file()]
    assert not (job / "metrics.jsonl").exists()


def test_teacher_whose_weights_are_not_finite_is_refused(workspace, tmp_path, tokenizers, texts):
    model = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    teacher = damaged_model(tmp_path / "t", tokenizers["byte-level", "de"], "nan body")
    with pytest.raises(InputError, match=r"the weights of the teacher t hold NaN or infinity in .*up_proj"):
        train_here(workspace, train_options((model, None), texts, max_steps=2, teacher=str(teacher)))


def test_weights_that_are_finite_pass(pair):
    assert refuse_non_finite(AutoModelForCausalLM.from_pretrained(pair[0]), "it", Vocabulary.open(pair[0])) is None


def test_plan_leaves_out_added_tokens_beyond_the_matrix_and_refuses_ordinary_ones(tmp_path, tokenizers, texts):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    added_in_json(folder, "<image>")
    (told,) = plan_of(train_options((folder, None), texts), folder).warnings
    assert "'<image>'" in told
    taught = plan_of(train_options((folder, None), texts, teacher=str(folder)), folder)
    assert taught.teacher == str(folder)
    small = make_model(tmp_path / "s", tokenizers["byte-level", "de"], rows=50)
    with pytest.raises(InputError, match="has 50 embedding rows"):
        plan_of(train_options((small, None), texts), small)


def test_plan_counts_the_text_of_blocks_that_begin_with_a_token(gemma_like, long_text, texts):
    options = train_options((gemma_like, None), (long_text, texts[1]), block_length=16, batch_tokens=32)
    found, other = plan_of(options, gemma_like), plan_of(replace(options, begin="first"), gemma_like)
    assert (found.begin, other.begin) == (EVERY, FIRST)
    assert found.epochs == pytest.approx(found.steps * 2 * 15 / found.text_tokens)
    assert found.steps == math.ceil(4 * found.text_tokens / 30)
    assert other.steps == math.ceil(4 * found.text_tokens / 32)
    arguments = arguments_of(replace(options, begin="first", control_strings="text"))
    assert " --begin first --control-strings text " in " ".join(arguments)
    for name in ("begin", "control_strings"):
        with pytest.raises(InputError, match="is unknown; use one of"):
            replace(options, **{name: "magic"})


@pytest.mark.process
def test_run_is_scored_as_clp_evaluate_scores_and_remembers_how(workspace, gemma_like, long_text, tmp_path):
    held_out = written(tmp_path, *GERMAN[:3], f"Literal {END} darin", name="valid.txt")
    options = train_options((gemma_like, None), (long_text, held_out), max_steps=2, block_length=16, batch_tokens=32)
    job = train_here(workspace, options)
    found = evaluate(gemma_like, [held_out])
    first = next(line for line in job.metrics() if "bits_per_byte" in line)
    assert first["bits_per_byte"] == pytest.approx(found.bits_per_byte, rel=1e-6)
    curve = curve_of_run(job, metrics_of_run(job))
    assert (curve.facts[BEGIN], curve.facts[BYTES]) == (EVERY, found.counts.bytes)
    assert [each["code"] for each in curve.not_comparable] == ["control_strings"]
    assert any(f"{END} (1)" in told for told in job.warnings)
    facts = facts_of_run(job, 2)
    card = Card("x", None, [facts]).text()
    assert "neither can bits per byte here" in card
    assert "bytes of the text are strings of special tokens" in card
    assert "type: bits_per_byte" not in card
    assert "type: perplexity" in card
    (job.path / "scoring.json").unlink()  # as in runs that were made before it was written
    old = curve_of_run(job, metrics_of_run(job))
    assert (old.facts[BEGIN], old.not_comparable) == (EVERY, [])


def scored(name, **facts):
    points = {"bits_per_byte": np.array([[0, 0, 0, 0, 3.0], [1, 100, 400, 1, 2.0]])}
    same = {"evaluation text": "e" * 64, "tokens a step": 100, TOKENIZER: "t" * 64, "unknown share": 0.0}
    return Curve(name, name, points, same | facts)


def verdict(one, other):
    return Comparison.of(one, [other], "bits_per_byte").savings[0]


def test_runs_that_begin_windows_in_other_ways_are_not_compared():
    every = scored("every", **{BEGIN: EVERY})
    old = scored("old", **{BEGIN: FIRST})
    assert "begin-of-text token differs (every window against first)" in verdict(every, old).verdict
    assert verdict(every, scored("same", **{BEGIN: EVERY})).obstacles == ()
    own_way = verdict(every, scored("own", **{BEGIN: FIRST, TOKENIZER: "u" * 64}))
    assert own_way.obstacles == ()
    assert own_way.cautions == ("begin-of-text token: every window against first",)


def test_runs_whose_bytes_differ_are_not_compared():
    assert "bytes of the evaluation text differs (90 against 100)" in (
        verdict(scored("a", **{BYTES: 90}), scored("b", **{BYTES: 100})).verdict
    )


def test_reasons_hinder_a_comparison_across_tokenizers_and_are_told_within_one():
    reason = {"code": "lossy_tokenizer", "reason": "all of it is changed"}
    lossy = scored("lossy", **{NOT_COMPARABLE: [reason]})
    assert verdict(scored("base", **{TOKENIZER: "u" * 64}), lossy).obstacles == ("all of it is changed (lossy)",)
    within = verdict(scored("base"), lossy)
    assert within.obstacles == ()
    assert within.cautions == ("lossy: all of it is changed",)
    rows = Comparison.of(scored("base"), [lossy], "bits_per_byte").rows()
    assert [row["not_comparable"] for row in rows] == [[], [reason]]


def test_zero_step_of_a_transfer_carries_the_reasons(tmp_path, pair):
    output = tmp_path / "target"
    arguments = ["--source", pair[0], "--helper", pair[1], "--output", output, "--method", "mean"]
    report = result_of("transfer", *arguments, "--eval-text", literal(tmp_path))
    assert report["zero_step"]["comparable"] is False
    assert [each["code"] for each in report["zero_step"]["not_comparable"]] == ["control_strings"]
    card = (output / "README.md").read_text(encoding="utf-8")
    assert "not comparable across tokenizers: control_strings" in card


def test_evaluation_prints_codes_and_warnings(tmp_path, pair):
    done = clp("evaluate", pair[0], "--text", literal(tmp_path))
    assert done.returncode == 0
    assert "control_strings" in done.stdout
    assert "not comparable with other tokenizers'" in done.stderr


def test_options_that_an_older_run_lacks_do_not_differ_from_what_it_did():
    plans = {"block_length": 8, "step_blocks": 2}
    old = settings_told({"arguments": {"seed": 1}, "plan": plans})
    arguments = {"seed": 1, "begin": "auto", "control_strings": "tokens"}
    new = settings_told({"arguments": arguments, "plan": plans | {"begin": FIRST}})
    assert old == new


@pytest.mark.parametrize(("damage", "named"), [("nan row", "row 70"), ("nan body", "up_proj")])
def test_sample_of_a_model_that_is_not_finite_is_refused_by_naming_the_weights(tmp_path, tokenizers, damage, named):
    folder = damaged_model(tmp_path / "m", tokenizers["byte-level", "de"], damage, tied=True)
    with pytest.raises(InputError, match=named):
        sample(folder, "Der")


def test_run_whose_weights_are_lost_ends_as_diverged_before_a_sample_is_drawn(pair):
    model = AutoModelForCausalLM.from_pretrained(pair[0])
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    guard = DivergenceGuard(SimpleNamespace(checkpoints=list))
    samples = SampleWriter(SimpleNamespace(), Vocabulary.open(pair[0]), ("Der",), guard)
    with pytest.raises(DivergedError, match="not finite at step 7; nothing is kept; a smaller learning rate"):
        samples.write(model, 7, sharded=False)


def test_text_of_nothing_but_separators_is_refused(tmp_path, pair):
    path = written(tmp_path, END, f"{END}{END}")
    line = refused("evaluate", pair[0], "--text", path, "--control-strings", "separator")
    assert "nothing but control strings" in line


def test_zero_step_of_a_model_that_overflows_is_not_called_comparable(tmp_path, tokenizers, pair, texts):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"])
    model = AutoModelForCausalLM.from_pretrained(source)
    with torch.no_grad():
        model.model.layers[0].mlp.up_proj.weight.mul_(1e36)
        model.model.layers[0].mlp.down_proj.weight.mul_(1e36)
    model.save_pretrained(source)
    arguments = ["--source", source, "--helper", pair[1], "--output", tmp_path / "target", "--method", "mean"]
    found = result_of("transfer", *arguments, "--check", "files", "--eval-text", texts[1])["zero_step"]
    assert (found["bits_per_byte"], found["comparable"], found["sample"]) == (None, False, "")
    assert found["not_comparable"][-1]["code"] == "non_finite"
    assert "the computation overflows" in found["not_comparable"][-1]["reason"]


def test_sample_begins_with_the_token_of_the_template(tmp_path, tokenizers):
    tokenizer = tokenizers["wordpiece", "de"]
    folder = make_model(tmp_path / "m", tokenizer)
    with pytest.raises(InputError, match="give a prompt"):
        sample(folder)
    start = tokenizer.convert_tokens_to_ids("[CLS]")
    description = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    description["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": [start], "tokens": ["[CLS]"]}},
    }
    (folder / "tokenizer.json").write_text(json.dumps(description), encoding="utf-8")
    assert AutoTokenizer.from_pretrained(folder)("").input_ids == [start]
    assert sample(folder)


def load_teacher(folder):
    return Distillation.open(folder, Vocabulary.open(folder), torch.device("cpu"))


LOADERS = [load_model, load_for_training, load_teacher]


def change_weights(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("load", LOADERS)
def test_model_that_lacks_a_weight_is_refused_by_naming_it(tmp_path, tokenizers, load):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    load(folder)
    lost = "model.layers.0.mlp.up_proj.weight"
    change_weights(folder, lambda weights: {name: value for name, value in weights.items() if name != lost})
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {lost}
    with pytest.raises(InputError, match=rf"not a full causal language model: .* has no {lost} \(1 of"):
        load(folder)


@pytest.mark.parametrize("load", LOADERS)
def test_base_model_without_its_head_is_refused_where_nothing_is_tied(tmp_path, tokenizers, load):
    tokenizer = tokenizers["byte-level", "de"]
    for name, tied in (("tied", True), ("untied", False)):
        folder = make_model(tmp_path / name, tokenizer, tied=tied)
        AutoModel.from_pretrained(folder).save_pretrained(folder)
    load(tmp_path / "tied")
    with pytest.raises(InputError, match=r"has no lm_head\.weight .*save the whole model"):
        load(tmp_path / "untied")


def test_weights_under_a_prefix_or_of_another_shape_are_refused(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"])
    norm = "model.norm.weight"
    change_weights(folder, lambda weights: weights | {norm: torch.ones(7)})
    with pytest.raises(InputError, match=rf"has in another shape {norm}"):
        load_model(folder)
    change_weights(folder, lambda weights: {f"module.{name}": value for name, value in weights.items()})
    with pytest.raises(InputError, match=r"has no .*, \.\.\. \(\d+ of .*prefix such as module\."):
        load_model(folder)


def bert(folder, tokenizer, cls=BertLMHeadModel, **more):
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, **more,
    )  # fmt: skip
    cls(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("cls", [BertLMHeadModel, BertForMaskedLM])
def test_model_that_sees_the_future_is_not_scored(tmp_path, tokenizers, texts, cls):
    folder = bert(tmp_path / "m", tokenizers["byte-level", "de"], cls)
    with pytest.raises(InputError, match=r"attends to tokens after .*BertLMHeadModel is not a causal .*is_decoder"):
        evaluate(folder, [texts[1]])
    decoder = bert(tmp_path / "decoder", tokenizers["byte-level", "de"], is_decoder=True)
    assert evaluate(decoder, [texts[1]]).comparable


def test_causal_models_pass_in_half_precision_and_with_few_positions(tmp_path, tokenizers):
    for shape in ("llama", "gpt2"):
        model = load_model(make_model(tmp_path / shape, tokenizers["byte-level", "de"], shape))
        refuse_non_causal(model.bfloat16(), shape)
    model = load_model(bert(tmp_path / "m", tokenizers["byte-level", "de"]))
    refuse_non_causal(model, "m", positions=2)
    with pytest.raises(InputError, match="attends to tokens after"):
        refuse_non_causal(model.train(), "m", positions=3)
    assert model.training


def test_run_and_teacher_that_see_the_future_fail_before_the_first_step(workspace, tmp_path, tokenizers, texts):
    tokenizer = tokenizers["byte-level", "de"]
    folder, model = bert(tmp_path / "b", tokenizer), make_model(tmp_path / "m", tokenizer)
    with pytest.raises(InputError, match="the model b attends to tokens after"):
        train_here(workspace, train_options((folder, None), texts, max_steps=2))
    with pytest.raises(InputError, match="the teacher b attends to tokens after"):
        train_here(workspace, train_options((model, None), texts, max_steps=2, teacher=str(folder)))
    assert not list(workspace.jobs.glob("*/metrics.jsonl"))
