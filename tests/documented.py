"""The commands that texts show, and whether the command line takes them."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_tuning_jax.commands import cli
from prompt_tuning_jax.settings import command_line


def commands(text: str) -> Iterator[list[str]]:
    """The words after each `prompt-tuning` that stands in code, inline or on a line of its own."""
    text = re.sub(r"\\+\n[\s#]*", " ", text)
    inline = re.findall(r"`prompt-tuning ([^`]+)`", text)
    lines = re.findall(r"^[#\s]*(?:[^`\n]*\| |\| )?prompt-tuning ([^`\n]+)$", text, re.MULTILINE)
    for line in [*inline, *lines]:
        words = shlex.split(re.sub(r" (?:[12]?>|< ).*", "", line), comments=True)
        if words[0] in cli.COMMANDS and len(words) > 1:
            yield words


def config_of(words: list[str]) -> Any:
    """What the command line makes of a command's words; a mistake in them is raised."""
    name, *rest = words
    module = cli.COMMANDS[name].load()
    config_class = getattr(module, "CONFIG", None)
    if config_class is None:
        inner, *rest = rest
        config_class, name = module.COMMANDS[inner].config, f"{name} {inner}"
    return command_line.parse(config_class, rest, "", f"prompt-tuning {name}")


def pages(root: Path) -> list[Path]:
    """Every page of the repository, and every card."""
    folders = ("prompt_tuning_jax", "gin_configs", "tasks", "scripts")
    inside = (path for folder in folders for path in (root / folder).rglob("*.md"))
    return [root / "README.md", *sorted(inside)]
