"""Foreign tokenizers: ids, sizes and rules that would fill memory, run for ever or end the library with a panic."""

import json
import shutil

import pytest
from support.commands import refused

from clp_core.errors import InputError, is_panic, library_failure
from clp_core.files.json_files import MOST_BYTES
from clp_core.tokenization.tokenizer_reading import content_key, read
from clp_core.tokenization.vocabulary import MOST_IDS, Vocabulary

CATASTROPHE = {
    "type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False
}  # fmt: skip


@pytest.fixture
def changed(pair, tmp_path):
    """Copies the helper with a changed tokenizer.json."""

    def change(**parts):
        folder = tmp_path / "changed"
        shutil.copytree(pair[1], folder)
        content = json.loads((folder / "tokenizer.json").read_text())
        for name, part in parts.items():
            content[name] = part(content[name]) if callable(part) else part
        (folder / "tokenizer.json").write_text(json.dumps(content))
        return folder

    return change


def added(token_id, content):
    return {
        "id": token_id, "content": content, "special": True,
        "single_word": False, "lstrip": False, "rstrip": False, "normalized": False,
    }  # fmt: skip


@pytest.mark.parametrize("token_id", [MOST_IDS, 2**31, 2**32 - 1])
def test_id_that_would_fill_all_memory_is_refused(changed, token_id):
    def move(model):
        vocabulary = model["vocab"] | {next(reversed(model["vocab"])): token_id}
        return model | {"vocab": vocabulary}

    with pytest.raises(InputError, match=f"a token with id {token_id}"):
        Vocabulary.open(changed(model=move))


@pytest.mark.parametrize("token", [added(2**31, "<far>"), added(10**6, "")])
def test_added_token_has_the_id_that_the_library_gives_it(changed, token):
    from transformers import AutoTokenizer

    folder = changed(added_tokens=lambda tokens: [*tokens, token])
    found, theirs = Vocabulary.open(folder), AutoTokenizer.from_pretrained(folder)
    assert found.ids == theirs.get_vocab()
    assert found.added_ids == set(theirs.added_tokens_decoder)
    assert max(found.special_ids) < found.n_ids


def test_file_too_large_for_a_tokenizer_is_not_read(tmp_path):
    with open(tmp_path / "tokenizer.json", "wb") as file:
        file.truncate(MOST_BYTES + 1)
    with pytest.raises(InputError, match="too much for a tokenizer"):
        content_key(tmp_path)


def test_panic_of_the_library_while_it_reads_is_an_error_of_the_tokenizer(changed):
    folder = changed(normalizer={"type": "Precompiled", "precompiled_charsmap": "AAAA"})
    with pytest.raises(InputError, match="cannot be read"):
        read(folder)


def test_panic_of_the_library_on_a_text_is_told_in_one_line(changed, tmp_path):
    folder = changed(pre_tokenizer=CATASTROPHE)
    text = tmp_path / "text.txt"
    text.write_text("a" * 60 + "!")
    with pytest.raises(BaseException, match="retry-limit-in-match over") as found:
        Vocabulary.open(folder).encode(text.read_text())
    assert is_panic(found.value)
    assert not isinstance(found.value, Exception)
    told = refused("overlap", str(folder), str(folder), "--text", str(text), code=1)
    assert "a library failed" in told
    assert "Traceback" not in told


def test_only_failures_of_libraries_are_taken_for_such():
    assert library_failure(Exception("x"))
    for error in (ValueError("x"), KeyboardInterrupt(), SystemExit(1), InputError("x")):
        assert not library_failure(error)


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_page_outlives_a_panic_of_the_library(space):
    from support.pages_run import check, open_page

    folder = space.models / "catastrophe"
    shutil.copytree(space.models / "demo-helper-de", folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(content | {"pre_tokenizer": CATASTROPHE}))
    for text in space.texts.iterdir():
        text.write_text("a" * 60 + "!")
    app = check(open_page("overlap", helper="catastrophe"))
    assert "a library failed" in app.error[0].value.replace("\\", "")
