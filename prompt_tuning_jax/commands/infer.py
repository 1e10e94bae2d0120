"""Predictions for a file, or for lines on standard input, in order.

    echo "The soup was cold and the waiter rude." | prompt-tuning infer --prompt bundled_sentiment

Input is one JSON object a line, whose fields --input_template may name, or plain lines. Output is
one JSON object a line: the prediction, its score, and, for rank classification, every label's
score. Changing the prompt file is all it takes to change the task.

Several prompts answer together, as an ensemble, or, with --prompt_field, each record is answered
with the prompt that it names; one batch mixes them:

    echo '{"text": "The soup was cold.", "prompt": "bundled_sentiment"}' \\
      | prompt-tuning infer --input_template '{text}' \\
        --prompts bundled_sentiment bundled_season --prompt_field prompt
"""

import contextlib
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import jax

from prompt_tuning_jax.banks import PromptLike, TunedBank, TunedPrompt
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.data.templates import (
    Template,
    check_unicode,
    field_text,
    words_of,
)
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.answers import Answer, Choices, answer
from prompt_tuning_jax.evaluation.scoring import apply_text_prompt
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.prompt_config import (
    check_prompts,
    load_prompts,
    own_words,
)

CONFIG = InferConfig
CHUNK = 1024  # records read before any is answered: memory stays bounded on a file of any size
_LINES = 'With an input template, every line is an object such as {"text": "..."}.'
# Settings that are handed on as they are.
ANSWERING = (
    "batch_size",
    "max_input_length",
    "max_length",
    "beams",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "seed",
)


def infer(config: InferConfig | None = None, **options: Any) -> None:
    """Reads inputs, writes one JSON line for each.

    Raises:
      ValueError: a record that is no JSON object, or lacks a field of the template; it names the
        line.
    """
    config = dataclasses.replace(config or InferConfig(), **options)
    check_settings(config)
    template = None if config.input_template is None else Template(config.input_template)
    mesh = sharding.make_mesh(config.mesh)
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh)
    prompt = load_prompts(config, model)
    legal = legal_answers(config, prompt)
    with _source(config.input_file) as source, _target(config.output) as output:
        inputs, first = read_inputs(source, template, config.prompt_field), 0
        while chunk := list(itertools.islice(inputs, CHUNK)):
            for line in predict(config, model, chunk, prompt, legal, first):
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
            output.flush()
            first += len(chunk)


def check_settings(config: InferConfig) -> None:
    """What can be checked before anything is loaded."""
    check_prompts(config)
    if config.input_template is not None and not Template(config.input_template).fields:
        raise ValueError(
            f"{spelled('input_template')} {config.input_template!r} names no field, so every input "
            "would be the same: write a record's fields in braces, such as '{text}'."
        )
    if config.text_prompt is not None:
        check_unicode(config.text_prompt, spelled("text_prompt"))
    if config.prompt_field is not None and config.input_template is None:
        raise ValueError(
            f"{spelled('prompt_field')} is a field of JSON records: say with "
            f"{spelled('input_template')} which other fields are the input, such as '{{text}}'."
        )


def is_ensemble(config: InferConfig) -> bool:
    """Whether several prompts answer every record together."""
    return config.prompts is not None and config.prompt_field is None


def legal_answers(
    config: InferConfig, prompt: TunedPrompt | TunedBank | None
) -> dict[str | None, Choices]:
    """Prompt name -> the answers to rank, or None where text is generated.

    The name is None where records name no prompt.

    Raises:
      ValueError: answers are asked to be ranked, but unknown; or the members of an ensemble know
        different ones.
    """
    given = None if config.verbalizers is None else words_of(config.verbalizers)
    bank = {None: prompt} if config.prompts is None else prompt.prompts
    legal: dict[str | None, Choices] = {}
    for name, one in bank.items():
        own = given or (own_words(one) if one else None)
        if config.predictions == "rank" and not own:
            raise ValueError(
                f"{spelled('predictions', 'rank')} needs {spelled('verbalizers')}, the legal "
                "answers."
            )
        legal[name] = None if config.predictions == "generate" else own
    if is_ensemble(config):
        if len({own and frozenset(own) for own in legal.values()}) > 1:
            answers = "; ".join(f"{name}: {own and list(own)}" for name, own in legal.items())
            raise ValueError(
                f"The members of an ensemble need the same answers, these have others ({answers}). "
                f"Set {spelled('verbalizers')}, or name each record's prompt with "
                f"{spelled('prompt_field')}."
            )
        legal[None] = next(iter(legal.values()))
    return legal


def predict(
    config: InferConfig,
    model: FrozenModel,
    inputs: Sequence["Input"],
    prompt: TunedPrompt | TunedBank | None,
    legal: Mapping[str | None, Choices],
    first: int,
) -> Iterator[dict[str, Any]]:
    """The answers to some inputs, of which the first is number `first`, as JSON objects."""
    texts = [one.text for one in inputs]
    if config.text_prompt is not None:
        texts = [apply_text_prompt(config.text_prompt, text) for text in texts]
    used = prompts_of(config, prompt, inputs)
    choices = [legal[one.prompt] for one in inputs]
    options = {name: getattr(config, name) for name in ANSWERING}
    answers = answer(model, texts, choices, used, first=first, **options)
    for one, found in zip(inputs, answers, strict=True):
        yield as_line(one, found, votes=is_ensemble(config))


def prompts_of(
    config: InferConfig, prompt: TunedPrompt | TunedBank | None, inputs: Sequence["Input"]
) -> PromptLike:
    """The one prompt; of several, those that the records name, or all of them together."""
    if config.prompts is None:
        return prompt
    if is_ensemble(config):
        return prompt.ensemble()
    for one in inputs:
        if one.prompt not in prompt.prompts:
            raise ValueError(
                f"Line {one.line} of the input names the prompt {one.prompt!r}; there are "
                f"{', '.join(prompt.names)}."
            )
    return prompt.rows([one.prompt for one in inputs])


def as_line(one: "Input", found: Answer, votes: bool) -> dict[str, Any]:
    """An answer as JSON data, scores to four places, and the members' `votes`."""
    line: dict[str, Any] = {} if one.prompt is None else {"prompt": one.prompt}
    line |= {"prediction": found.prediction, "score": round(found.score, 4)}
    if found.scores is not None:
        line["scores"] = {label: round(score, 4) for label, score in found.scores.items()}
    if votes and found.votes is not None:
        line["votes"] = found.votes
    return line


class Input(NamedTuple):
    """A text, the prompt that its record names, and the line it stands on."""

    text: str
    prompt: str | None
    line: int


def read_inputs(
    lines: Iterable[str], template: Template | None, prompt_field: str | None = None
) -> Iterator[Input]:
    """Each line as an input; with a template, it is a JSON object that fills it, or empty."""
    for number, line in enumerate(lines, start=1):
        line = (line.removeprefix("\ufeff") if number == 1 else line).rstrip("\r\n")
        if template is not None and not line.strip():
            continue
        where = f"Line {number} of the input"
        record = None if template is None else json_object(line, where, _LINES)
        try:
            prompt = None if prompt_field is None else field_text(record, prompt_field)
            text = line if template is None else template.render(record)
            check_unicode(text, "text")
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
        yield Input(text, prompt, number)


@contextlib.contextmanager
def _source(path: str | None) -> Iterator[TextIO]:
    if path is None:
        if jax.process_count() > 1:
            raise ValueError(
                f"Several hosts cannot read one standard input: give {spelled('input_file')}."
            )
        yield sys.stdin
        return
    if not Path(path).exists() or Path(path).is_dir():
        raise FileNotFoundError(f"There is no {spelled('input_file')} {path}.")
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"{spelled('input_file')} {path} is not UTF-8 text ({error}).") from error


@contextlib.contextmanager
def _target(path: str | None) -> Iterator[TextIO]:
    """A file appears once all answers are in it. Of several hosts the first one writes."""
    if not hosts.is_first():
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            yield nowhere
        return
    if path is None:
        yield sys.stdout
        return
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        yield file


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning infer")
    with hosts.connected():
        infer(config)
