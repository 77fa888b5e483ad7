"""Tokenizers are read as transformers' AutoTokenizer and the sentencepiece library read them, and written so too."""

import json
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece
import torch
from support.awkward_tokenizers import (
    ADDS,
    CHANGES,
    SENTENCEPIECE,
    SPECIAL,
    awkward_helper,
    edit,
    sentencepiece_folder,
    tokenizer_folder,
)
from support.tiny_models import GERMAN, make_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from clp_core.data.packing import token_stream
from clp_core.data.text_sources import Texts
from clp_core.errors import InputError
from clp_core.evaluation.bits_per_byte import EvaluationText
from clp_core.tokenization import tokenizer_reading
from clp_core.tokenization.tokenizer_reading import ROLES, SENTENCEPIECE_FILES, read_tokenizer
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.training.companion_files import companions_of
from clp_core.transfer.options import TransferOptions
from clp_core.transfer.pipeline import transfer

LINES = [*GERMAN[:3], "tab\tund  zwei Leerzeichen", "日本語 🦊", "ein <|end|> im Text", "<eot>[PAD]<a><image>"]


@pytest.fixture(autouse=True)
def nothing_remembered():
    tokenizer_reading._READINGS.clear()


@pytest.mark.parametrize("case", [case for case in CHANGES if case != "BPE dropout"])
def test_vocabulary_is_that_of_autotokenizer(tmp_path, folders, case):
    folder = tokenizer_folder(tmp_path / "tokenizer", case, folders["byte-level", "de"])
    theirs, own = AutoTokenizer.from_pretrained(folder), Vocabulary.open(folder)
    assert own.ids == theirs.get_vocab()
    assert own.n_ids == len(theirs)
    for role in ROLES:
        if getattr(theirs, f"{role}_token_id") is not None:
            assert own.roles[role] == getattr(theirs, f"{role}_token_id")
    assert own.special_ids >= {i for i in theirs.all_special_ids if i is not None}
    own_ids = [own.tokenizer.encode(line, add_special_tokens=True).ids for line in LINES]
    assert own_ids == [theirs(line, padding=False, truncation=False)["input_ids"] for line in LINES]
    assert [own.tokens[i] for i in range(own.n_ids)][-len(ADDS.get(case, [])) or own.n_ids :] == ADDS.get(case, [])


def test_tokens_that_tokenizer_json_lacks_are_named(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "mine", "pad in the config", folders["byte-level", "de"])
    assert any("[PAD]" in warning and "mine" in warning for warning in Vocabulary.open(folder).warnings)
    assert not Vocabulary.open(folders["byte-level", "de"]).warnings


def test_warnings_name_the_folder_they_are_shown_for(tmp_path, folders):
    for name in ("first", "second"):
        folder = tokenizer_folder(tmp_path / name, "pad in the config", folders["byte-level", "de"])
        assert f" {name} " in Vocabulary.open(folder).warnings[0]


def test_dropout_is_switched_off_and_named(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "BPE dropout", folders["byte-level", "de"])
    own, sound = Vocabulary.open(folder), Vocabulary.open(folders["byte-level", "de"])
    theirs = AutoTokenizer.from_pretrained(folder)
    assert len({tuple(theirs(GERMAN[0])["input_ids"]) for _ in range(8)}) > 1  # as it comes, it is random
    assert {tuple(own.encode(GERMAN[0])) for _ in range(8)} == {tuple(sound.encode(GERMAN[0]))}
    assert any("dropout" in warning for warning in own.warnings)


def test_two_documents_are_separated_by_an_end_that_only_the_config_declares(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "eos in the config", folders["byte-level", "de"])
    (tmp_path / "text.txt").write_text("\n".join(GERMAN[:30]))
    end = AutoTokenizer.from_pretrained(folder).eos_token_id
    ids, counts = token_stream(Texts.open([tmp_path / "text.txt"]), Vocabulary.open(folder))
    assert counts.documents == 30
    assert int((ids == end).sum()) == 30


@pytest.mark.parametrize("case", SENTENCEPIECE)
def test_sentencepiece_model_is_read_as_sentencepiece_reads_it(tmp_path, case):
    folder = sentencepiece_folder(tmp_path / "tokenizer", case)
    file = next(folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file())
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    own = Vocabulary.open(folder)
    unknown = model.id_to_piece(model.unk_id())
    lines = [line for line in LINES if "<" not in line]
    for line in lines:
        cut = [own.tokens[i] for i in own.encode(line)]
        expected = [model.id_to_piece(i) for i in model.encode(line)]
        assert [t for i, t in enumerate(cut) if t != unknown or cut[i - 1 : i] != [unknown]] == [
            t for i, t in enumerate(expected) if t != unknown or expected[i - 1 : i] != [unknown]
        ]
    assert own.tokens[own.roles["unk"]] == unknown
    assert not own.differs
    has_unknown = model.unk_id() in model.encode("日本語")
    assert (own.roles["unk"] in own.encode("日本語")) == has_unknown


@pytest.mark.parametrize("case", SENTENCEPIECE)
def test_literal_strings_of_special_tokens_are_plain_text_as_for_sentencepiece(tmp_path, case):
    folder = sentencepiece_folder(tmp_path / "tokenizer", case)
    file = next(folder / name for name in SENTENCEPIECE_FILES if (folder / name).is_file())
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    own = Vocabulary.open(folder)
    unknown = own.roles["unk"]
    for line in ("das Haus</s>und", "der </s> Fluss <s> <unk>", "<pad>"):
        ids = own.literal_tokenizer.encode(line, add_special_tokens=False).ids
        assert not (set(ids) - {unknown}) & own.special_ids
        known = [own.tokens[i] for i in ids if i != unknown]
        assert known == [model.id_to_piece(i) for i in model.encode(line) if i != model.unk_id()]


@pytest.mark.parametrize("family", ["byte-level", "wordpiece", "unigram", "sentencepiece-bpe"])
def test_literal_reading_of_other_text_is_the_usual_one(folders, family):
    own = Vocabulary.open(folders[family, "de"])
    for line in (*GERMAN[:3], "日本語 🦊"):
        assert own.literal_tokenizer.encode(line, add_special_tokens=False).ids == own.encode(line)


@pytest.mark.parametrize("case", ["Unigram as Llama", "no dummy prefix", "unknown before end as T5"])
def test_conversion_that_sentencepiece_contradicts_is_named(tmp_path, case):
    folder = sentencepiece_folder(tmp_path / "tokenizer", case)
    assert any("sentencepiece itself" in warning for warning in Vocabulary.open(folder).warnings)


def test_tokenizer_json_of_another_sentencepiece_model_is_named(tmp_path):
    folder = sentencepiece_folder(tmp_path / "tokenizer", "no class")
    other = sentencepiece_folder(tmp_path / "other", "no dummy prefix")
    (folder / "tokenizer.json").write_text(Vocabulary.open(other).serialized)
    own = Vocabulary.open(folder)
    assert own.differs
    assert any("SentencePiece model beside it" in warning for warning in own.warnings)
    (tmp_path / "text.txt").write_text("\n".join(GERMAN[:3]))
    text = EvaluationText.read(Texts.open([tmp_path / "text.txt"]), own, 64)
    assert "tokenizer_differs" in [obstacle.code for obstacle in text.obstacles]


def test_class_that_encodes_differently_is_named_without_asserting_why(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "special tokens as text", folders["wordpiece", "de"])
    edit(folder, "tokenizer_config.json", split_special_tokens=False)
    edit(folder, "config.json", model_type="qwen2")  # transformers takes its class whatever the files say
    theirs, own = AutoTokenizer.from_pretrained(folder), Vocabulary.open(folder)
    assert theirs(GERMAN[0])["input_ids"] != own.encode(GERMAN[0])
    assert any(type(theirs).__name__ in warning for warning in own.warnings)


def test_second_reading_needs_no_transformers(tmp_path, folders, monkeypatch):
    folder = tokenizer_folder(tmp_path / "tokenizer", "pad in the config", folders["byte-level", "de"])
    first = Vocabulary.open(folder)
    tokenizer_reading._READINGS.clear()
    monkeypatch.setattr(tokenizer_reading, "read", None)
    assert Vocabulary.open(folder) == first
    edit(folder, "tokenizer_config.json", pad_token="[OTHER]")
    with pytest.raises(TypeError):
        Vocabulary.open(folder)  # other content is another reading


@pytest.mark.process
def test_reading_apart_leaves_torch_out_of_this_process(tmp_path, folders, workspace):
    folder = tokenizer_folder(tmp_path / "tokenizer", "pad in the config", folders["byte-level", "de"])
    code = (
        "import sys; from pathlib import Path; from clp_core.tokenization.vocabulary import Vocabulary; "
        f"found = Vocabulary.open(Path({str(folder)!r}), apart=True); "
        "print(found.tokens[-1], 'torch' in sys.modules, 'transformers' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[PAD]", "False", "False"]
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        read_tokenizer(folder, workspace.cache, apart=True)


@pytest.mark.parametrize("case", [*CHANGES])
def test_target_of_an_awkward_helper_is_read_alike_by_autotokenizer(tmp_path, tokenizers, pair, case):
    helper = awkward_helper(tmp_path / "helper", case, tokenizers["byte-level", "de"])
    report = transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    theirs, before = (AutoTokenizer.from_pretrained(tmp_path / name) for name in ("target", "helper"))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert len(theirs) == len(before) == config["vocab_size"] == model.get_input_embeddings().num_embeddings
    assert theirs.get_vocab() == before.get_vocab()
    for role in ROLES:
        assert getattr(theirs, f"{role}_token_id") == getattr(before, f"{role}_token_id")
    ends = np.atleast_1d(config["eos_token_id"]).tolist()
    assert ends[0] == theirs.eos_token_id
    assert {config["bos_token_id"], *ends} <= {
        theirs.bos_token_id,
        theirs.eos_token_id,
        0,
    }  # 0 is the helper's config's
    assert config["pad_token_id"] == theirs.pad_token_id
    for line in LINES:
        ids = theirs(line, padding=False, truncation=False)["input_ids"]
        assert torch.isfinite(model(torch.tensor([ids])).logits).all()
        if case != "BPE dropout":
            assert ids == before(line, padding=False, truncation=False)["input_ids"]
    made = {own for own in theirs.get_vocab() if own in ADDS.get(case, [])}
    assert made == set(ADDS.get(case, []))
    assert report.statuses["padding"] == 0


@pytest.mark.parametrize("case", ADDS)
def test_added_tokens_without_a_row_are_left_out_of_the_target(tmp_path, tokenizers, pair, case):
    tokenizer = tokenizers["byte-level", "de"]
    helper = awkward_helper(tmp_path / "helper", case, tokenizer, has_rows=False)
    report = transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "target")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert len(theirs) == len(tokenizer) == model.get_input_embeddings().num_embeddings
    assert max(max(theirs(line)["input_ids"]) for line in LINES) < len(tokenizer)
    for token in ADDS[case]:
        assert any(repr(token) in warning and "left out" in warning for warning in report.warnings)
    for role in ROLES:
        assert (getattr(theirs, f"{role}_token_id") or 0) < len(tokenizer)


def test_ordinary_tokens_without_a_row_are_refused(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, rows=300)
    with pytest.raises(InputError, match="300 embedding rows"):
        transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target")))
    assert not (tmp_path / "target").exists()


def test_template_token_without_a_row_is_refused(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "begin of text in the template", folders["byte-level", "de"])
    text = (folder / "tokenizer.json").read_text()
    vocabulary = Vocabulary.open(tokenizer_folder(tmp_path / "sound", "a chat template", folders["byte-level", "de"]))
    late = text.replace('"<|end|>"', '"<late>"').replace('"ids": [0]', f'"ids": [{vocabulary.n_ids}]')
    description = json.loads(late)
    description["added_tokens"] = [{**description["added_tokens"][0], "id": vocabulary.n_ids, "content": "<late>"}]
    description["model"]["vocab"] = vocabulary.ids
    (folder / "tokenizer.json").write_text(json.dumps(description))
    edit(folder, "tokenizer_config.json", bos_token="<late>", eos_token=None)
    assert Vocabulary.open(folder).template_start == vocabulary.n_ids
    with pytest.raises(InputError, match="before every text"):
        Vocabulary.open(folder, rows=vocabulary.n_ids)


@pytest.mark.parametrize("case", SENTENCEPIECE)
def test_target_of_a_sentencepiece_helper_reads_as_sentencepiece_does(tmp_path, pair, case):
    folder = sentencepiece_folder(tmp_path / "helper", case)
    vocabulary = Vocabulary.open(folder)
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(vocab_size=vocabulary.n_ids, n_positions=64, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(folder)
    edit(folder, "config.json", bos_token_id=None, eos_token_id=None)
    transfer(TransferOptions(str(pair[0]), str(folder), str(tmp_path / "target"), match="canonical", no_heldout=True))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "target")
    assert theirs.get_vocab() == vocabulary.ids
    for line in LINES:
        assert theirs(line, add_special_tokens=False)["input_ids"] == vocabulary.encode(line)


def test_all_end_ids_of_the_helper_are_kept(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2)
    edit(helper, "config.json", eos_token_id=[0, 300])
    edit(helper, "generation_config.json", eos_token_id=[301, 0], bos_token_id=0)
    transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    assert model.config.eos_token_id == model.generation_config.eos_token_id == [0, 300, 301]


def test_ids_of_the_sources_tokens_do_not_stay(tmp_path, tokenizers, pair):
    source = make_model(tmp_path / "source", tokenizers["byte-level", "en"], "llama", seed=1)
    edit(source, "config.json", sep_token_id=7, unk_token_id=3, cls_token_id=9, image_token_index=99,
         suppress_tokens=[1], forced_eos_token_id=5, vision_config={"image_token_id": 8, "hidden_size": 4})  # fmt: skip
    edit(source, "generation_config.json", suppress_tokens=[1, 2], begin_suppress_tokens=[4], decoder_end_token_id=3)
    helper = make_model(tmp_path / "helper", tokenizers["wordpiece", "de"], "gpt2", width=16, seed=2)
    report = transfer(
        TransferOptions(str(source), str(helper), str(tmp_path / "target"), match="canonical", no_heldout=True)
    )
    config = json.loads((tmp_path / "target" / "config.json").read_text())
    generation = json.loads((tmp_path / "target" / "generation_config.json").read_text())
    theirs = AutoTokenizer.from_pretrained(tmp_path / "target")
    for role in ("sep", "cls", "unk"):
        assert config[f"{role}_token_id"] == getattr(theirs, f"{role}_token_id")
    stale = {"image_token_index", "suppress_tokens", "forced_eos_token_id", "begin_suppress_tokens"}
    assert not (stale | {"decoder_end_token_id"}) & (set(config) | set(generation))
    assert config["vision_config"] == {"hidden_size": 4}
    named = " ".join(report.warnings)
    assert all(name in named for name in (*stale, "vision_config.image_token_id", "decoder_end_token_id"))


def test_written_configuration_says_what_both_versions_of_transformers_need(tmp_path, tokenizers, pair):
    helper = awkward_helper(tmp_path / "helper", "additional special tokens", tokenizers["byte-level", "de"])
    edit(helper, "tokenizer_config.json", tokenizer_class="TokenizersBackend", backend="tokenizers")
    transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    config = json.loads((tmp_path / "target" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert config["additional_special_tokens"] == ["<a>", "<b>"]
    assert not {"backend", "extra_special_tokens"} & set(config)
    assert all(f"{role}_token" in config for role in ROLES)  # a class adds its own for one that is not named
    assert {entry["content"] for entry in config["added_tokens_decoder"].values()} == {"<|end|>", "<a>", "<b>"}


def test_chat_template_of_the_helper_is_named(tmp_path, tokenizers, pair):
    helper = awkward_helper(tmp_path / "helper", "a chat template", tokenizers["byte-level", "de"])
    report = transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    assert AutoTokenizer.from_pretrained(tmp_path / "target").chat_template == "{{ messages }}"
    assert any("chat template" in warning for warning in report.warnings)


@pytest.mark.parametrize("side", ["source", "helper"])
def test_row_that_is_not_finite_is_named(tmp_path, tokenizers, side):
    folders = {
        "source": make_model(tmp_path / "source", tokenizers["byte-level", "en"], "llama", seed=1),
        "helper": make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2),
    }
    model = AutoModelForCausalLM.from_pretrained(folders[side])
    model.get_input_embeddings().weight.data[123, 2] = np.inf
    model.save_pretrained(folders[side])
    with pytest.raises(InputError, match=rf"row 123 .* of the input embedding of the {side}"):
        transfer(TransferOptions(str(folders["source"]), str(folders["helper"]), str(tmp_path / "target")))


def with_template(folder, before=(), behind=()):
    """Give a tokenizer.json tokens before and behind every text, added where they are new: (string, special) pairs."""
    path = folder / "tokenizer.json"
    description = json.loads(path.read_text())
    known = {token["content"]: token["id"] for token in description["added_tokens"]}
    for string, is_special in (*before, *behind):
        if string not in known:
            known[string] = max(*description["model"]["vocab"].values(), *known.values()) + 1
            entry = {"id": known[string], "content": string} | SPECIAL | {"special": is_special}
            description["added_tokens"].append(entry)
    single = [{"SpecialToken": {"id": string, "type_id": 0}} for string, _ in before]
    single += [{"Sequence": {"id": "A", "type_id": 0}}]
    single += [{"SpecialToken": {"id": string, "type_id": 0}} for string, _ in behind]
    description["post_processor"] = {
        "type": "TemplateProcessing", "single": single, "pair": [*single, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {string: {"id": string, "ids": [known[string]], "tokens": [string]}
                           for string, _ in (*before, *behind)},
    }  # fmt: skip
    path.write_text(json.dumps(description))
    return folder


@pytest.mark.parametrize("is_special", [True, False])
def test_template_is_that_of_autotokenizer(tmp_path, folders, is_special):
    folder = tokenizer_folder(tmp_path / "tokenizer", "a chat template", folders["byte-level", "de"])
    with_template(folder, [("[gMASK]", is_special), ("<sop>", is_special)], [("<eot>", is_special)])
    own, ids = Vocabulary.open(folder), AutoTokenizer.from_pretrained(folder)("Das Haus")["input_ids"]
    assert [*own.template[0], *own.encode("Das Haus"), *own.template[1]] == ids
    assert own.template_start == ids[0]
    (tmp_path / "text.txt").write_text("Das Haus")
    text = EvaluationText.read(Texts.open([tmp_path / "text.txt"]), own, 64)
    assert "begin_against_template" in [obstacle.code for obstacle in text.obstacles]


def test_token_without_a_row_leaves_the_end_of_the_template_too(tmp_path, tokenizers, pair):
    helper = make_model(tmp_path / "helper", tokenizers["byte-level", "de"], "gpt2", width=16, seed=2)
    with_template(helper, (), [("<eot>", True)])
    transfer(TransferOptions(str(pair[0]), str(helper), str(tmp_path / "target"), no_heldout=True))
    theirs = AutoTokenizer.from_pretrained(tmp_path / "target")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    ids = theirs("Der Fuchs", return_tensors="pt")
    assert model.generate(**ids, max_new_tokens=2, do_sample=False).shape[1] == ids["input_ids"].shape[1] + 2


@pytest.mark.parametrize("role", ["pad_token", "eos_token"])
@pytest.mark.parametrize("string", ["!", "ist", "Ġund"])
def test_special_token_that_merges_make_is_read_literally(tmp_path, folders, role, string):
    folder = tokenizer_folder(tmp_path / "tokenizer", "a chat template", folders["byte-level", "de"])
    edit(folder, "tokenizer_config.json", **{role: string})
    own = Vocabulary.open(folder)
    text = "Das ist gut! Und Hund und Katze"
    ids = own.literal_tokenizer.encode(text, add_special_tokens=False).ids
    assert b"".join(own.token_bytes[i] for i in ids).decode() == text
    assert len(string) == 1 or own.roles[role.removesuffix("_token")] not in ids


def test_literal_reading_keeps_the_ids_of_ordinary_added_tokens(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "a chat template", folders["byte-level", "de"])
    description = json.loads((folder / "tokenizer.json").read_text())
    n = max(description["model"]["vocab"].values()) + 1
    added = [("<|im_start|>", True), ("<|im_end|>", True), ("<tool_call>", False), ("    ", False)]
    description["added_tokens"] += [
        {"id": n + i, "content": string} | SPECIAL | {"special": is_special}
        for i, (string, is_special) in enumerate(added)
    ]
    (folder / "tokenizer.json").write_text(json.dumps(description))
    own = Vocabulary.open(folder)
    text = "Der <tool_call> Fuchs    da"
    assert own.literal_tokenizer.encode(text, add_special_tokens=False).ids == own.encode(text)
    assert n + 2 in own.encode(text)
    assert not {n, n + 1} & set(own.literal_tokenizer.encode("<|im_start|>x<|im_end|>", add_special_tokens=False).ids)


def test_unknown_id_of_the_model_counts_whatever_the_role_says(tmp_path):
    folder = sentencepiece_folder(tmp_path / "tokenizer", "no class")
    (folder / "tokenizer.json").write_text(Vocabulary.open(folder).serialized)
    (folder / "tokenizer.model").unlink()
    edit(folder, "tokenizer_config.json", unk_token="[UNK]")
    own = Vocabulary.open(folder)
    ids = own.encode("日本語")
    assert own.tokens[own.roles["unk"]] == "[UNK]"
    assert own.ids["<unk>"] in own.unknown_ids & set(ids)


def test_what_the_class_adds_to_a_sentencepiece_model_is_kept(tmp_path):
    folder = sentencepiece_folder(tmp_path / "tokenizer", "byte-pair encoding as Llama")
    edit(folder, "tokenizer_config.json", tokenizer_class="CodeLlamaTokenizer")
    theirs, own = AutoTokenizer.from_pretrained(folder), Vocabulary.open(folder)
    assert set(theirs.get_vocab()) <= set(own.ids)
    assert list(own.template[0]) == theirs("")["input_ids"]


def test_checkpoint_of_a_run_encodes_as_the_run_did(tmp_path):
    folder = sentencepiece_folder(tmp_path / "model", "byte-pair encoding as Llama")
    edit(folder, "config.json", model_type="llama", max_position_embeddings=64)
    own = Vocabulary.open(folder)
    theirs = AutoTokenizer.from_pretrained(companions_of(folder, tmp_path / "companions", own))
    for line in LINES:
        assert theirs(line, add_special_tokens=False)["input_ids"] == own.encode(line)
    assert theirs.get_vocab() == own.ids


def test_setting_of_a_wrong_type_is_a_warning(tmp_path, folders):
    folder = tokenizer_folder(tmp_path / "tokenizer", "a chat template", folders["byte-level", "de"])
    edit(folder, "tokenizer_config.json", model_max_length="x")
    assert any("cannot encode" in warning for warning in Vocabulary.open(folder).warnings)
