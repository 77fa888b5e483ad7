"""Names, tokens and states of others in tables and pages: text, never a formula, a picture or a link."""

import csv
import io
import json

import pandas as pd
import pytest
from support.made_runs import lines_of, make_run
from support.pages_run import check, open_page

from components.messages import csv_of

EVIL = "![x](https://evil.example/x.png) [y](https://evil.example) :red[z] <img src=x onerror=alert(1)>"


@pytest.mark.parametrize("sign", ["=", "+", "-", "@", "\t"])
def test_token_that_looks_like_a_formula_is_text_in_every_download(sign):
    token = f"{sign}HYPERLINK(1)"
    table = pd.DataFrame({"token": [token, "a,b", None], "kind": pd.Categorical([token, "x", "x"]), "n": [-1.5, 2, 3]})
    rows = list(csv.reader(io.StringIO(csv_of(table).decode(), newline="")))
    assert rows == [["token", "kind", "n"], [f"'{token}", f"'{token}", "-1.5"], ["a,b", "x", "2.0"], ["", "x", "3.0"]]


@pytest.mark.usefixtures("server_that_has_run_app_once")
def test_state_that_no_job_has_is_not_shown(space):
    job = make_run(space, "a run", lines_of(60))
    content = json.loads((job.path / "status.json").read_text())
    (job.path / "status.json").write_text(json.dumps(content | {"state": EVIL, "reason": EVIL}))
    for page in ("overview", "runs", "compare"):
        app = check(open_page(page, **({"run": job.id} if page == "runs" else {})))
        shown = [element.value for kind in (app.markdown, app.caption, app.error, app.warning) for element in kind]
        assert not any("](https" in text or "<img" in text.replace("\\<", "") for text in shown)
    assert job.written_status().state == "queued"


def test_model_card_shows_names_and_warnings_of_others_as_text():
    from markdown_it import MarkdownIt

    from clp_core.model_cards.card import as_code, as_words

    for text in (EVIL, "token <unk> and `<s>` | a", "a\n---\n# b", "back\\slash \\[x](y)", "\x1b[31m"):
        for shown in (as_words(text), as_code(text)):
            (block,) = [each for each in MarkdownIt("js-default").parse(f"w {shown}") if each.type == "inline"]
            kinds = {child.type for child in block.children}
            assert kinds <= {"text", "text_special", "code_inline"}, (text, kinds)
            assert "\x1b" not in shown
    (block,) = [
        each for each in MarkdownIt("js-default").parse(as_words("token <unk> of `x`")) if each.type == "inline"
    ]
    assert "".join(child.content for child in block.children) == "token <unk> of `x`"


def test_code_of_a_model_card_loads_a_model_of_any_name():
    import ast

    from clp_core.model_cards.card import Card

    name = 'x"); import os; os.system("touch x") # \n```\n'
    code = Card(name, None).text().split("```python\n")[1].rsplit("```", 1)[0].split("\n```\n")[0]
    called = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]
    assert name in {node.value for node in called}
    assert "system" not in {getattr(node, "attr", "") for node in ast.walk(ast.parse(code))}
