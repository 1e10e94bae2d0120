"""The facts of a task as tables for people; `task_facts` finds them."""

import itertools
import json
from collections.abc import Sequence
from typing import Any

import rich.console
import rich.table
import rich.text

from prompt_tuning_jax.data.task_facts import Facts

MOST_TOKENS = 60  # of a row; an input of 500 would hide everything else
MOST_TARGETS = 20
MOST_TEXT = 2000  # characters of a record or a text
BAR = 40


def print_facts(facts: Facts, console: rich.console.Console) -> None:
    """Prints everything; colours and width are the console's."""
    splits = ", ".join(facts["splits"])
    title = rich.text.Text(facts["task"], style="bold")
    console.rule(title.append(f", split {facts['split']} (of {splits})", style="not bold"))
    if facts["rates"]:
        console.print(_two_columns("mixture of", "rate", list(facts["rates"].items())))
    for index, record in enumerate(facts["records"]):
        _print_titled(console, f"record {index}", _cut(json.dumps(record, ensure_ascii=False)))
    for index, example in enumerate(facts["examples"]):
        _print_example(console, index, example)
    _print_verbalizers(console, facts)
    _print_targets(console, facts)
    for sentence in facts["lost"]["sentences"]:
        console.print(rich.text.Text(sentence, style="red"), soft_wrap=True)
    for feature, lengths in facts["lengths"].items():
        _print_lengths(console, feature, lengths, facts["counted"])


def _print_titled(console: rich.console.Console, title: str, text: str) -> None:
    line = rich.text.Text(f"{title}: ", style="bold")
    line.append(text, style="not bold")
    console.print(line)


def _print_example(console: rich.console.Console, index: int, example: Facts) -> None:
    console.rule(f"example {index}", align="left")
    for feature in ("inputs", "targets"):
        part = example[feature]
        count = len(part["ids"])
        _print_titled(console, feature, _cut(part["text"]))
        _print_titled(console, f"{feature}, {count} tokens", _joined(_token_parts(part)))
    row = example["row"]
    _print_titled(console, f"row, {len(row['ids'])} positions", _joined(_row_parts(row)))


def _token_parts(part: Facts) -> list[str]:
    return [f"{piece}·{token}" for piece, token in zip(part["pieces"], part["ids"], strict=True)]


def _row_parts(row: Facts) -> list[str]:
    """Tokens, and each stretch of prompt positions as one part."""
    cells = list(zip(_token_parts(row), row["prompt_positions"], strict=True))
    parts = []
    for is_prompt, group in itertools.groupby(cells, key=lambda cell: cell[1] >= 0):
        group = list(group)
        if is_prompt:
            parts.append(f"[prompt {group[0][1]}..{group[-1][1]}]")
        else:
            parts += [part for part, _ in group]
    return parts


def _joined(parts: Sequence[str]) -> str:
    """Parts with blanks between; of many, the first and the last."""
    if len(parts) <= MOST_TOKENS:
        return " ".join(parts)
    half = MOST_TOKENS // 2
    skipped = f"... {len(parts) - 2 * half} more ..."
    return " ".join([*parts[:half], skipped, *parts[-half:]])


def _cut(text: str) -> str:
    if len(text) <= MOST_TEXT:
        return text
    return f"{text[:MOST_TEXT]} ... {len(text) - MOST_TEXT} more characters"


def _print_verbalizers(console: rich.console.Console, facts: Facts) -> None:
    console.rule("targets", align="left")
    if facts["verbalizers"] is None:
        console.print("no verbalizers: predictions are generated, not ranked")
        return
    rows = [(word["text"], " ".join(_token_parts(word))) for word in facts["verbalizers"]]
    console.print(_two_columns("verbalizer", "tokens", rows))
    if facts["alike"]:
        console.print(rich.text.Text(facts["alike"], style="red"), soft_wrap=True)


def _print_targets(console: rich.console.Console, facts: Facts) -> None:
    targets, counted = facts["targets"], facts["counted"]
    counts = list(targets["counts"].items())
    rows = [(_cut(text), f"{n}  {n / counted:.1%}") for text, n in counts[:MOST_TARGETS]]
    others = targets["others"] + sum(n for _, n in counts[MOST_TARGETS:])
    if others:
        rows.append(("(others)", f"{others}  {others / counted:.1%}"))
    whole = "all" if facts["complete"] else "the first"
    whole = "a sample of" if facts["rates"] else whole
    console.print(_two_columns(f"target, in {whole} {counted} examples", "examples", rows))
    if targets.get("not_verbalizers"):
        console.print(f"{targets['not_verbalizers']} targets are no verbalizer", style="red")


def _print_lengths(
    console: rich.console.Console, feature: str, lengths: Facts, counted: int
) -> None:
    console.rule(f"{feature}: tokens, EOS included, without the prompt", align="left")
    console.print(
        f"mean {lengths['mean']:.1f}, median {lengths['median']}, 95 percent up to "
        f"{lengths['percentile_95']}, longest {lengths['longest']}"
    )
    most = max(count for _, count in lengths["histogram"])
    table = rich.table.Table(box=None, header_style="bold")
    table.add_column("up to", justify="right")
    table.add_column("examples", justify="right")
    table.add_column("")
    for edge, count in lengths["histogram"]:
        table.add_row(str(edge), str(count), "█" * -(-BAR * count // most))
    console.print(table)
    console.print(f"cut at {lengths['limit']}: {lengths['truncated']:.2%} of {counted} examples")


def _two_columns(first: str, second: str, rows: Sequence[tuple[Any, Any]]) -> rich.table.Table:
    table = rich.table.Table(box=None, header_style="bold")
    table.add_column(first)
    table.add_column(second)
    for left, right in rows:
        table.add_row(rich.text.Text(str(left)), rich.text.Text(str(right)))
    return table
