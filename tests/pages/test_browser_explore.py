"""The exploring pages in a real browser: matrix, search by keyboard, override, box to table, hover, deep links."""

import os
import re
import urllib.parse
from pathlib import Path

import pytest
from support.browser import browser_path, context, go_to, listen, server, settle, shoot, space, written  # noqa: F401
from support.tiny_models import FAMILIES

from clp_core.tokenization.overlap import Overlap
from clp_core.tokenization.vocabulary import Vocabulary

pytestmark = pytest.mark.browser
if browser_path is None and not os.environ.get("CLP_REQUIRE_BROWSER"):
    pytest.skip("NO BROWSER FOUND: install chromium to run the browser tests", allow_module_level=True)

REAL = Path(__file__).resolve().parents[3] / "shared" / "tokenizers"

WHERE_IS_A_DOT = """() => {
  const plot = document.querySelector('.js-plotly-plot');
  const trace = plot._fullData[0], { xaxis, yaxis } = plot._fullLayout;
  const area = plot.querySelector('.nsewdrag').getBoundingClientRect();
  return [trace._length, area.x + xaxis.d2p(trace.x[100]), area.y + yaxis.d2p(trace.y[100])];
}"""
TOLD = """() => [...document.querySelectorAll('*')].some(host => {
  const tip = host.shadowRoot?.querySelector('.tip');
  return tip?.style.display === 'block' && / · (copied|initialised) · /.test(tip.textContent);
})"""
HAS_NEIGHBOURS = """() => document.querySelector('.js-plotly-plot')?._fullData?.some(
  trace => trace.name === 'nearest in the full space')"""


@pytest.fixture
def page(context):
    """A page whose console must stay clean."""
    page = context.new_page()
    page.set_default_timeout(30_000)
    complaints = listen(page)
    yield page
    page.close()
    assert complaints == []


def test_matrix_of_four_tokenizers_in_the_dark(server, page, folders):
    real = [REAL / name for name in ("gpt2", "mistral-v3", "xlm-r", "bert")]
    chosen = real if all(folder.is_dir() for folder in real) else [folders[family, "de"] for family in FAMILIES]
    page.emulate_media(color_scheme="dark")
    query = urllib.parse.urlencode({"view": "Many tokenizers", "source": chosen[0], "helper": chosen[1]})
    page.goto(f"{server}/overlap?{query}")
    settle(page)
    for folder in chosen[2:]:
        field = page.get_by_role("combobox", name=re.compile("Tokenizers"))
        field.fill(str(folder))
        field.press("Enter")
        page.get_by_text(str(folder)).first.wait_for()
    settle(page)
    overlap = Overlap.of(Vocabulary.open(chosen[2]), Vocabulary.open(chosen[3]))
    page.wait_for_function(
        "() => document.querySelector('.js-plotly-plot')?._fullData?.[0]?.z?.length >= 4", timeout=60_000
    )
    shares = page.evaluate(
        "(() => { const map = document.querySelector('.js-plotly-plot')._fullData[0];"
        " return [map.y.map(String), map.z.map(row => Array.from(row))]; })()"
    )
    places = [next(i for i, name in enumerate(shares[0]) if name.startswith(folder.name)) for folder in chosen[2:]]
    assert shares[1][places[0]][places[1]] == pytest.approx(overlap.share_of_source)
    shoot(page, "matrix-dark")


def test_overlap_bar_opens_its_tokens(server, page, written):
    page.goto(f"{server}/overlap")
    settle(page)
    page.locator(".js-plotly-plot .point").first.click(force=True)
    page.get_by_text("copied · category word start").wait_for()
    settle(page)
    overlap = Overlap.of(*(Vocabulary.open(written.parent / name) for name in ("demo-source-en", "demo-helper-de")))
    counts = overlap.by("category").set_index("group")["copied"]
    told = page.get_by_text("copied · category word start").inner_text()
    assert f": {counts['word start']} tokens" in told
    shoot(page, "overlap-bar")


def test_token_is_found_by_keyboard_alone(server, page, written):
    page.goto(f"{server}/tokens?target=german")
    settle(page)
    page.wait_for_function("document.activeElement?.ariaLabel === 'Token'")
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type("Ġauch", delay=30)  # no Enter: it follows the typing
    page.get_by_text("20 61 75 63 68").wait_for()
    page.get_by_text("Made again just now").wait_for()
    settle(page)
    assert "token=%C4%A0auch" in page.url
    shoot(page, "tokens-typed")
    page.locator("h1").click()
    page.keyboard.press("/")
    page.wait_for_function("document.activeElement?.ariaLabel === 'Token'")


def test_address_of_a_token_opens_exactly_that(server, page, written):
    page.goto(f"{server}/tokens?token=%23300&target=german&view=Health+of+all+rows")
    settle(page)
    page.get_by_role("heading", name="Which rows are at risk?").wait_for()
    page.get_by_role("tab", name="Token", exact=True).click()
    page.get_by_text("raw string").wait_for()
    assert page.get_by_role("textbox", name="Token").input_value() == "#300"


def test_override_of_a_row_goes_into_the_next_transfer(server, page, written):
    page.set_viewport_size({"width": 1400, "height": 1900})  # a menu closes where the page scrolls under it
    page.goto(f"{server}/tokens?target=german&view=Health+of+all+rows")
    page.get_by_role("combobox", name=re.compile("Worst by")).wait_for()
    settle(page)
    page.get_by_role("combobox", name=re.compile("Worst by")).click()
    page.locator("[role=option]", has_text="longest rows").click()
    settle(page)
    table = page.locator("[data-testid=stDataFrame] canvas").last
    table.scroll_into_view_if_needed()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 52)
    field = page.get_by_role("textbox", name="Made of this text")
    field.fill("the old house")
    page.get_by_role("button", name="Note it for the next transfer").click()
    page.get_by_text("Noted:").wait_for()
    shoot(page, "override")
    go_to(page, "transfer")
    page.locator("code", has_text="--override").first.wait_for()
    assert "the old house" in page.locator("code", has_text="--override").first.inner_text()


def test_box_in_the_picture_becomes_a_table_and_the_pointer_tells_the_token(server, page, written):
    page.goto(f"{server}/projection?shown=german")
    settle(page)
    page.locator(".js-plotly-plot .nsewdrag").first.wait_for()
    settle(page)
    area = page.locator(".js-plotly-plot .nsewdrag").first.bounding_box()
    dot = page.evaluate(WHERE_IS_A_DOT)
    assert dot[0] > 1000
    page.mouse.move(dot[1] - 3, dot[2])
    page.mouse.move(dot[1], dot[2], steps=4)
    page.wait_for_function(TOLD)
    page.mouse.move(dot[1] - 40, dot[2] - 40)
    page.mouse.down()
    page.mouse.move(dot[1] + 40, dot[2] + 40, steps=6)
    page.mouse.up()
    page.get_by_text("tokens are selected").wait_for()
    settle(page)
    assert area["width"] > 300
    shoot(page, "projection-box")
    with page.expect_download() as download:
        page.get_by_role("button", name="Download as CSV", exact=True).click()
    lines = Path(download.value.path()).read_text(encoding="utf-8").splitlines()
    told = page.get_by_text("tokens are selected").inner_text()
    assert len(lines) - 1 == int("".join(c for c in told.split("tokens")[0] if c.isdigit()))


def test_search_in_the_picture_flies_and_draws_neighbours(server, page, written):
    page.goto(f"{server}/projection?shown=german&colour=norm")
    settle(page)
    field = page.get_by_role("textbox", name="Find a token")
    field.fill("Ġauch")
    field.press("Enter")
    page.wait_for_function(HAS_NEIGHBOURS)
    settle(page)
    shoot(page, "projection-search")
    assert "token=%C4%A0auch" in page.url


def test_five_megabytes_of_pasted_text_are_measured_in_part(server, page, context, written):
    page.goto(f"{server}/overlap?view=On+a+text")
    settle(page)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    field = page.get_by_role("textbox", name="The text, in the target language")
    line = "Der alte Fuchs läuft <b>über</b> den Fluss.\n"
    page.evaluate("text => navigator.clipboard.writeText(text.repeat(115000))", line)
    field.click()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.press("ControlOrMeta+v")
    page.get_by_text("were kept").wait_for()
    page.keyboard.press("ControlOrMeta+Enter")
    settle(page)
    assert field.input_value().startswith(line)
    assert len(field.input_value()) == 200_000
    assert page.locator("[data-testid=segments] .pill").count() > 1_000
    assert page.locator("[data-testid=segments] b").count() == 0
    shoot(page, "overlap-long-text")
