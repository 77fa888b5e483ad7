"""Curves in files of spreadsheets, W&B, TensorBoard and transformers."""

import json
import math

import numpy as np
import pandas as pd
import pytest

from clp_core.errors import InputError
from clp_core.run_comparison.curve import import_curve
from clp_core.run_comparison.curve_import import read_rows

POINTS = [(1000.0, 3.21), (1_234_500.0, 2.5), (2_000_000.0, 2.125)]


def pairs(data: bytes, name="x.csv", key="eval_loss", axis="tokens"):
    return [(row[axis], row[key]) for row in read_rows(data, name) if key in row]


def written(separator, decimal, thousands, encoding="utf-8"):
    """Write the points as a spreadsheet of some language does."""

    def number(value, digits):
        return f"{value:,.{digits}f}".translate({ord(","): thousands, ord("."): decimal})

    def field(text):
        return f'"{text}"' if separator in text else text

    lines = [(number(tokens, 0), number(loss, 3)) for tokens, loss in POINTS]
    text = "".join(f"{separator.join(map(field, line))}\r\n" for line in [("Tokens", "eval_loss"), *lines])
    return text.encode(encoding)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize(
    ("separator", "decimal", "thousands"),
    [(",", ".", ""), (",", ".", ","), (",", ",", "."), (";", ",", ""), (";", ",", "."), (";", ".", "\u202f"),
     ("\t", ",", "\xa0"), ("\t", ".", ","), (";", ".", "'"), (";", ",", " "), ("\t", ".", "’")],
)  # fmt: skip
def test_spreadsheets_of_all_languages_hold_the_same_curve(separator, decimal, thousands, encoding):
    assert pairs(written(separator, decimal, thousands, encoding)) == POINTS


@pytest.mark.parametrize(
    ("separator", "decimal"), [(";", ","), (";", "."), (",", "."), ("\t", ","), ("\t", ".")]
)  # fmt: skip
def test_what_pandas_writes_is_read_as_pandas_reads_it(separator, decimal):
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"step": np.arange(1, 51) * 7, "eval_loss": draw.gamma(2, 2, 50), "note": "a,b;c"})
    text = frame.to_csv(sep=separator, decimal=decimal, index=False)
    assert pairs(text.encode(), axis="step") == list(zip(frame.step, frame.eval_loss, strict=True))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tokens;eval_loss\n1.000;3,210\n2.000;2,125\n", [(1000, 3.21), (2000, 2.125)]),
        ('tokens,eval_loss\n"1,000",3\n"2,000",2\n', [(1000, 3), (2000, 2)]),
        ("tokens\teval_loss\n1000\t3,210\n", [(1000, 3.21)]),
        ("tokens;eval_loss\n1000;3.210\n", [(1000, 3.21)]),
        ('tokens,eval_loss\n1000,"3,250"\n', [(1000, 3.25)]),
        ("tokens,eval_loss\n10,3.250\n", [(10, 3.25)]),
        ("tokens;eval_loss\n10;3,250\n", [(10, 3.25)]),
        ("tokens;eval_loss\n1.000;3\n", [(1000, 3)]),
        ("tokens,eval_loss\n1e3,2.5e0\n", [(1000, 2.5)]),
        ("tokens;eval_loss\n1e3;2,5E-1\n", [(1000, 0.25)]),
        ("tokens;eval_loss\n1.234.567;3\n", [(1234567, 3)]),
        ("sep=|\ntokens|eval_loss\n5|2.5\n", [(5, 2.5)]),
        ("tokens,eval_loss\n1,2\n\n3,\n4,nan\n5,inf\n6,x\n7,1\n", [(1, 2), (7, 1)]),
        (" Tokens , Eval Loss \n1, 2\n", [(1, 2)]),
    ],
)
def test_numbers_are_read_by_the_marks_of_their_file(text, expected):
    assert pairs(text.encode()) == expected


@pytest.mark.parametrize(
    "lines",
    ['10,"3,250"\n20,"3,125"', "10;3.250\n20;3.125", "10\t3,250", "10\t3.250", "1.000;3.250", "1,000;3,250"],
)
def test_numbers_whose_mark_may_be_that_of_thousands_are_refused(lines):
    header = "tokens{}eval_loss\n".format(next(mark for mark in "\t;," if mark in lines))
    with pytest.raises(InputError, match=r"numbers such as 3.250, whose mark may be .*; write decimal points"):
        read_rows((header + lines).encode(), "x.csv")


@pytest.mark.parametrize(
    ("header", "name"),
    [("step,eval_loss,eval_loss", "eval_loss"), ("Step,ppl,Step", "Step"), ("Wall time,Step,Value,Value", "Value")],
)
def test_columns_of_the_same_name_are_refused_by_it(header, name):
    line = ",".join("1" * (header.count(",") + 1))
    with pytest.raises(InputError, match=f"run-eval_loss.csv has several columns named {name}; keep one of each"):
        read_rows(f"{header}\n{line}\n".encode(), "run-eval_loss.csv")
    assert pairs(b"note,step,eval_loss,note\na,1,2,b\n", axis="step") == [(1, 2)]


def test_a_file_of_windows_own_encoding_is_read():
    assert pairs("Läufe;Tokens;Perplexity\ngrün;1000;20,5\n".encode("cp1252"), key="perplexity") == [(1000, 20.5)]


def test_numbers_of_two_languages_in_one_file_are_refused():
    with pytest.raises(InputError, match="decimal points and numbers with decimal commas"):
        pairs(b"tokens;eval_loss\n1;2.5\n2;2,25\n")


WANDB = (
    '"Step","my run - 2 - train/global_step","my run - 2 - eval/loss","my run - 2 - eval/loss__MIN",'
    '"my run - 2 - eval/loss__MAX","my run - 2 - train/loss"\n'
    '"3","100","2.5","2.4","2.6","9"\n"4","","","","","9"\n"7","200","2.25","2.2","2.3","9"\n'
)


def test_an_export_of_wandb_is_read_by_the_steps_of_the_optimiser():
    assert pairs(WANDB.encode(), axis="step") == [(100, 2.5), (200, 2.25)]
    without = "\n".join(line.replace('"my run - 2 - train/global_step"', '"x"') for line in WANDB.splitlines())
    assert pairs(without.encode(), axis="step") == [(3, 2.5), (7, 2.25)]
    for step in ("trainer/global_step", "train/global_step"):
        assert pairs(f"{step},r - val/loss\n10,3.5\n".encode(), axis="step") == [(10, 3.5)]


def test_an_export_of_several_runs_is_refused_by_their_names():
    with pytest.raises(InputError, match=r"eval_loss of several runs \(a - eval/loss, b - eval/loss\); export one"):
        read_rows(b"Step,a - eval/loss,b - eval/loss\n1,2,3\n", "x.csv")


def test_a_history_of_wandb_takes_its_tokens_from_the_row_of_the_score():
    columns = {"_step": [0, 1, 2], "train/num_input_tokens_seen": [64, 64, 128], "_runtime": [1, 2, 3]}
    table = pd.DataFrame(columns | {"eval/loss": [math.nan, 3.0, 2.0]})
    rows = read_rows(table.to_csv(index=False).encode(), "history.csv")
    assert rows[1:] == [
        {"tokens": 64, "step": 1, "seconds": 2, "eval_loss": 3},
        {"tokens": 128, "step": 2, "seconds": 3, "eval_loss": 2},
    ]


TENSORBOARD = b"Wall time,Step,Value\n1700000000.5,10,3.5\n1700000050.5,20,3.25\n"


@pytest.mark.parametrize(
    ("name", "key"),
    [("run-.-tag-eval_loss.csv", "eval_loss"), ("eval_loss.csv", "eval_loss"),
     ("run-a-tag-eval_perplexity.csv", "perplexity"), ("version_0_val_loss.csv", "eval_loss")],
)  # fmt: skip
def test_a_file_of_tensorboard_is_read_by_the_tag_in_its_name(name, key):
    assert pairs(TENSORBOARD, name, key, "step") == [(10, 3.5), (20, 3.25)]


@pytest.mark.parametrize("name", ["run-.-tag-train_loss.csv", "data.csv", "my_interval_loss.csv"])
def test_a_file_of_tensorboard_without_a_tag_of_a_score_is_refused(name):
    with pytest.raises(InputError, match="does not say what its values are"):
        read_rows(TENSORBOARD, name)


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"tokens,loss\n1,2\n", "x.csv", "in its columns tokens, loss: give a CSV file whose header names tokens"),
        (b"a;b\n1;2\n", "x.csv", "in its columns a, b:"),
        (b"eval_loss\n2\n", "x.csv", "in its columns eval_loss:"),
        (b"", "x.csv", "not a valid CSV file"),
        (b"tokens,eval_loss\n1,2,3\n", "x.csv", "more fields than its header"),
        (b"tokens,eval_loss\n1,2\n1,2,3\n", "x.csv", "Expected 2 fields in line 3, saw 3"),
        (b'tokens,eval_loss\n"1,2\n', "x.csv", "not a valid CSV file"),
        (b"t\0o\0k\0", "x.csv", "not text in UTF-8"),
        (b"\xff\xfet", "x.csv", "not text in UTF-8"),
        (b'{"log_history": 3}', "x.json", "not a trainer_state.json"),
        (b'{"log_history": [{"loss": 1, "step": 2}]}', "x.json", "holds no curve: give"),
        (b"[" * 100_000, "x.json", "not a trainer_state.json"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(data, name, message):
    with pytest.raises(InputError) as error:
        read_rows(data, name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_trainer_state_is_read_by_its_evaluations():
    history = [
        {"step": 5, "loss": 4.0},
        {"step": 10, "eval_loss": 3.0, "num_input_tokens_seen": 640},
        {"step": 20, "eval_loss": 2},
    ]
    rows = read_rows(json.dumps({"log_history": history}).encode(), "trainer_state.json")
    assert rows == [{"step": 10, "eval_loss": 3, "tokens": 640}, {"step": 20, "eval_loss": 2}]


def test_a_german_spreadsheet_becomes_a_curve_of_the_workspace(workspace):
    made = import_curve(workspace, written(";", ",", "."), "Läufe.csv", "größer")
    assert made.points["eval_loss"][:, [1, 4]].tolist() == [list(point) for point in POINTS]
