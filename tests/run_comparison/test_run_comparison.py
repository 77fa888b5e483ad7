"""Tokens saved, against hand-made numbers and a naive search; what cannot be compared says why."""

import csv
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from clp_core.errors import InputError
from clp_core.experiments.curve_lookup import curve_named
from clp_core.figures import comparison_figure
from clp_core.run_comparison.curve import (
    BLOCK,
    EVAL_TEXT,
    LEAK,
    STEP_TOKENS,
    TOKENIZER,
    UNKNOWN,
    Curve,
    import_curve,
    imported_curves,
    published_curves,
    remove_import,
)
from clp_core.run_comparison.report import answer, as_csv, as_html, points_csv
from clp_core.run_comparison.tokens_saved import Comparison, crossing

FACTS = {EVAL_TEXT: "a" * 64, TOKENIZER: "t" * 64, STEP_TOKENS: 100, BLOCK: 32, UNKNOWN: 0.0}


def points(*pairs):
    return np.array([[tokens / 100, tokens, 4 * tokens, tokens / 10, value] for tokens, value in pairs], dtype=float)


def curve(key, *pairs, measure="bits_per_byte", facts=None, **settings):
    return Curve(key, settings.pop("name", key), {measure: points(*pairs)}, FACTS | (facts or {}), settings)


def test_crossing_is_linear_in_log_tokens():
    found = crossing(points((0, 5.0), (100, 4.0), (10_000, 2.0)), 3.0)
    assert found.reached
    assert found.tokens == pytest.approx(1000)  # half way in log tokens
    assert found.steps == pytest.approx(10)
    assert found.seconds == pytest.approx(100)


def test_first_crossing_of_the_running_minimum_counts():
    course = points((100, 4.0), (200, 2.0), (400, 3.5), (800, 1.0))
    assert crossing(course, 3.0).tokens == pytest.approx(100 * 2**0.5)
    assert crossing(course, 1.5).tokens == pytest.approx(400 * 2**0.5)  # from the minimum 2.0, not from 3.5


def test_crossing_before_the_first_token_and_within_the_first_segment():
    assert crossing(points((0, 2.0), (100, 1.0)), 3.0).tokens == 0
    assert crossing(points((0, 5.0), (100, 4.0)), 4.25).tokens == pytest.approx(75)


def test_curve_that_begins_below_the_level_was_there_sooner():
    late = curve("late", (500, 2.0), (1000, 1.0))
    early = curve("early", (0, 5.0), (100, 2.5), (200, 1.0))
    assert crossing(late.points["bits_per_byte"], 3.0).is_upper
    assert not crossing(early.points["bits_per_byte"], 6.0).is_upper
    unknown = Comparison.of(late, [early], "bits_per_byte", 3.0).savings[0]
    assert unknown.share() is None
    assert unknown.verdict.startswith("the baseline begins below this level")
    at_least = Comparison.of(curve("base", (0, 5.0), (10_000, 3.0)), [late], "bits_per_byte", 3.0).savings[0]
    assert at_least.verdict == "more than 95 % of tokens saved"


def test_curve_that_never_gets_there_gives_its_end_as_a_bound():
    found = crossing(points((100, 4.0), (900, 3.0)), 1.0)
    assert (found.reached, found.tokens) == (False, 900)
    assert crossing(np.empty((0, 5)), 1.0) is None


VALUES = st.floats(0.5, 9).map(lambda value: round(value, 6))
"""Equal, or further apart than the search can be wrong by."""


@given(st.lists(VALUES, min_size=1, max_size=12), VALUES)
def test_crossing_lies_where_a_fine_search_finds_it(values, level):
    tokens = 10.0 * 2.0 ** np.arange(len(values))
    found = crossing(points(*zip(tokens, values, strict=True)), level)
    lowest = np.minimum.accumulate(values)
    grid = np.exp(np.linspace(math.log(tokens[0]), math.log(tokens[-1]), 20_001))
    course = np.interp(np.log(grid), np.log(tokens), lowest)
    below = np.flatnonzero(course <= level + 1e-12)
    assert found.reached == bool(lowest[-1] <= level)
    if found.reached:
        assert found.tokens == pytest.approx(grid[below[0]], rel=2e-3)


def test_saving_is_what_the_baseline_needs_less_what_the_run_needs():
    slow = curve("slow", (100, 4.0), (10_000, 2.0))
    fast = curve("fast", (100, 3.0), (1000, 2.0))
    comparison = Comparison.of(slow, [fast], "bits_per_byte")
    assert comparison.level == 2.0
    (saving,) = comparison.savings
    assert saving.saved("tokens") == pytest.approx(9000)
    assert saving.saved("steps") == pytest.approx(90)
    assert saving.saved("seconds") == pytest.approx(900)
    assert saving.share() == pytest.approx(0.9)
    assert saving.verdict == "90 % of tokens saved"
    assert "fast saves 90 % of the tokens that slow needs to reach 2 bits per byte" in answer(comparison)


def test_bounds_are_said_to_be_bounds():
    slow = curve("slow", (100, 4.0), (10_000, 2.0))
    fast = curve("fast", (100, 3.0), (1000, 1.0))
    beyond = Comparison.of(slow, [fast], "bits_per_byte", 1.0).savings[0]
    assert beyond.verdict == "more than 90 % of tokens saved"
    late = Comparison.of(fast, [slow], "bits_per_byte", 1.0).savings[0]
    assert late.verdict == "> 10 k tokens: not there yet"
    assert late.saved("tokens") is None
    worse = Comparison.of(fast, [slow], "bits_per_byte", 2.0).savings[0]
    assert worse.share() < 0
    assert worse.verdict.endswith("% more tokens")
    assert "No run reaches" in answer(Comparison.of(fast, [slow], "bits_per_byte", 2.0))


@pytest.mark.parametrize(
    ("measure", "facts", "told"),
    [
        ("bits_per_byte", {EVAL_TEXT: "b" * 64}, "evaluation text differs (aaaaaaaaaaaa against bbbbbbbbbbbb)"),
        ("bits_per_byte", {BLOCK: 64}, "block length differs (32 against 64)"),
        ("bits_per_byte", {STEP_TOKENS: 200}, "tokens a step differs (100 against 200)"),
        ("bits_per_byte", {EVAL_TEXT: None}, "evaluation text of other not known"),
        ("bits_per_byte", {UNKNOWN: 0.02}, "2.00 % of the text's tokens are unknown to the tokenizer (other)"),
        ("eval_loss", {TOKENIZER: "u" * 64}, "tokenizer differs"),
    ],
)
def test_what_cannot_be_compared_says_why(measure, facts, told):
    base = curve("base", (100, 4.0), (1000, 2.0), measure=measure)
    other = curve("other", (100, 3.0), (1000, 1.0), measure=measure, facts=facts)
    comparison = Comparison.of(base, [other], measure)
    (saving,) = comparison.savings
    assert saving.verdict.startswith("not comparable: ")
    assert told in saving.verdict
    assert saving.saved("tokens") is None
    assert comparison.best is None
    assert answer(comparison) == "None of these runs can be compared with base: the table says why."


def test_another_tokenizer_does_not_hinder_bits_per_byte():
    base, other = curve("base", (100, 2.0)), curve("other", (100, 1.0), facts={TOKENIZER: "u" * 64})
    assert Comparison.of(base, [other], "bits_per_byte").savings[0].obstacles == ()


def test_what_differs_is_listed_and_warned_of():
    one = curve("one", (100, 2.0), learning_rate=1e-3, seed=1, steps=10)
    two = curve("two", (100, 2.0), learning_rate=3e-4, seed=1, steps=20)
    comparison = Comparison.of(one, [two], "bits_per_byte")
    assert comparison.differing == {"learning_rate": [1e-3, 3e-4], "steps": [10, 20]}
    assert comparison.savings[0].cautions == (
        "planned length of the schedule: 10 against 20",
        "learning rate: 0.001 against 0.0003",
    )


def test_run_that_has_seen_its_held_out_text_is_warned_of():
    leak = "3 of 9 held-out lines stand in the training text too ('x'): the scores will flatter the run"
    one, two = curve("one", (100, 2.0), **{LEAK: "none found"}), curve("two", (100, 1.0), **{LEAK: leak})
    assert Comparison.of(one, [two], "bits_per_byte").savings[0].cautions == (f"two: {leak}",)


def test_published_curves_say_what_the_paper_says():
    clp, scratch = published_curves()
    comparison = Comparison.of(scratch, [clp], "eval_loss")
    assert comparison.level == pytest.approx(math.log(59.2))
    (saving,) = comparison.savings
    assert saving.run_at.tokens / 1e9 == pytest.approx(10.5, abs=0.3)  # passes the last value of scratch there
    assert saving.share() == pytest.approx(0.90, abs=0.01)
    own = curve("own", (100, 4.0), measure="eval_loss")
    assert "not comparable" in Comparison.of(scratch, [own], "eval_loss").savings[0].verdict


def test_gap_is_drawn_between_both_crossings_and_named():
    slow, fast = curve("slow", (100, 4.0), (10_000, 2.0)), curve("fast", (100, 3.0), (1000, 2.0))
    figure = comparison_figure(Comparison.of(slow, [fast], "bits_per_byte"))
    gap = figure.data[-1]
    assert list(gap.x) == pytest.approx([1000, 10_000])
    assert list(gap.y) == [2.0, 2.0]
    assert figure.layout.annotations[-1].text == "90 % of tokens saved"
    assert figure.layout.annotations[-1].x == pytest.approx(3.5)  # the middle, on a logarithmic axis
    assert gap.name == "90 % of tokens saved"
    hours = comparison_figure(Comparison.of(slow, [fast], "bits_per_byte"), "hours").data[-1]
    assert list(hours.x) == pytest.approx([100 / 3600, 1000 / 3600])
    assert hours.name == "90 % of time saved"


def test_every_curve_of_a_comparison_looks_like_no_other():
    curves = [curve(f"run {i}", (100, 4.0 - i / 100), (10_000, 2.0 - i / 100)) for i in range(20)]
    figure = comparison_figure(Comparison.of(curves[0], curves[1:], "bits_per_byte"))
    looks = {(trace.line.color, trace.line.dash) for trace in figure.data[:20]}
    assert len(looks) == 20


EVIL = "<script>alert('x')</script>\"'&=cmd"


def test_html_report_stands_alone_and_runs_nothing_of_a_name():
    slow = curve("slow", (100, 4.0), (10_000, 2.0), name=EVIL, prompt=EVIL)
    fast = curve("fast", (100, 3.0), (1000, 2.0), prompt="b")
    comparison = Comparison.of(slow, [fast], "bits_per_byte")
    page = as_html(comparison, comparison_figure(comparison))
    assert "90 % of the tokens" in page
    assert "<script>alert" not in page
    assert "plotly.js v" in page
    assert not re.search(r"<script[^>]*\ssrc=|<link[^>]*\shref=", page)
    assert "&lt;script&gt;" in page


class Cells(HTMLParser):
    """Text of the cells of each table, row by row."""

    def __init__(self, page):
        super().__init__()
        self.tables, self._open = [], False
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self._open = tag in ("td", "th")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif self._open:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag):
        self._open = False

    def handle_data(self, data):
        if self._open:
            self.tables[-1][-1][-1] += data


def test_html_tables_hold_every_cell_whole():
    long = "a\nb\t" + "very long name" * 30
    slow = curve("slow", (100, 4.0), (10_000, 2.0), name=long, prompt=EVIL, warm=[1, 2])
    runs = [curve(f"run {i}", (100, 3.0), (1000, 1.9), prompt="b", warm=[3]) for i in range(80)]
    never = curve("never", (100, 30.0))
    comparison = Comparison.of(slow, [*runs, never], "bits_per_byte")
    saved, differing = Cells(as_html(comparison, comparison_figure(comparison))).tables
    assert len(saved) == 1 + 82
    assert saved[1][:6] == [long, "2", "10 k", "100", "1000", "baseline"]
    assert (saved[-1][0], saved[-1][2]) == ("never", "> 100")
    assert differing[0] == ["", long, *(run.name for run in runs), "never"]
    assert ["prompt", EVIL, *["b"] * 80, "–"] in differing
    assert ["warm", "1, 2", *["3"] * 80, "–"] in differing


def test_csv_holds_any_name_and_numbers_in_ten_digits():
    name = 'one, "two"\n;three'
    slow = curve("slow", (100, 4.0), (10_000, 2.0), name=name)
    runs = [curve("far", (100, 30.0)), curve("unknown", (7, 1 / 3), facts={UNKNOWN: 0.9}), curve("none")]
    comparison = Comparison.of(slow, runs, "bits_per_byte")
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison), newline="")))
    assert [row["run"] for row in rows] == [name, "far", "unknown", "none"]
    assert [row["best"] for row in rows] == ["2", "30", "0.3333333333", ""]
    assert [row["reached"] for row in rows] == ["True", "False", "True", ""]
    assert rows[2]["not_comparable"] == "unknown_tokens"
    found = list(csv.reader(io.StringIO(points_csv(comparison), newline="")))
    assert found[0] == ["run", "key", "step", "tokens", "bytes", "seconds", "bits_per_byte"]
    assert found[-1] == ["unknown", "unknown", "0.07", "7", "28", "0.7", "0.3333333333"]
    assert points_csv(Comparison.of(curve("empty"), [], "bits_per_byte")).count("\n") == 1


def test_csv_holds_table_and_points_and_no_formula():
    slow = curve("slow", (100, 4.0), (10_000, 2.0), name="=1+1")
    fast = curve("fast", (100, 3.0), (1000, 2.0))
    comparison = Comparison.of(slow, [fast], "bits_per_byte")
    lines = as_csv(comparison).splitlines()
    assert lines[0].startswith("measure,level,run,key")
    assert lines[1].startswith("bits_per_byte,2,'=1+1,slow")
    assert "90 % of tokens saved" in lines[2]
    assert len(lines) == 3
    assert points_csv(comparison).splitlines()[1:] == [
        "'=1+1,slow,1,100,400,10,4",
        "'=1+1,slow,100,10000,40000,1000,2",
        "fast,fast,1,100,400,10,3",
        "fast,fast,10,1000,4000,100,2",
    ]


def test_answer_says_why_there_is_no_saving():
    base, low = curve("base", (0, 3.0), (100, 2.0)), curve("low", (0, 2.5), (100, 1.0))
    above = Comparison.of(base, [low], "bits_per_byte", 9.0)
    assert answer(above) == "base was below 9 bits per byte at its first point already; choose a lower level."
    assert answer(Comparison.of(base, [], "bits_per_byte")) == "Choose a run to hold against base."
    below = Comparison.of(base, [curve("late", (0, 3.0), (100, 2.9))], "bits_per_byte")
    assert answer(below).startswith("Nothing to tell yet")
    other = curve("other", (0, 3.0), (50, 1.0), seed=2)
    careful = Comparison.of(curve("base", (0, 3.0), (100, 2.0), seed=1), [other], "bits_per_byte")
    assert answer(careful).endswith("With care: seed: 1 against 2.")


def test_training_loss_and_impossible_losses_are_not_taken_for_held_out_loss(workspace):
    with pytest.raises(InputError, match="holds no curve"):
        import_curve(workspace, b"tokens,loss\n1,2\n", "x.csv", "theirs")
    made = import_curve(workspace, b"tokens,eval_loss\n1,2\n-5,3\n7,-5\n9,1e400\n", "x.csv", "theirs")
    assert made.points["eval_loss"][:, [1, 4]].tolist() == [[1, 2]]
    assert made.origin == "imported from x.csv, 1 points, 3 of 4 rows left out"
    remove_import(workspace, made.key)
    assert imported_curves(workspace) == []
    with pytest.raises(InputError, match="no imported curve"):
        remove_import(workspace, "import:../../x")


CSV = "Tokens;Perplexity\n1000;20.0\n2000;10.0\n500;40.0\n"


def test_csv_from_elsewhere_is_imported_and_found_again(workspace):
    made = import_curve(
        workspace, CSV.encode("utf-8-sig"), "other.csv", "their run", eval_text="a" * 64, step_tokens=100
    )
    (found,) = imported_curves(workspace)
    assert found.key == made.key == "import:their-run"
    assert found.points["eval_loss"][:, 1].tolist() == [500, 1000, 2000]
    assert found.points["eval_loss"][:, -1] == pytest.approx(np.log([40, 20, 10]))
    assert found.facts[EVAL_TEXT] == "a" * 64
    assert import_curve(workspace, CSV.encode(), "other.csv", "their run").key == "import:their-run-2"
    assert curve_named(workspace, "import:their-run").name == "their run"


def test_trainer_state_is_imported_by_its_evaluations(workspace):
    history = [{"step": 10, "loss": 5.0}, {"step": 10, "eval_loss": 4.0}, {"step": 20, "eval_loss": 3.0}]
    state = json.dumps({"log_history": history}).encode()
    made = import_curve(workspace, state, "trainer_state.json", "theirs", step_tokens=64)
    assert made.points["eval_loss"][:, [1, 4]].tolist() == [[640, 4.0], [1280, 3.0]]
    with pytest.raises(InputError, match="the tokens per step"):
        import_curve(workspace, state, "trainer_state.json", "theirs")


@pytest.mark.parametrize(
    ("data", "name"),
    [(b"", "x.csv"), (b"a,b\n1,2\n", "x.csv"), (b"{}", "x.json"), (b"[1", "x.json"), (b"\xff\xfe\x00", "x.csv"),
     (b"tokens,loss\nnan,inf\n", "x.csv"), (b'{"log_history": 3}', "x.json"), (b"tokens,loss\n-5,3\n", "x.csv")],
)  # fmt: skip
def test_file_without_a_curve_is_refused_in_one_line(workspace, data, name):
    with pytest.raises(InputError):
        import_curve(workspace, data, name, "theirs")
    assert not workspace.curves.exists()


def test_spoilt_import_hides_no_other(workspace):
    import_curve(workspace, CSV.encode(), "other.csv", "good")
    (workspace.curves / "bad.json").write_text("{half")
    (workspace.curves / "other.json").write_text("{}")
    odd = {"name": "odd", "origin": "o", "facts": {}}
    (workspace.curves / "odd.json").write_text(json.dumps(odd | {"points": [1]}))
    (workspace.curves / "odd2.json").write_text(json.dumps(odd | {"points": {"eval_loss": [[1, 2]]}}))
    assert [found.name for found in imported_curves(workspace)] == ["good"]
