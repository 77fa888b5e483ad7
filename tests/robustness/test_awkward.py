"""Awkward tokenizers and texts go through everything a user does with them, and come out as transformers has them."""

import json
import math
import shutil

import pytest
import torch
from support.awkward_tokenizers import ADDS, CHANGES, awkward_helper
from support.jobs import train_here, train_options
from support.pages_run import check, open_page
from transformers import AutoModelForCausalLM, AutoTokenizer

from clp_core.evaluation.bits_per_byte import evaluate, sample
from clp_core.geometry.embedding_cache import prepare
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer

DOCUMENTS = ["Das Haus ist größer.", "Der alte Fuchs läuft.", "naïve Café 🦊"]
"""Short: all of them fit into one window of the small models."""


def bits_by_transformers(folder, documents):
    """Bits per byte as its definition reads, with AutoTokenizer and the model alone; the text must fit one window."""
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    ids = [tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id]
    for document in documents:
        encoded = tokenizer(document, add_special_tokens=False, padding=False, truncation=False)["input_ids"]
        ids += [*encoded, tokenizer.eos_token_id]
    assert len(ids) - 1 <= model.config.max_position_embeddings
    with torch.no_grad():
        scores = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
    nats = -scores.gather(1, torch.tensor(ids[1:])[:, None]).sum().item()
    return nats / math.log(2) / sum(len(document.encode()) + 1 for document in documents)


@pytest.mark.parametrize("case", CHANGES)
def test_awkward_tokenizer_goes_through_all_commands(workspace, tokenizers, pair, texts, tmp_path, case):
    helper = awkward_helper(tmp_path / "helper", case, tokenizers["byte-level", "de"])
    overlap = Overlap.of(Vocabulary.open(pair[0]), Vocabulary.open(helper))
    text = tmp_path / "valid.txt"
    text.write_text("\n".join(DOCUMENTS), encoding="utf-8")
    target = tmp_path / "target"
    report = transfer(TransferOptions(str(pair[0]), str(helper), str(target), eval_text=str(text), no_heldout=True))
    assert (report.overlap, report.missing) == (overlap.size, len(overlap.missing_ids))
    found = evaluate(target, [text])
    assert found.bits_per_byte == pytest.approx(bits_by_transformers(target, DOCUMENTS), rel=1e-5)
    assert found.bits_per_byte == pytest.approx(report.zero_step.bits_per_byte, rel=1e-9)
    assert found.comparable
    assert sample(target)
    job = train_here(workspace, train_options((target,), texts, max_steps=2, eval_every=2))
    assert job.result()["outcome"] == "finished"
    checkpoint = job.path / "checkpoints" / "checkpoint-2"
    assert json.loads((checkpoint / "config.json").read_text())["vocab_size"] == len(
        AutoTokenizer.from_pretrained(checkpoint)
    )
    assert evaluate(checkpoint, [texts[1]]).loss == pytest.approx(job.result()["eval_loss"], rel=1e-5)


@pytest.mark.parametrize("case", CHANGES)
def test_awkward_tokenizer_goes_through_the_pages(workspace, tokenizers, pair, tmp_path, case):
    source = shutil.copytree(pair[0], workspace.models / "source")
    helper = awkward_helper(workspace.models / "helper", case, tokenizers["byte-level", "de"])
    for folder in (source, helper):
        prepare(folder, workspace.cache)
    chosen = {"source": "source", "helper": "helper"}
    warnings = Vocabulary.open(helper).warnings
    app = check(open_page("overlap", **chosen))
    shown = [warning.value.replace("\\", "") for warning in app.warning]
    assert all(warning in shown for warning in warnings)
    check(open_page("tokens", **chosen))


@pytest.mark.parametrize("case", ADDS)
def test_pages_count_the_tokens_that_a_transfer_takes(workspace, tokenizers, tmp_path, case):
    tokenizer = tokenizers["byte-level", "de"]
    helper = awkward_helper(tmp_path / "helper", case, tokenizer, has_rows=False)
    found = prepare(helper, workspace.cache)
    assert found.vocabulary.ids == tokenizer.get_vocab()
    assert any("left out" in warning for warning in found.warnings)
