"""Pages run as streamlit runs them, without a browser."""

from pathlib import Path

from streamlit.testing.v1 import AppTest

from clp_core.demo import TRAIN_TEXT
from support.tiny_models import put_short_text

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("overview", "overlap", "tokens", "projection", "helper", "transfer", "train", "runs", "compare", "playground")


def open_page(name, **query):
    app = AppTest.from_file(ROOT / "app.py", default_timeout=120)
    for key, value in query.items():
        app.query_params[key] = value
    app.run()
    if name != "overview":
        app.switch_page(f"pages/{name}.py").run()
    return app


def cut_texts(space):
    """Leave a fifth of the demo's training text, and still less of its held-out text: a run begins and ends sooner."""
    put_short_text(space.texts, 24)
    text = space.texts / TRAIN_TEXT
    lines = text.read_bytes().splitlines(keepends=True)
    text.write_bytes(b"".join(lines[: len(lines) // 5]))


def check(app):
    assert not app.exception, [error.value for error in app.exception]
    return app


def text_of(app):
    """Return all that a page says in Markdown."""
    return " ".join(markdown.value for markdown in app.markdown).replace("\\", "")


def html_of(app):
    """Return all that a page shows as HTML."""
    return "".join(element.proto.body for element in app.main if element.type == "html")
