"""The playground in a real browser: one prompt to two models, texts that grow, a stop, and the memory given back."""

import os

import pytest
from playwright.sync_api import expect
from support.browser import browser_path, context, emptied, listen, server, settle, shoot, space  # noqa: F401
from support.jobs import end_of

from clp_core.playground.session import sessions

pytestmark = pytest.mark.browser
if browser_path is None and not os.environ.get("CLP_REQUIRE_BROWSER"):
    pytest.skip("NO BROWSER FOUND: install chromium to run the browser tests", allow_module_level=True)

PAIR = "demo-source-en,demo-helper-de"
PROMPT = "<b onclick=x>Es war</b> # einmal"


def texts_of(page):
    return [element.inner_text() for element in page.locator(".said").all()[:2]]


def test_prompt_is_answered_side_by_side_stopped_and_the_memory_given_back(server, context, space, emptied):
    page = context.new_page()
    errors = listen(page)
    page.goto(f"{server}/playground?models={PAIR}")
    settle(page)
    page.get_by_text("No memory is held").wait_for()
    page.get_by_role("textbox", name="Prompt").fill(PROMPT)
    page.get_by_text("Settings", exact=True).click()
    settle(page)  # what it opens moves while it opens
    page.get_by_role("spinbutton", name="Tokens at most").fill("180")
    page.get_by_text("Ignore the end of text").click()
    expect(page.get_by_role("switch", name="Ignore the end of text")).to_be_checked()
    page.get_by_role("button", name="Send").dblclick()
    page.wait_for_function(
        "[...document.querySelectorAll('.said')].slice(0, 2).filter(e => e.innerText.length > 45).length == 2",
        timeout=120_000,
    )
    before = texts_of(page)
    assert all(text.startswith(PROMPT) for text in before)
    shoot(page, "playground-live")
    page.wait_for_function(
        f"[...document.querySelectorAll('.said')].slice(0, 2).every((e, i) => e.innerText.length > "
        f"{[len(text) for text in before]}[i])"
    )
    assert all(later.startswith(text) for later, text in zip(texts_of(page), before, strict=True))

    second = context.new_page()
    second.goto(page.url)
    second.get_by_text("Prompt 1 is being answered").wait_for()
    second.close()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_text("stopped", exact=True).first.wait_for()
    (session,) = sessions(space)
    assert session.numbers() == [1]  # the double click and the other tab have asked nothing twice
    assert all(0 < answer.tokens < 180 for answer in session.answers(1))
    page.get_by_text("given back in").wait_for()
    settle(page)
    shoot(page, "playground-stopped")
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 1000, "height": 1000})
    settle(page)
    shoot(page, "playground-dark")

    page.get_by_role("button", name="Give the memory back").click()
    page.get_by_text("No memory is held").wait_for()
    assert end_of(session.job).state == "stopped"
    page.close()
    assert errors == []
