import json
import math

import numpy as np
import pytest
import torch
from support.tiny_models import make_model
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from clp_core.cli.app import app
from clp_core.data.packing import TextCounts
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.evaluation import bits_per_byte, decoding
from clp_core.evaluation.bits_per_byte import (
    SAMPLE_TOKENS,
    EvaluationResult,
    EvaluationText,
    ScoringModel,
    evaluate,
    generate,
    load_model,
    sample,
    score,
)
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.pipeline import zero_step


def test_bits_per_byte_equals_its_definition_token_by_token(pair, texts):
    folder = pair[0]
    vocabulary = Vocabulary.open(folder)
    text = EvaluationText.read(Texts.open([texts[1]]), vocabulary, 16)
    model = load_model(folder)
    found = score(model, text)
    total = 0.0
    stride = 8
    for i in range(1, len(text.ids)):  # the window that reaches token i first starts on a multiple of the stride
        start = 0 if i <= 16 else math.ceil((i - 16) / stride) * stride
        with torch.no_grad():
            logits = model(input_ids=torch.tensor(text.ids[start:i][None])).logits[0, -1].double()
        total -= float(torch.log_softmax(logits, -1)[text.ids[i]])
    n_bytes = len(texts[1].read_bytes())
    np.testing.assert_allclose(found.bits_per_byte, total / math.log(2) / n_bytes, rtol=1e-5)
    assert found.scored == len(text.ids) - 1 == found.counts.tokens
    assert found.counts.bytes == n_bytes


def test_every_token_is_scored_once():
    text = EvaluationText(np.arange(1000), TextCounts(1, 999, 999, 0), 64)
    scored = [i for start, stop, skipped in text.windows() for i in range(start + skipped, stop)]
    assert scored == list(range(999))
    assert all(stop - start <= 64 for start, stop, _ in text.windows())


def test_unknown_text_is_marked_not_comparable(tmp_path, tokenizers):
    folder = make_model(tmp_path / "m", tokenizers["wordpiece", "de"], "gpt2", width=16)
    (tmp_path / "t.txt").write_text("Das Haus\n漢字 漢字 漢字\n", encoding="utf-8")
    found = evaluate(folder, [tmp_path / "t.txt"])
    assert found.counts.unknown_share > 0.001
    assert not found.comparable
    assert "not comparable" in found.warnings[0]


def test_infinite_perplexity_becomes_null():
    found = EvaluationResult(1000.0, TextCounts(1, 10, 10, 0), 10)
    assert found.to_json()["perplexity"] is None


def test_sample_is_seeded(pair):
    assert sample(pair[0], seed=1) == sample(pair[0], seed=1)


def test_sharded_model_runs_equally_often_whatever_is_drawn(pair):
    model, vocabulary, runs = load_model(pair[1]), Vocabulary.open(pair[1]), []
    model.register_forward_pre_hook(lambda module, inputs: runs.append(1))
    with torch.no_grad():  # the end of text follows every token
        model.transformer.ln_f.weight.zero_()
        model.transformer.ln_f.bias.copy_(model.transformer.wte.weight[vocabulary.roles["eos"]] * 1e4)
    model.train()
    assert generate(model, vocabulary, "Der") == "Der"
    assert len(runs) == 1
    assert generate(model, vocabulary, "Der", synced=True) == "Der"
    assert len(runs) == 1 + SAMPLE_TOKENS
    assert model.training


def test_sample_stays_within_the_positions_of_the_model(tmp_path, tokenizers, monkeypatch):
    tokenizer = tokenizers["byte-level", "de"]
    folder = make_model(tmp_path / "m", tokenizer, "gpt2", width=16)
    model = load_model(folder)
    n = len(tokenizer("Der alte Fuchs").input_ids)
    vocabulary = Vocabulary.open(folder)
    lengths = []
    own = decoding.decode

    def decode(model, ids, sampling, max_tokens, ends):
        tokens = list(own(model, ids, sampling, max_tokens))
        lengths.append(len(ids) + len(tokens))
        return tokens

    monkeypatch.setattr(decoding, "decode", decode)
    for positions in (64, 32, n + 2):
        model.config.n_positions = positions
        model.transformer.wpe = torch.nn.Embedding(positions, 16)  # an id beyond these is an IndexError
        generate(model, vocabulary, "Der alte Fuchs")
    assert lengths == [64, 32, n + 2]
    model.config.n_positions = n + 1
    with pytest.raises(InputError, match=rf"prompt has {n + 1} tokens, the model {n + 1} positions; .* at most {n}"):
        generate(model, vocabulary, "Der alte Fuchs")


@pytest.mark.parametrize("content", [b"", b"\n\n  \n"])
def test_empty_text_is_refused(tmp_path, pair, content):
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(InputError, match="holds no text"):
        evaluate(pair[0], [tmp_path / "t.txt"])


def test_text_that_is_no_utf8_is_refused(tmp_path, pair):
    (tmp_path / "t.txt").write_bytes(b"Gr\xfc\xdfe\n")
    with pytest.raises(InputError, match="UTF-8"):
        evaluate(pair[0], [tmp_path / "t.txt"])


def test_model_with_fewer_rows_than_tokens_is_refused(tmp_path, tokenizers, texts):
    folder = make_model(tmp_path / "m", tokenizers["byte-level", "de"], "gpt2", width=16, rows=50)
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size == 50
    with pytest.raises(InputError, match="50 embedding rows"):
        evaluate(folder, [texts[1]])


@pytest.fixture
def loads(monkeypatch):
    """Folders whose weights were loaded for scores or samples, in order."""
    folders, real = [], bits_per_byte.load_model

    def load(folder, device="auto"):
        folders.append(folder)
        return real(folder, device)

    monkeypatch.setattr(bits_per_byte, "load_model", load)
    return folders


def test_score_and_sample_of_an_opened_model_load_its_weights_once(pair, texts, loads):
    opened = ScoringModel.open(pair[0])
    assert not loads
    found, text = opened.evaluate([texts[1]]), opened.sample("Der", seed=3)
    assert loads == [pair[0]]
    assert (found, text) == (evaluate(pair[0], [texts[1]]), sample(pair[0], "Der", seed=3))
    assert len(loads) == 3


def test_text_that_is_missing_is_refused_before_weights_are_loaded(pair, tmp_path, loads):
    with pytest.raises(InputError):
        ScoringModel.open(pair[0]).evaluate([tmp_path / "none.txt"])
    assert not loads


def test_score_before_training_and_the_command_load_the_weights_once(pair, texts, loads):
    zero, _ = zero_step(pair[1], str(texts[1]), "text", "cpu")
    assert zero.sample
    assert loads == [pair[1]]
    loads.clear()
    found = CliRunner().invoke(app, ["evaluate", str(pair[1]), "--text", str(texts[1]), "--sample", "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout.splitlines()[-1])["sample"] == zero.sample
    assert loads == [pair[1]]
