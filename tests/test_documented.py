"""Every command that a page, a gin file's header, a card or a docstring shows can be understood."""

import re
from pathlib import Path

import documented
import gin
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = documented.pages(ROOT)
FILES = [
    *PAGES,
    *(ROOT / "gin_configs").rglob("*.gin"),
    *(ROOT / "prompt_tuning_jax").rglob("*.py"),
    *(ROOT / "scripts").glob("*.py"),
]
# In words that stand for others, or ask for help.
OPEN = ("...", "--help", "COMMAND", "path/to", "{checkpoint", "NAME.npy")


@pytest.fixture(autouse=True)
def clean():
    yield
    gin.clear_config()


def shown():
    """(file, words) of every command that is whole."""
    for path in FILES:
        for words in documented.commands(path.read_text()):
            named_only = len(words) == 2 and words[0] in ("checkpoint", "combine")
            if not named_only and not any(part in word for part in OPEN for word in words):
                yield str(path.relative_to(ROOT)), words


@pytest.mark.parametrize(
    ("file", "words"),
    shown(),
    ids=lambda value: value if isinstance(value, str) else " ".join(value)[:60],
)
def test_the_command_line_takes_it(file, words):
    documented.config_of(words)


def test_there_are_many():
    assert len(list(shown())) > 80


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text()):
        file, _, heading = target.partition("#")
        there = (page.parent / file) if file else page
        assert there.exists(), target
        assert not heading or heading in headings(there), target


def headings(page):
    """As links name them."""
    lines = re.findall(r"^#+ (.*)", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-") for line in lines}


def test_every_page_is_reached_from_the_readme():
    """By one link, or two."""
    reached = {PAGES[0]}
    for _ in range(2):
        for page in list(reached):
            targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text())
            reached |= {(page.parent / target).resolve() for target in targets}
            reached = {path for path in reached if path.suffix == ".md"}
    assert {page for page in PAGES if page.name == "README.md"} <= reached
