"""The page needs nothing but itself, and shows any text as text."""

import dataclasses
import io
import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from rich.console import Console

from prompt_tuning_jax.interpretation import page, pictures
from prompt_tuning_jax.interpretation.analysis import Snapshot, analyse
from prompt_tuning_jax.interpretation.table import print_findings

EVIL = "<script>alert('a & b')</script>"
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Collects elements and texts, and insists that elements are closed in order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes, self.texts = [], set(), [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def prompt(vocabulary):
    return np.random.default_rng(0).normal(0, 1, (6, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def table(vocabulary):
    return np.random.default_rng(1).normal(0, 1, (vocabulary.size, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def found(prompt, table, vocabulary):
    snapshots = [Snapshot(0, table[5:11], {}), Snapshot(4, prompt, {"accuracy": 50.0})]
    facts = {"task": "food", "path": "runs/food/best", "scores": {"accuracy": 50.0}}
    return analyse(
        prompt, table, vocabulary, labels=["yes", "no"], snapshots=snapshots, facts=facts
    )


@pytest.fixture(scope="module")
def evil(found):
    """The same findings where every text is an attack."""

    def poison(value):
        if isinstance(value, str):
            return EVIL
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            kept = {n: getattr(value, n) for n in names if n == "kind"}
            return dataclasses.replace(
                value, **{n: poison(getattr(value, n)) for n in names} | kept
            )
        if isinstance(value, dict):
            return {key: poison(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(map(poison, value))
        return value

    labels = dataclasses.replace(
        found.labels, words=[EVIL], positions={EVIL: [1]}, best={EVIL: (1, 2)}
    )
    return dataclasses.replace(poison(found), labels=labels, notes=[EVIL], norms=found.norms)


def html_of(found):
    drawn = pictures.draw(found)
    return page.to_html(found, {name: pictures.to_svg(name, each) for name, each in drawn.items()})


@pytest.fixture(scope="module")
def html(found):
    return html_of(found)


def test_the_page_is_self_contained(html):
    parsed = Page(html)
    assert not parsed.tags & {"script", "link", "iframe", "object"}
    assert "//" not in re.sub(r"data:image/png;base64,[\w+/=\s]+", "", html)
    references = [v for n, v in parsed.attributes if n in ("src", "href", "xlink:href", "srcset")]
    assert references
    assert all(reference.startswith(("#", "data:image/png")) for reference in references)
    assert all("url(#" in v for _, v in parsed.attributes if v and "url(" in v)


def test_ids_in_the_page_are_unique_or_equal_in_meaning(found):
    """Pictures name their clip paths and markers; one picture's must not become another's."""
    drawn = pictures.draw(found)
    assert set(drawn) == {"norms", "similarity", "map", "changes"}
    clips = [
        set(re.findall(r'<clipPath id="([^"]+)"', pictures.to_svg(name, each)))
        for name, each in drawn.items()
    ]
    assert len(set().union(*clips)) == sum(map(len, clips))


def test_the_page_shows_what_was_found(found, html):
    shown = " ".join(Page(html).texts)
    for position in found.positions:
        for piece in position.cosine:
            assert piece.text in shown
            assert f"{piece.value:.2f}" in shown
    for text in ("food", "runs/food/best", "accuracy 50", "yes", "Drift", "2 steps kept, 0 to 4"):
        assert text in shown


def test_light_and_dark_are_one_page(html):
    assert "prefers-color-scheme: dark" in html
    svgs = re.findall(r"<svg.*?</svg>", html, re.DOTALL)
    assert len(svgs) == 4
    for svg in svgs:
        assert "var(--ink)" in svg
        assert not any(colour in svg for colour in pictures.COLOURS)


def test_any_text_is_text(evil):
    parsed = Page(html_of(evil))
    assert "script" not in parsed.tags
    assert EVIL in " ".join(parsed.texts)


def test_a_dollar_is_no_formula_and_no_placeholder(evil):
    def renamed(value, text):
        return dataclasses.replace(value, text=text)

    positions = [
        dataclasses.replace(each, cosine=[renamed(piece, "$k $x_$") for piece in each.cosine])
        for each in evil.positions
    ]
    points = [renamed(point, "$k $x_$") for point in evil.map]
    shown = Page(html_of(dataclasses.replace(evil, positions=positions, map=points))).texts
    assert "$k $x_$" in shown


def test_without_labels_or_run_the_page_says_what_to_do(prompt, table, vocabulary):
    text = html_of(analyse(prompt, table, vocabulary, k=1, notes=["A note."]))
    assert text.count("--model_dir") == 2
    assert "--verbalizers" in text
    assert "A note." in text
    Page(text)


@pytest.mark.parametrize("length", [1, 2])
def test_short_prompts_are_drawn(prompt, table, vocabulary, length):
    Page(html_of(analyse(prompt[:length], table, vocabulary, k=1)))


def test_output_is_a_page_pictures_and_json(found, tmp_path):
    path = page.write_output(found, tmp_path / "new" / "meaning")
    names = {"norms.png", "similarity.png", "map.png", "changes.png", "interpretation.json"}
    assert {each.name for each in path.parent.iterdir()} == names | {"index.html"}
    assert json.loads((path.parent / "interpretation.json").read_text("utf-8")) == found.to_json()
    for name in names - {"interpretation.json"}:
        assert (path.parent / name).read_bytes().startswith(b"\x89PNG")
    first = path.read_bytes()
    assert page.write_output(found, path.parent).read_bytes() == first


def test_the_terminal_shows_markup_as_text(evil):
    console = Console(record=True, width=200, file=io.StringIO())
    print_findings(dataclasses.replace(evil, notes=["[bold]as it is[/bold]"]), console)
    shown = console.export_text()
    assert "[bold]as it is[/bold]" in shown
    assert EVIL in shown
