"""Names, tokens and messages of others are shown on a terminal as text: none of it is obeyed."""

import json
import logging
import sys

import pytest
from support.commands import refused

from clp_core.cli.output import PrintableRecord, echo, emit, print_table, written
from clp_core.cli.train import follow

EVIL = "\x1b[31mred\x1b]0;title\x07\x9b2J\x7f\u202e\u2066[bold]b[/bold][/x]"
STEERS = ("\x1b", "\x07", "\x9b", "\x7f", "\u202e", "\u2066")


def steers(text):
    return [character for character in STEERS if character in text]


@pytest.fixture
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


def test_table_shows_markup_and_control_characters_as_text(wide, capsys):
    print_table(f"A table of {EVIL}", ["name", EVIL], [[EVIL, 1], ["b", 2.5]])
    shown = capsys.readouterr().out
    assert not steers(shown)
    assert shown.count("[bold]b[/bold][/x]") == 3
    assert shown.count("␛[31mred␛]0;title␇") == 3


def test_message_shows_control_characters_as_text(capsys):
    echo(f"{EVIL}\n\ttabbed", err=True)
    shown = capsys.readouterr().err
    assert not steers(shown)
    assert shown.endswith("[/x]\n\ttabbed\n")
    assert not steers(written(EVIL))


def test_error_that_names_a_file_does_not_steer_the_terminal(tmp_path):
    told = refused("evaluate", str(tmp_path / EVIL.replace("/", "")), "--text", "x")
    assert not steers(told)
    assert "␛[31mred" in told


def test_json_holds_the_same_text_without_control_characters(capsys):
    emit({"name": EVIL + "é\u2028"}, as_json=True)
    shown = capsys.readouterr().out
    assert not steers(shown)
    assert json.loads(shown) == {"name": EVIL + "é\u2028"}
    assert "é" in shown


def test_log_line_does_not_steer_the_terminal():
    record = PrintableRecord("a", logging.INFO, __file__, 1, "model %s", (EVIL,), None)
    assert not steers(logging.Formatter("%(message)s").format(record))


def test_name_of_a_run_that_looks_like_markup_is_followed(monkeypatch, capsys):
    class Over:
        name, plan = EVIL, {"steps": 2}
        looks = iter([False, False, True, True])

        def status(self):
            from clp_core.jobs.status import Status

            return Status("finished" if next(self.looks, True) else "running", EVIL)

        def progress(self):
            return 1, 1

    monkeypatch.setattr("clp_core.cli.train.FOLLOW_S", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    follow(Over())
    assert "[bold]b[/bold][/x]" in capsys.readouterr().err
