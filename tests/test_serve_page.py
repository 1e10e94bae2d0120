"""The server's page in a real browser: with the keyboard, on a phone, in the dark, with a token."""

import dataclasses
import shutil

import numpy as np
import pytest
import serving_stand_in

from prompt_tuning_jax import save_prompt

NEEDS_BROWSER = "need a browser: apt-get install chromium, and pip install playwright"
CHROMIUM = shutil.which("chromium")
try:
    from playwright.sync_api import expect, sync_playwright
except ImportError:
    sync_playwright = None
pytestmark = pytest.mark.skipif(sync_playwright is None or CHROMIUM is None, reason=NEEDS_BROWSER)
TOKEN = "secret"
PHONE = {"width": 360, "height": 700}


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for seed, name in enumerate(("alpha", "beta", "deep/gamma")):
        values = np.random.default_rng(seed).normal(size=(3, 16))
        save_prompt(folder / name, values, verbalizers=["yes", "no", "a <b>label</b>"])
    save_prompt(folder / "free", np.ones((2, 16)))
    team = "team", ["alpha", "beta"]
    with serving_stand_in.over(folder, model, [team]) as engine:
        yield engine


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(engine):
    with serving_stand_in.served(engine, serving_stand_in.SETTINGS) as address:
        yield address


@pytest.fixture
def open_page(browser, address):
    """Opens the page; what it asks for, and what it complains of, is looked at in the end."""
    faults, contexts = [], []

    def open_page(at=address, **facts):
        contexts.append(browser.new_context(**facts))
        page = contexts[-1].new_page()
        page.set_default_timeout(10_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on(
            "console",
            lambda said: faults.append(said.text) if said.type == "error" else None,
        )
        page.on(
            "request",
            lambda asked: (
                faults.append(asked.url) if not asked.url.startswith((at, "data:")) else None
            ),
        )
        page.goto(at)
        return page

    yield open_page
    for context in contexts:
        context.close()
    refused = "Failed to load resource"  # what a test asked for wrongly
    assert [fault for fault in faults if refused not in fault] == []


def test_answers_side_by_side(open_page):
    page = open_page()
    expect(page.locator("#load")).to_contain_text("ready")
    boxes = page.locator("#prompts input")
    expect(boxes).to_have_count(6)  # base, five prompts
    expect(page.locator("#prompts input:checked")).to_have_count(3)
    page.get_by_label("free").check()
    page.get_by_role("textbox", name="Text").fill("the soup was good")
    page.get_by_role("button", name="Answer").click()
    cards = page.locator("article[data-done]")
    expect(cards).to_have_count(4)
    alpha = cards.filter(has=page.get_by_role("heading", name="alpha"))
    expect(alpha.locator(".answer")).to_have_text("yes")
    expect(alpha.locator(".row")).to_have_count(3)
    expect(alpha.locator(".row.best")).to_contain_text("66.5 %")
    expect(alpha.locator(".row").last).to_contain_text("a <b>label</b>")
    share = alpha.locator(".row.best i").evaluate("i => i.offsetWidth / i.parentNode.offsetWidth")
    assert share == pytest.approx(0.665, abs=0.02)
    free = cards.filter(has=page.get_by_role("heading", name="free"))
    expect(free.locator(".answer")).to_have_text("the soup was good")
    alpha.get_by_role("button", name="nearest words").click()
    expect(alpha.locator("tr")).to_have_count(3)
    alpha.get_by_role("button", name="nearest words").click()
    expect(alpha.locator("tr")).to_have_count(0)


def test_labels_of_ones_own_and_an_ensembles_votes(open_page):
    page = open_page()
    for name in ("alpha", "beta", "deep/gamma"):
        page.get_by_label(name).uncheck()
    expect(page.get_by_role("button", name="Answer")).to_be_disabled()
    page.get_by_label("team").check()
    page.get_by_role("textbox", name="Text").fill("soup")
    page.get_by_role("textbox", name="Labels").fill("soup, bread")
    page.get_by_role("button", name="Answer").click()
    expect(page.locator("article .row.best")).to_have_text("soup73.1 %  2 votes")


def test_the_keyboard_alone(open_page):
    page = open_page()
    expect(page.locator("#prompts input:checked")).to_have_count(3)
    page.keyboard.press("Tab")
    page.keyboard.type("gamma")
    expect(page.get_by_label("deep/gamma")).to_be_visible()
    expect(page.locator("#found")).to_contain_text("1 found")
    for _ in range(10):  # to the last box, past those that are chosen already
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "text":
            break
    page.keyboard.type("soup")
    page.keyboard.press("Control+Enter")
    expect(page.locator("article[data-done]")).to_have_count(3)
    shown = page.locator("#text").evaluate("x => getComputedStyle(x).outlineStyle")
    assert shown == "solid"


def test_an_error_is_shown(open_page):
    page = open_page()
    page.get_by_role("textbox", name="Text").fill("soup " * 40)
    page.get_by_role("button", name="Answer").click()
    expect(page.locator("article .error").first).to_contain_text("tokens")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_by_day_and_by_night(open_page, scheme):
    page = open_page(viewport=PHONE, color_scheme=scheme)
    page.get_by_role("textbox", name="Text").fill("soup " * 8)
    page.get_by_role("button", name="Answer").click()
    expect(page.locator("article[data-done]")).to_have_count(3)
    page.locator("article button").first.click()
    expect(page.locator("tr").first).to_be_visible()
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= PHONE["width"]
    paper, ink = page.evaluate(
        "(s => [s.backgroundColor, s.color])(getComputedStyle(document.body))"
    )
    light = [sum(map(int, one[4:-1].split(","))) for one in (paper, ink)]
    assert (light[0] > 700 and light[1] < 200) if scheme == "light" else light[0] < 120 < light[1]


def test_a_server_that_wants_its_token(open_page, engine):
    with serving_stand_in.served(
        engine, dataclasses.replace(serving_stand_in.SETTINGS, token=TOKEN)
    ) as address:
        page = open_page(address)
        expect(page.get_by_role("dialog")).to_be_visible()
        page.get_by_label("Token", exact=True).fill(TOKEN)
        page.keyboard.press("Enter")
        expect(page.locator("#prompts input")).to_have_count(6)
        expect(page.get_by_role("dialog")).to_be_hidden()
        page.reload()
        expect(page.locator("#prompts input")).to_have_count(6)
        page.close()


def test_the_documentation_on_a_phone(open_page, address):
    page = open_page(address + "/docs", viewport=PHONE)
    page.get_by_role("link", name="POST /v1/classify").click()
    expect(page.get_by_role("heading", name="POST /v1/classify")).to_be_in_viewport()
    page.get_by_role("link", name="ErrorBody").first.click()
    expect(page.get_by_role("heading", name="ErrorBody")).to_be_in_viewport()
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
