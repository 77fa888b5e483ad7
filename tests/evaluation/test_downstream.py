"""Cloze questions and word pairs, against slow plain versions; see docs/downstream.md."""

import itertools
import json
import lzma
import math
import shutil
from collections import Counter
from statistics import NormalDist
from zlib import crc32

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support import commands
from support.tiny_models import FAMILIES, GERMAN, make_model
from transformers import AutoModelForCausalLM

from clp_core.checkpoints.checkpoint import Checkpoint
from clp_core.errors import InputError
from clp_core.evaluation import cloze, word_translation
from clp_core.evaluation.bits_per_byte import load_model
from clp_core.evaluation.cloze import (
    Question,
    answer_questions,
    count_ties,
    hash_of,
    log_likelihoods,
    make_questions,
    proportion_right,
)
from clp_core.evaluation.downstream import DownstreamOptions, Proportion, measure
from clp_core.evaluation.word_translation import Ranks, ranks_of, read_pairs, retrieve, word_tokens
from clp_core.evaluation.words import encode_words, sentences_of, words_of
from clp_core.files.artifacts import PROVENANCE_FILE
from clp_core.tokenization.vocabulary import Vocabulary


def made_text(seed=0, n=300):
    """Return documents of made words, some in capitals, frequencies as in real text."""
    rng = np.random.default_rng(seed)
    parts = ["ba", "ke", "lo", "mi", "nu", "ra", "so", "ti", "ve", "zu"]
    words = list(dict.fromkeys("".join(rng.choice(parts, rng.integers(2, 4))) for _ in range(300)))
    words = [word.capitalize() if i % 3 == 0 else word for i, word in enumerate(words)]
    weights = 1 / np.arange(1, len(words) + 1)
    drawn = [rng.choice(words, rng.integers(8, 15), p=weights / weights.sum()) for _ in range(n)]
    return ["Satz " + " ".join(sentence) + " ende." for sentence in drawn]


TEXT = made_text()


NORMAL_95 = NormalDist().inv_cdf(0.975)


@pytest.mark.parametrize(("right", "n"), [(0, 7), (3, 7), (7, 7), (389, 500)])
def test_interval_ends_where_the_share_is_as_unlikely_as_wilson_allows(right, n):
    share = Proportion(right, n)
    for end in share.interval:
        if 0 < end < 1:
            assert abs(end - right / n) == pytest.approx(NORMAL_95 * math.sqrt(end * (1 - end) / n))
    assert share.interval[0] < share.interval[1]
    assert share.interval[0] <= share.value <= share.interval[1]
    assert (share.interval[0] == 0) == (right == 0)


def test_interval_is_that_of_wilsons_closed_form():
    for n in (1, 7, 500):
        for right in {0, 1, n // 3, n}:
            middle, half = right + NORMAL_95**2 / 2, NORMAL_95 * math.sqrt(right * (n - right) / n + NORMAL_95**2 / 4)
            expected = [(middle + sign * half) / (n + NORMAL_95**2) for sign in (-1, 1)]
            np.testing.assert_allclose(Proportion(right, n).interval, expected, atol=1e-15)
    assert Proportion(0, 0).interval == (0, 1)


def test_sentences_end_after_words_not_after_abbreviations():
    text = "Das ist z. B. ein Satz. „Noch einer?“ Ja! Und der Rest von 3. Rang"
    assert list(sentences_of(text)) == ["Das ist z. B. ein Satz.", "„Noch einer?“", "Ja!", "Und der Rest von 3. Rang"]


def test_words_are_letters_without_the_marks_around_them():
    sentence = "Die „Häuser“, E-Mail-Listen (siehe /var/log) kosten 17 € – bzw. कीमत है।"
    found = words_of(sentence)
    assert [word and word.text for word in found] == [
        "Die", "Häuser", "E-Mail-Listen", "siehe", None, "kosten", None, None, None, "bzw", "कीमत", "है",
    ]  # fmt: skip
    assert all(sentence[word.start : word.stop] == word.text for word in found if word)


def test_questions_follow_their_rules():
    questions = make_questions(TEXT, 100, 3)
    counts = Counter(word for document in TEXT for word in document.rstrip(".").split())
    assert len(questions) == 100
    for question in questions:
        true = question.sentences[question.answer]
        assert true in TEXT
        assert question.before.strip()
        assert question.after.strip(" .")
        words = true.rstrip(".").lower().split()
        lower = [word.lower() for word in question.candidates]
        assert len(set(lower)) == 4
        assert [words.count(word) for word in lower] == [i == question.answer for i in range(4)]
        assert len({word[0].isupper() for word in question.candidates}) == 1
        looks = [(len(word), counts[word]) for word in question.candidates]
        # Each is within the rule's bounds of one of them, the first that was drawn.
        assert any(all(abs(a - c) <= 2 and b <= 2 * d <= 4 * b for c, d in looks) for a, b in looks)
    assert len({question.sentences[question.answer] for question in questions}) == 100


def test_questions_depend_on_text_and_seed_and_smaller_numbers_are_the_first_of_them():
    questions = make_questions(TEXT, 60, 3)
    assert make_questions(iter(TEXT), 60, 3) == questions
    assert make_questions(TEXT, 20, 3) == questions[:20]
    assert hash_of(make_questions(TEXT, 60, 4)) != hash_of(questions) != hash_of(questions[:20])


@pytest.mark.parametrize(
    "score", [len, lambda word: COUNTS[word], lambda word: -COUNTS[word], lambda word: crc32(word.encode()), str.lower]
)
def test_no_score_of_the_words_alone_beats_chance(score):
    right = total = 0
    for seed in range(6):
        for question in make_questions(TEXT, 150, seed):
            scores = [score(word) for word in question.candidates]
            best = [i for i, value in enumerate(scores) if value == max(scores)]
            right += (question.answer in best) / len(best)
            total += 1
    assert total > 700
    assert abs(right / total - 0.25) < 3.5 * math.sqrt(0.25 * 0.75 / total)


COUNTS = Counter(word for document in TEXT for word in document.rstrip(".").split())


def test_repeated_sentences_count_once():
    assert make_questions(TEXT * 3, 60, 3) == make_questions(TEXT, 60, 3)


def test_no_more_sentences_are_read_than_needed(monkeypatch):
    usable = [document for document in TEXT if cloze.Sentence.read(document)]
    assert len(usable) > 200
    monkeypatch.setattr(cloze, "MOST_SENTENCES", 200)
    read = []

    def documents():
        for document in usable:
            read.append(document)
            yield document

    questions = make_questions(documents(), 20, 3)
    assert len(read) == 200
    assert questions == make_questions(usable[:200], 20, 3) != make_questions(usable[:199], 20, 3)


@pytest.mark.parametrize("text", [["zu kurz"], ["wort " * 60], ["der eine Satz hier ist ganz allein."], ["漢字" * 40]])
def test_text_without_questions_is_refused(text):
    with pytest.raises(InputError, match=r"no question .* \d different sentences"):
        make_questions(text, 10, 0)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_word_is_encoded_as_after_a_blank(tokenizers, folders, family):
    vocabulary = Vocabulary.open(folders[family, "de"])
    for word, ids in zip(["Hund", "springt"], encode_words(vocabulary, ["Hund", "springt"]), strict=True):
        assert b"".join(vocabulary.token_bytes[i] for i in ids) == b" " + word.encode()
        assert vocabulary.encode(f"der {word}")[-len(ids) :] == ids


def plain_log_likelihood(model, ids):
    total = 0.0
    for i in range(1, len(ids)):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids[:i]])).logits[0, -1].double()
        total += float(torch.log_softmax(logits, -1)[ids[i]])
    return total


@pytest.mark.parametrize("batch_bytes", [1, 1 << 28])
@pytest.mark.parametrize("which", [0, 1])
def test_likelihood_of_a_sequence_is_the_sum_token_by_token(pair, monkeypatch, batch_bytes, which):
    monkeypatch.setattr(cloze, "LOGITS_BYTES", batch_bytes)
    model = load_model(pair[which])
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 300, n).tolist() for n in (5, 12, 2, 1, 9, 30)]
    found = log_likelihoods(model, sequences, "scoring")
    np.testing.assert_allclose(found, [plain_log_likelihood(model, ids) for ids in sequences], rtol=1e-5)


def test_of_words_that_tie_the_first_is_taken_and_the_tie_counted():
    scores = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 0, 0], [0, 1, 2, 0], [3, 1, 1, 0]])
    assert proportion_right(scores, np.array([0, 0, 1, 2, 1])) == Proportion(3, 5)
    assert count_ties(scores) == 2


def test_model_that_tells_no_words_apart_answers_by_chance(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"], "llama")
    set_rows(folder, lambda weight: weight.copy_(weight[7].clone().expand_as(weight)))
    # Words of one token each, as longer ones would be less likely.
    words = [
        word for word in word_tokens(Vocabulary.open(folder), set(" ".join(GERMAN).split()), 10**6) if word.isalpha()
    ]
    rng = np.random.default_rng(0)
    chosen = [sorted(rng.choice(words, 4, replace=False).tolist()) for _ in range(200)]
    questions = [Question("Der ", " läuft.", tuple(four), int(rng.integers(4))) for four in chosen]
    found = answer_questions(load_model(folder), Vocabulary.open(folder), questions, None)
    assert found.tied == 200
    assert found.score.interval[0] < 0.25 < found.score.interval[1]
    assert "in 200 cloze questions the best words score exactly alike" in found.warnings[0]


def test_answers_are_those_of_plain_scores(pair):
    model, vocabulary = load_model(pair[0]), Vocabulary.open(pair[0])
    start = vocabulary.roles["bos"]
    questions = make_questions(TEXT, 6, 3)
    found = answer_questions(model, vocabulary, questions, None)
    right = [0, 0]
    for question in questions:
        inside = [[start, *vocabulary.encode(sentence)] for sentence in question.sentences]
        alone = [[start, *vocabulary.encode(" " + word)] for word in question.candidates]
        for i, sequences in enumerate((inside, alone)):
            right[i] += np.argmax([plain_log_likelihood(model, ids) for ids in sequences]) == question.answer
    assert (found.score, found.context_free) == (Proportion(right[0], 6), Proportion(right[1], 6))


def test_questions_too_long_or_unknown_are_left_out_and_counted(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["wordpiece", "de"], "gpt2", width=16)
    model, vocabulary = load_model(folder), Vocabulary.open(folder)
    words = ("Fuchs", "Haus", "Hund", "Wald")
    short, unknown = Question("Der ", " läuft.", words, 0), Question("Der ", " 漢字.", words, 1)
    longest = max(len(vocabulary.encode(sentence)) for sentence in short.sentences)
    long = Question("Der ", " läuft in den Wald und in das Haus.", words, 2)
    found = answer_questions(model, vocabulary, [short, unknown, long], longest)
    assert (found.score.n, found.context_free.n, found.too_long, found.unknown) == (1, 1, 1, 1)
    assert "2 cloze questions were left out" in found.warnings[0]
    assert found.questions == hash_of([short, unknown, long])
    with pytest.raises(InputError, match="none of the 3"):
        answer_questions(model, vocabulary, [short, unknown, long], longest - 1)


def test_without_a_start_token_there_is_no_score_without_the_sentence(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"], "llama")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    vocabulary = Vocabulary.open(folder)
    assert not vocabulary.roles.keys() & {"bos", "cls", "eos"}
    found = answer_questions(load_model(folder), vocabulary, make_questions(TEXT, 5, 0), None)
    assert found.score.n == 5
    assert found.context_free is None
    assert found.to_json()["context_free"] is None


def test_all_models_are_asked_the_same_questions(tmp_path, tokenizers, pair):
    (tmp_path / "valid.txt").write_text("\n".join(TEXT))
    with lzma.open(tmp_path / "valid.txt.xz", "wt") as file:
        file.write("\n".join(TEXT))
    other = make_model(tmp_path / "m", tokenizers["sentencepiece-bpe", "de"], "llama")
    options = [(pair[0], "valid.txt"), (pair[1], "valid.txt"), (other, "valid.txt.xz")]
    found = [measure(DownstreamOptions(str(m), (str(tmp_path / text),), questions=8)).cloze for m, text in options]
    assert len({score.questions for score in found}) == 1
    assert all(score.score.n + score.too_long + score.unknown == 8 for score in found)


def test_ranks_are_those_of_a_full_sort(monkeypatch):
    monkeypatch.setattr(word_translation, "NEAREST", 10)
    rng = np.random.default_rng(1)
    queries, candidates = rng.standard_normal((40, 6)), rng.standard_normal((30, 6))
    answers = [np.sort(rng.choice(30, rng.integers(1, 4), replace=False)) for _ in range(40)]
    ranks = ranks_of(queries, candidates, answers)
    for query, right, rank in zip(queries, answers, ranks, strict=True):
        order = np.argsort(-(candidates @ query) / np.linalg.norm(candidates, axis=1))
        first = 1 + min(int(np.flatnonzero(order == i)[0]) for i in right)
        assert rank == (first if first <= 10 else 0)
    found = Ranks.of(ranks)
    assert found.precision_at_1 == np.mean([rank == 1 for rank in ranks])
    assert found.precision_at_5 == np.mean([0 < rank <= 5 for rank in ranks])
    assert found.mean_reciprocal_rank == pytest.approx(np.mean([1 / rank if rank else 0 for rank in ranks]))
    assert 0 in ranks


@pytest.mark.parametrize(("n", "nearest"), [(6, 100), (6, 5), (3, 100)])
def test_chance_is_the_mean_over_all_orders(monkeypatch, n, nearest):
    monkeypatch.setattr(word_translation, "NEAREST", nearest)
    right = np.array([1, 2, n])
    expected = []
    for m in right:
        ranks = [1 + min(order.index(i) for i in range(m)) for order in itertools.permutations(range(n))]
        expected.append(Ranks.of(np.array([rank if rank <= nearest else 0 for rank in ranks])))
    found = Ranks.by_chance(right, n)
    for name in ("precision_at_1", "precision_at_5", "mean_reciprocal_rank"):
        assert getattr(found, name) == pytest.approx(np.mean([getattr(one, name) for one in expected]))


def set_rows(folder, change):
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        change(model.get_input_embeddings().weight)
    model.save_pretrained(folder)


@pytest.fixture
def planted(tmp_path, tokenizers):
    """A source, a target some of whose rows are the source's of other words, and pairs of these words."""
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], "llama", seed=1)
    target = make_model(tmp_path / "target", tokenizers["byte-level", "de"], "llama", seed=2)
    german = word_tokens(Vocabulary.open(target), ["Hund", "Haus", "Fuchs", "Modell", "faulen", "und"], 10**6)
    english = word_tokens(Vocabulary.open(source), ["dog", "house", "fox", "model", "lazy", "and"], 10**6)
    assert len(german) >= 5
    assert len(english) >= 5
    pairs = [(a, b) for a, b in zip(german, english, strict=False)]
    rows = Checkpoint.open(source).rows("input").take(np.array(list(english.values())))

    def plant(weight):
        for (a, _), row in zip(pairs[:-1], rows, strict=False):
            weight[german[a]] = torch.from_numpy(row)
        weight += 5  # one component that all rows share, which centring takes away

    set_rows(target, plant)
    status = np.full(len(tokenizers["byte-level", "de"]), "copied", dtype=object)
    status[[german[a] for a, _ in pairs[1:]]] = "initialised"
    pq.write_table(pa.table({"status": status.tolist()}), target / PROVENANCE_FILE)
    return target, source, pairs


def test_planted_words_are_found_and_missing_tokens_counted_apart(planted):
    target, source, pairs = planted
    n = len(pairs)
    found = retrieve(Checkpoint.open(target), Checkpoint.open(source), [*pairs, ("nichtdrin", "dog")])
    assert (found.listed, found.pairs, found.candidates) == (n + 1, n, n)
    assert found.copied.first == Proportion(1, 1)
    assert found.missing.first.n == n - 1
    assert found.missing.first.right >= n - 2
    assert found.all.first == Proportion(1 + found.missing.first.right, n)
    assert found.all.chance.precision_at_1 == pytest.approx(1 / n)


def test_any_of_several_right_answers_counts(planted):
    target, source, pairs = planted
    (first, english), (second, _) = pairs[:2]
    wrong = [(second, b) for _, b in pairs[2:]]
    only = retrieve(Checkpoint.open(target), Checkpoint.open(source), [(first, english), *wrong])
    more = retrieve(Checkpoint.open(target), Checkpoint.open(source), [(first, english), (second, pairs[1][1]), *wrong])
    assert only.missing.first == Proportion(0, 1)
    assert more.missing.first == Proportion(1, 1)
    assert more.missing.chance.precision_at_1 == pytest.approx(1 - 1 / more.candidates)


def test_without_provenance_tokens_are_not_parted(planted):
    target, source, pairs = planted
    (target / PROVENANCE_FILE).unlink()
    found = retrieve(Checkpoint.open(target), Checkpoint.open(source), pairs)
    assert (found.missing, found.copied) == (None, None)
    assert found.all.first.n == len(pairs)


def test_pieces_inside_words_are_no_words(folders):
    vocabulary = Vocabulary.open(folders["byte-level", "de"])
    inside = next(
        vocabulary.tokens[i]
        for i in range(vocabulary.n_ids)
        if vocabulary.category_of(i) == "continuation" and len(vocabulary.encode(" " + vocabulary.tokens[i])) > 1
    )
    assert len(vocabulary.encode(inside)) == 1
    assert word_tokens(vocabulary, [inside, "Hund"], 10**6) == {"Hund": vocabulary.ids["ĠHund"]}
    assert word_tokens(vocabulary, ["Hund"], vocabulary.ids["ĠHund"]) == {}


def test_rows_added_after_the_transfer_are_neither_missing_nor_copied(planted):
    target, source, pairs = planted
    table = pq.read_table(target / PROVENANCE_FILE)
    last = max(Vocabulary.open(target).ids["Ġ" + a] for a, _ in pairs)
    pq.write_table(table.slice(0, last), target / PROVENANCE_FILE)
    found = retrieve(Checkpoint.open(target), Checkpoint.open(source), pairs)
    known = sum(part.first.n for part in (found.missing, found.copied) if part)
    assert known == found.all.first.n - 1


def test_models_of_different_width_are_refused(planted, pair):
    with pytest.raises(InputError, match=r"width 32, .* 16"):
        retrieve(Checkpoint.open(planted[0]), Checkpoint.open(pair[1]), planted[2])


def test_pairs_without_tokens_are_refused(planted):
    with pytest.raises(InputError, match="none of the 1"):
        retrieve(Checkpoint.open(planted[0]), Checkpoint.open(planted[1]), [("nichtdrin", "dog")])


@pytest.mark.parametrize("line", ["Hund dog", "Hund\t", "Hund\tdog\thound"])
def test_line_that_is_no_pair_is_refused(tmp_path, line):
    (tmp_path / "words.tsv").write_text(f"Haus\thouse\n{line}\n")
    with pytest.raises(InputError, match=r"words.tsv has a line 'Hund.*'"):
        read_pairs(tmp_path / "words.tsv")


def test_pairs_are_read_once_each_packed_or_not(tmp_path):
    with lzma.open(tmp_path / "words.tsv.xz", "wt", encoding="utf-8") as file:
        file.write("Haus\thouse\nTür\tdoor\r\n\nHaus\thouse\nHaus\thome\n")
    assert read_pairs(tmp_path / "words.tsv.xz") == [("Haus", "house"), ("Tür", "door"), ("Haus", "home")]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "--text FILE .* --words FILE"),
        ({"text": ("t",), "source": "s"}, "--source: only with --words"),
        ({"text": ("t",), "questions": 0}, "--questions"),
        ({"text": ("t",), "seed": -1}, "--seed"),
    ],
)
def test_options_without_sense_are_refused(given, message):
    with pytest.raises(InputError, match=message):
        DownstreamOptions("m", **given)


def test_source_is_named_by_the_target_or_the_user(planted, tmp_path):
    target, source, pairs = planted
    (tmp_path / "words.tsv").write_text("\n".join("\t".join(pair) for pair in pairs))
    options = DownstreamOptions(str(target), words=str(tmp_path / "words.tsv"))
    with pytest.raises(InputError, match="--source MODEL"):
        measure(options)
    (target / "clp_transfer.json").write_text(json.dumps({"source": str(source)}))
    named = DownstreamOptions(str(target), words=str(tmp_path / "words.tsv"), source=str(source))
    assert measure(options) == measure(named)


def clp(*arguments):
    return commands.clp("downstream", *arguments)


def test_command_measures_a_checkpoint_as_one_json_object(planted, tmp_path):
    target, source, pairs = planted
    checkpoint = shutil.copytree(target, tmp_path / "checkpoint-3")
    (tmp_path / "valid.txt").write_text("\n".join(TEXT[:60]))
    (tmp_path / "words.tsv").write_text("\n".join("\t".join(pair) for pair in pairs))
    made = ["--words", tmp_path / "words.tsv", "--source", source, "--text", tmp_path / "valid.txt"]
    done = clp(checkpoint, *made, "--questions", "100", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert set(found) == {"cloze", "retrieval"}
    assert set(found["cloze"]) >= {"n", "right", "accuracy", "interval", "chance", "context_free", "questions"}
    asked = found["cloze"]["n"] + found["cloze"]["too_long"]
    assert f"the text gives {asked} cloze questions only, 100 were asked for" in done.stderr
    assert found["retrieval"]["missing"]["tokens"] == len(pairs) - 1
    shown = clp(checkpoint, *made[:4])
    assert shown.returncode == 0, shown.stderr
    assert "by chance" in shown.stdout
    assert "Cloze" not in shown.stdout


def test_command_without_a_text_says_what_to_give(pair):
    done = clp(pair[0])
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "clp: nothing to measure; give --text FILE for cloze questions, --words FILE for retrieval\n"
