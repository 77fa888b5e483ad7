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
