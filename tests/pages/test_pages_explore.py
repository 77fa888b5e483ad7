"""The pages on overlap, tokens and projection, run without a browser, with good input and bad."""

import json

import numpy as np
import pytest
from support.jobs import end_of
from support.pages_run import check, html_of, open_page, text_of

from clp_core.demo import HELPER, SOURCE
from clp_core.geometry.embedding_cache import prepare
from clp_core.geometry.project_options import ProjectOptions
from clp_core.jobs import JobStore
from clp_core.submission import submit_agreement, submit_near_duplicates, submit_project
from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary
from clp_core.transfer.overrides import OverrideList

pytestmark = pytest.mark.usefixtures("server_that_has_run_app_once")


@pytest.fixture(autouse=True)
def tokenizers_may_be_read(tmp_path_factory, monkeypatch):
    """Tokenizers are made outside of the workspace, as those of a lab would lie."""
    monkeypatch.setenv("CLP_ROOTS", str(tmp_path_factory.getbasetemp()))


def button(app, label):
    return next(found for found in app.button if found.label == label)


def said(app):
    return [box.value.replace("\\", "") for box in (*app.error, *app.warning, *app.info, *app.caption)]


def test_overlap_answers_in_one_sentence_with_the_figures_of_the_pair(space):
    app = check(open_page("overlap"))
    overlap = Overlap.of(*(Vocabulary.open(space.models / name) for name in (SOURCE, HELPER)))
    answer = text_of(app).replace("\u202f", "")
    assert f"**{overlap.size}** of {overlap.target.size} target tokens" in answer
    assert "It is fit for a transfer" in answer
    cards = {metric.label: metric.value for metric in app.metric}
    assert cards["Tokens in common"].replace("\u202f", "") == str(overlap.size)


@pytest.mark.parametrize("field", ["category", "script", "length", "word start", "rank"])
def test_overlap_is_grouped_by_each_field(space, field):
    app = check(open_page("overlap", by=field))
    table = app.dataframe[0].value
    assert table["copied"].sum() + table["missing"].sum() == 6144
    assert field in table.columns


def test_overlap_searches_its_tokens(space):
    app = check(open_page("overlap"))
    app.text_input[0].set_value("haus").run()
    table = check(app).dataframe[-1].value
    assert len(table)
    assert table["shown"].str.contains("haus", case=False).all()
    app.text_input[0].set_value('"<b>').run()
    assert check(app).dataframe[-1].value.empty


@pytest.mark.parametrize(
    "text",
    [
        "<b>Haus</b> \x00 <script>alert(1)</script>",
        "שלום עולם مرحبا \u202egedreht\u202c",
        "e\u0301a\u0308 नमस्ते 日本語 👩‍🚀",
        "\u200b\ufeff\u2028",
        "x" * 70_000,
        "\"quotes\" 'and' `ticks` $math$ *stars*",
    ],
    ids=["markup", "right-to-left", "combining", "invisible", "unbroken", "marks"],
)
def test_overlap_shows_any_text_as_text(space, text):
    app = check(open_page("overlap", view="On a text"))
    app.text_area[0].set_value(text).run()
    shown = html_of(check(app))
    assert not app.error
    assert "<script" not in shown
    assert "\x00" not in shown
    assert "\u202e" not in shown


@pytest.mark.process  # for its length
def test_overlap_measures_the_beginning_of_a_huge_text_and_says_so(space):
    app = check(open_page("overlap", view="On a text"))
    app.text_area[0].set_value("Der alte Fuchs läuft über den Fluss.\n" * 140_000).run()
    check(app)
    assert any("the first 1\u202f000\u202f000 are measured" in told for told in said(app))
    assert html_of(app).count('class="pill"') < 2_100


def test_overlap_takes_a_text_of_the_workspace(space):
    app = check(open_page("overlap", view="On a text"))
    app.selectbox[-1].set_value("demo-valid-de.txt").run()
    assert check(app).dataframe[0].value["tokens"].min() > 1_000


def test_overlap_shows_what_each_rule_merges(space, folders):
    app = check(open_page("overlap", view="Match modes", source=str(folders["byte-level", "de"]),
                          helper=str(folders["sentencepiece-bpe", "de"])))  # fmt: skip
    steps, tokens = (frame.value for frame in app.dataframe[:2])
    assert steps["overlap"].iloc[0] < steps["overlap"].iloc[-1]
    assert {"word marks", "byte alphabet", "raw bytes"} <= set(tokens["rule"])


def test_matrix_leaves_out_what_is_no_tokenizer(space, folders, tmp_path):
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "tokenizer.json").write_text("{}")
    empty = tmp_path / "empty"
    empty.mkdir()
    app = check(open_page("overlap", view="Many tokenizers"))
    names = [str(folders[family, "de"]) for family in ("byte-level", "unigram", "wordpiece")]
    app.session_state["matrix_of"] = [*names, str(broken), str(empty), "/no/such"]
    app.run()
    check(app)
    told = " ".join(said(app))
    for left_out in ("the tokenizer.json of broken", str(empty), "/no/such"):
        assert left_out in told
    assert len(app.dataframe[-1].value) == 6
    assert (app.dataframe[0].value["bytes_per_token"] > 1).all()


@pytest.mark.parametrize("content", ["", "{}", '{"model": 3}', "\x00\x01", "[]"])
def test_broken_tokenizer_is_a_message_on_every_page(space, tmp_path, content):
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(content)
    app = check(open_page("overlap", helper=str(folder)))
    assert "cannot be read" in " ".join(said(app))


def test_tokens_explains_a_missing_and_a_copied_token(target):
    app = check(open_page("tokens"))
    app.text_input[0].set_value("Ġauch").run()
    assert "**initialised** by `linear`" in text_of(check(app))
    assert "carry 90 % of the weight" in text_of(app)
    formulas = [element.value for element in app.get("latex")] or [m.value for m in app.markdown if "E_{" in m.value]
    assert any("E_{" in formula for formula in formulas)
    assert any("Made again just now in float64" in told for told in said(app))
    app.text_input[0].set_value("<|endoftext|>").run()
    assert "**copied**" in text_of(check(app))


def test_tokens_shows_the_difference_of_the_row_made_again(target):
    app = check(open_page("tokens", token="Ġauch"))
    told = next(told for told in said(app) if "Made again" in told)
    assert float(told.split("differs from the row in the target by ")[1].split()[0]) < 1e-2


def test_tokens_opens_the_best_of_those_that_hold_a_text(target):
    app = check(open_page("tokens"))
    app.text_input[0].set_value("aus").run()
    check(app)
    app.text_input[0].set_value("rnatürl").run()
    assert not app.exception
    pills = [found for found in app.button_group if found.label == "The text is made of"]
    assert pills
    assert any("No token is just that" in told or "is no token" in told for told in said(app))


def test_tokens_names_the_pieces_of_a_text_that_is_no_token(target):
    app = check(open_page("tokens"))
    app.text_input[0].set_value("Donaudampfschifffahrt").run()
    assert "is no token" in " ".join(said(check(app)))
    (pieces,) = [found for found in app.button_group if found.label == "The text is made of"]
    first = prepare(target, target.parent.parent / "cache").vocabulary.encode("Donaudampfschifffahrt")[0]
    pieces.set_value(first).run()
    assert check(app).text_input[0].value == f"#{first}"


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "'",
        "<b>x</b>",
        "\\",
        "$x$",
        "#999999",
        "#-1",
        "\u202e",
        "\x00",
        "*" * 500,
        "#",
        "#" + "9" * 5000,
        "9" * 5000,
    ],
)
def test_tokens_survives_any_query(target, query):
    app = check(open_page("tokens"))
    app.text_input[0].set_value(query).run()
    assert not check(app).error
    assert "<b>x" not in html_of(app)


def test_deep_link_opens_token_target_and_tab(target, space):
    app = check(open_page("tokens", token="#300", target="german", view="Health of all rows"))
    assert app.text_input[0].value == "#300"
    assert app.selectbox(key="widget_target").value == "german"
    assert "Rows at risk" in [metric.label for metric in app.metric]


def test_override_set_in_the_health_table_stands_in_the_form_of_the_next_transfer(target, space):
    app = check(open_page("tokens", view="Health of all rows"))
    app.selectbox(key="worst_by").set_value("longest rows").run()
    table = next(frame for frame in app.dataframe if "why" in frame.value.columns)
    token_id = int(table.value["id"].iloc[2])
    app.session_state["worst_longest rows_german"] = {"selection": {"rows": [2], "columns": [], "cells": []}}
    app.run()
    field = next(found for found in app.text_input if found.label == "Made of this text")
    field.set_value("the house")
    button(app, "Note it for the next transfer").click().run()
    check(app)
    assert not app.error
    (noted,) = OverrideList.of(space.root, space.models / SOURCE, space.models / HELPER).pairs()
    vocabulary = Vocabulary.open(target)
    assert vocabulary.find(noted[0]) == token_id
    form = check(open_page("transfer"))
    command = next(code.value for code in form.code if code.value.startswith("clp transfer"))
    assert "--override" in command
    assert "the house" in command


def test_reasons_in_the_health_table_are_those_of_the_report(space):
    from clp_core.transfer.explanation import Explainer
    from clp_core.transfer.options import TransferOptions
    from clp_core.transfer.pipeline import transfer
    from components.health import judged

    pair = [str(space.models / name) for name in (SOURCE, HELPER)]
    report = transfer(TransferOptions(*pair, str(space.models / "published"), method="clp"))
    explainer = Explainer.open(space.models / "published")
    why = judged("once", explainer, None)["why"]
    for reason, count in (("too long", "too_long"), ("cancelled", "cancelled"), ("collapsed", "collapsed")):
        assert why.str.contains(reason).sum() == getattr(report.health, count)
    assert (why != "").sum() == report.health.rows_at_risk > 1_000


@pytest.mark.process
def test_health_finds_near_duplicates_by_a_job(target, space):
    app = check(open_page("tokens", view="Health of all rows"))
    button(app, "Look for near-duplicates").click().run()
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "near-duplicates"]
    assert end_of(job).state == "finished", job.log_tail()
    after = check(open_page("tokens", view="Health of all rows"))
    card = next(metric for metric in after.metric if metric.label == "Near-duplicates")
    assert int(card.value.replace("\u202f", "")) <= len(job.result()["tokens"])


@pytest.mark.process
def test_agreement_of_helper_and_target_is_that_of_the_job(target, space):
    job = submit_agreement(space, str(space.models / HELPER), str(target))
    assert end_of(job).state == "finished", job.log_tail()
    app = check(open_page("tokens", view="Neighbour agreement", target="german"))
    card = next(metric for metric in app.metric if metric.label == "Mean share in common")
    assert float(card.value.split("\u202f")[0]) == pytest.approx(100 * job.result()["mean"], abs=0.06)
    assert sum(job.result()["histogram"]) == 6144


@pytest.mark.process
def test_agreement_refuses_models_of_different_tokenizers(target, space):
    app = check(open_page("tokens", view="Neighbour agreement", first=SOURCE, second="german"))
    assert "different tokenizers" in app.error[0].value
    job = submit_agreement(space, str(space.models / SOURCE), str(target))
    state = end_of(job)
    assert state.state == "failed"
    assert "different tokenizers" in state.reason


def test_tokens_shows_the_same_token_under_every_method(target, space):
    from clp_core.transfer.method_comparison import compare_methods
    from clp_core.transfer.method_comparison_options import CompareMethodsOptions

    app = check(open_page("tokens", token="Ġauch"))
    assert any("not compared on this pair yet" in told for told in said(app))
    pair = str(space.models / SOURCE), str(space.models / HELPER)
    compare_methods(CompareMethodsOptions(*pair, "clp,linear,mean"), space.cache)
    app = check(open_page("tokens", token="Ġauch"))
    table = app.dataframe[-1].value
    assert set(table["method"]) == {"clp", "linear", "mean"}
    assert table["nearest source tokens to the row"].str.len().min() > 5


@pytest.mark.parametrize("colour", ["status", "category", "script", "rank", "norm", "n_eff"])
def test_projection_colours_by_everything(target, colour):
    app = check(open_page("projection", shown="german", colour=colour))
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert sum(trace["type"] == "scattergl" for trace in figure["data"]) >= 1
    assert all("text" not in trace for trace in figure["data"])
    assert not app.error


def test_projection_flies_to_the_searched_token(target):
    app = check(open_page("projection", shown="german", token="Ġauch"))
    figure = json.loads(app.get("plotly_chart")[0].proto.spec)
    texts = [text for trace in figure["data"] if "text" in trace for text in trace["text"]]
    assert "<b>·auch</b>" in texts
    assert len(texts) == 11
    assert "range" in figure["layout"]["xaxis"]
    app.text_input[0].set_value("kein solches Wort").run()
    assert any("is no token" in told for told in said(check(app)))


def test_projection_shows_two_pictures_with_the_same_token(target):
    app = check(open_page("projection", shown="german", beside=SOURCE, token="Ġin"))
    figures = [json.loads(chart.proto.spec) for chart in app.get("plotly_chart")]
    assert len(figures) == 2
    for figure in figures:
        assert any("<b>·in</b>" in trace["text"] for trace in figure["data"] if "text" in trace)


def test_projection_lists_what_is_inside_a_box(target, space):
    from components.projection_view import chosen

    prepared = prepare(target, space.cache)
    import pandas as pd

    xy = prepared.pca[prepared.token_ids]
    points = pd.DataFrame({"id": prepared.token_ids, "x": xy[:, 0], "y": xy[:, 1]})
    low, high = np.quantile(xy, 0.4, axis=0), np.quantile(xy, 0.6, axis=0)
    box = {"x": [low[0], high[0]], "y": [low[1], high[1]]}
    within = ((xy >= low) & (xy <= high)).all(axis=1)
    drawn = points[within].iloc[::2]
    event = {"points": [{"customdata": int(i)} for i in drawn["id"]], "box": [box], "lasso": []}
    assert chosen(points, event, is_sampled=True).tolist() == within.tolist()
    assert chosen(points, event, is_sampled=False).sum() == len(drawn)


@pytest.mark.process
def test_projection_lays_out_by_umap_as_a_job(target, space):
    app = check(open_page("projection", shown=HELPER, layout="umap"))
    shown = next(code.value for code in app.code if code.value.startswith("clp project"))
    button(app, "Lay out by UMAP").click().run()
    (job,) = [job for job in JobStore(space.jobs).jobs() if job.kind == "project"]
    assert job.command == shown
    assert end_of(job).state == "finished", job.log_tail()
    assert check(open_page("projection", shown=HELPER, layout="umap")).get("plotly_chart")


@pytest.mark.process
def test_same_job_is_not_started_twice(target, space):
    first = submit_near_duplicates(space, str(target))
    second = submit_near_duplicates(space, str(target))
    assert first.id == second.id or first.status().is_over
    options = ProjectOptions(str(target), str(space.cache / "x.parquet"), method="pca")
    assert submit_project(space, options).id != first.id
    for job in JobStore(space.jobs).jobs():
        end_of(job)


def test_overlap_warns_where_raw_matching_is_fooled_by_word_marks(space, folders):
    pair = {"source": str(folders["byte-level", "de"]), "helper": str(folders["sentencepiece-bpe", "de"])}
    app = check(open_page("overlap", **pair))
    (told,) = [told for told in said(app) if "raw matching misses equal tokens" in told]
    canonical = Overlap.of(
        *(Vocabulary.open(folders[f, "de"]) for f in ("byte-level", "sentencepiece-bpe")), "canonical"
    )
    assert f"**{canonical.size}**" in told
    assert not any(
        "misses equal tokens" in told for told in said(check(open_page("overlap", match="canonical", **pair)))
    )


def test_empty_validation_text_is_passed_over(space):
    (space.texts / "a-valid.txt").write_text("\n \n")
    assert check(open_page("overlap")).metric


def test_unknown_target_in_the_address_is_named(target):
    app = check(open_page("tokens", target="nonexist"))
    assert any("nonexist" in told and "german" in told for told in said(app))


def test_target_of_a_workspace_that_was_moved_is_still_found(target, space, monkeypatch):
    moved = space.root.parent / "moved"
    space.root.rename(moved)
    monkeypatch.setenv("CLP_WORKSPACE", str(moved))
    for name in (SOURCE, HELPER, "german"):
        prepare(moved / "models" / name, moved / "cache")
    app = check(open_page("tokens", token="Ġauch"))
    assert "**initialised** by `linear`" in text_of(app)


def test_id_on_a_page_is_an_id_whatever_else_the_text_could_mean(folders):
    from clp_core.errors import InputError
    from components.token_view import meant

    for folder in folders.values():
        vocabulary = Vocabulary.open(folder)
        for token_id in range(vocabulary.n_ids):
            assert meant(vocabulary, f"#{token_id}") == token_id
        try:
            other = vocabulary.find("40")
        except InputError:
            other = 40
        assert meant(vocabulary, "40") == other
        with pytest.raises(InputError, match="largest"):
            meant(vocabulary, f"#{vocabulary.n_ids}")


def test_token_without_a_row_has_no_neighbours_and_no_page_breaks(space, tmp_path, tokenizers):
    from support.tiny_models import make_model

    short = make_model(space.models / "short", tokenizers["byte-level", "de"], rows=200)
    prepared = prepare(short, space.cache)
    missing = prepared.vocabulary.tokens[250]
    assert len(prepared.token_ids) == 200
    assert prepared.index.neighbours(250, 5) == []
    app = check(open_page("projection", shown="short", token=missing))
    assert not app.error
