"""Predictions for a file, or for lines on standard input, in order.

    echo "The soup was cold and the waiter rude." | prompt-tuning infer \\
        --gin.PROMPT=bundled_sentiment

Input is one JSON object a line, whose fields INPUT_TEMPLATE may name, or plain lines. Output is one
JSON object a line: the prediction, its score, and, for rank classification, every label's score.
Changing the prompt file is all it takes to change the task.

PROMPTS takes several prompts. They answer together, as an ensemble, or, with PROMPT_FIELD, each
record is answered with the prompt that it names; one batch mixes them:

    echo '{"text": "The soup was cold.", "prompt": "bundled_sentiment"}' \\
      | prompt-tuning infer --gin.INPUT_TEMPLATE="'{text}'" \\
        --gin.PROMPTS="['bundled_sentiment', 'bundled_season']" --gin.PROMPT_FIELD=prompt
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
import numpy as np

from prompt_tuning_jax.banks import BankRows, TunedBank, TunedPrompt
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.data.templates import (
    Template,
    Verbalizers,
    check_unicode,
    field_text,
    words_of,
)
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.evaluation.answers import Answer, Choices, answer
from prompt_tuning_jax.evaluation.scoring import apply_text_prompt
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.macros import check_least
from prompt_tuning_jax.settings.prompt_config import (
    PromptConfig,
    check_prompts,
    load_prompts,
    own_words,
)

CHUNK = 1024  # records read before any is answered: memory stays bounded on a file of any size
_LINES = 'With an INPUT_TEMPLATE, every line is an object such as {"text": "..."}.'
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


@dataclasses.dataclass(frozen=True)
class InferConfig(PromptConfig):
    """What `prompt-tuning infer` takes; each field is a gin macro in capitals.

    Attributes:
      model: (INITIAL_CHECKPOINT_PATH) the frozen model.
      vocabulary: its spiece.model, where the model's directory does not hold one.
      input_file, output_file: None for standard input and output.
      input_template: makes the input from a JSON record's fields, such as "sentence: {sentence}".
      verbalizers: the legal answers, to rank, as a list, or as the words of a mapping; None: those
        of the prompt file.
      predictions: "rank" or "generate"; None: rank where there are verbalizers.
      batch_size: rows at once; the copies for an ensemble count.
      beams, length_penalty, temperature, top_k, top_p, seed: of generation.
      max_length, max_input_length: in tokens.
      mesh: the devices to run on, such as "data:4,model:2"; -1 takes the remaining ones.
      model_dtype: of the frozen weights and the activations.
    """

    model: str = "bundled"
    vocabulary: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    input_template: str | None = None
    verbalizers: Verbalizers | None = None
    predictions: str | None = None
    batch_size: int = 32
    beams: int = 1
    length_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_length: int = 64
    max_input_length: int = 512
    mesh: str = "data:-1"
    model_dtype: Any = np.float32


def infer(config: InferConfig | None = None, **options: Any) -> None:
    """Reads inputs, writes one JSON line for each.

    Raises:
      ValueError: a record that is no JSON object, or lacks a field of the template; it names the
        line.
    """
    config = config or InferConfig(**options)
    check_settings(config)
    template = None if config.input_template is None else Template(config.input_template)
    mesh = sharding.make_mesh(config.mesh)
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh)
    prompt = load_prompts(config, model)
    legal = legal_answers(config, prompt)
    with _source(config.input_file) as source, _target(config.output_file) as output:
        inputs, first = read_inputs(source, template, config.prompt_field), 0
        while chunk := list(itertools.islice(inputs, CHUNK)):
            for line in predict(config, model, chunk, prompt, legal, first):
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
            output.flush()
            first += len(chunk)


def check_settings(config: InferConfig) -> None:
    """What can be checked before anything is loaded."""
    if config.predictions not in (None, "rank", "generate"):
        raise ValueError(f"PREDICTIONS must be 'rank' or 'generate', got {config.predictions!r}.")
    counts = ("batch_size", "max_length", "max_input_length", "beams")
    check_least(config, dict.fromkeys(counts, 1))
    check_prompts(config)
    if config.input_template is not None and not Template(config.input_template).fields:
        raise ValueError(
            f"INPUT_TEMPLATE {config.input_template!r} names no field, so every input would be the "
            "same: write a record's fields in braces, such as '{text}'."
        )
    if config.text_prompt is not None:
        check_unicode(config.text_prompt, "TEXT_PROMPT")
    if config.prompt_field is not None and config.input_template is None:
        raise ValueError(
            "PROMPT_FIELD is a field of JSON records: say with INPUT_TEMPLATE which other fields "
            "are the input, such as '{text}'."
        )


def legal_answers(
    config: InferConfig, prompt: TunedPrompt | TunedBank | None
) -> dict[str | None, Choices]:
    """The answers to rank, by the name of a record's prompt, or None's; a None generates.

    Raises:
      ValueError: answers are asked to be ranked, but unknown; or the members of an ensemble know
        different ones.
    """
    given = None if config.verbalizers is None else words_of(config.verbalizers)
    bank = prompt.prompts if isinstance(prompt, TunedBank) else {None: prompt}
    legal: dict[str | None, Choices] = {}
    for name, one in bank.items():
        own = given or (own_words(one) if one else None)
        if config.predictions == "rank" and not own:
            raise ValueError("PREDICTIONS='rank' needs VERBALIZERS, the legal answers.")
        legal[name] = None if config.predictions == "generate" else own
    if isinstance(prompt, TunedBank) and config.prompt_field is None:
        if len({own and frozenset(own) for own in legal.values()}) > 1:
            answers = "; ".join(f"{name}: {own and list(own)}" for name, own in legal.items())
            raise ValueError(
                f"The members of an ensemble need the same answers, these have others ({answers}). "
                "Set VERBALIZERS, or name each record's prompt with PROMPT_FIELD."
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
    used = prompt
    if isinstance(prompt, TunedBank):
        used = prompt.ensemble() if config.prompt_field is None else rows_of(prompt, inputs)
    choices = [legal[one.prompt] for one in inputs]
    options = {name: getattr(config, name) for name in ANSWERING}
    answers = answer(model, texts, choices, used, first=first, **options)
    for one, found in zip(inputs, answers, strict=True):
        yield as_line(one, found)


def rows_of(bank: TunedBank, inputs: Sequence["Input"]) -> BankRows:
    """Every input with the prompt that its record names."""
    for one in inputs:
        if one.prompt not in bank.prompts:
            raise ValueError(
                f"Line {one.line} of the input names the prompt {one.prompt!r}; there are "
                f"{', '.join(bank.names)}."
            )
    return bank.rows([one.prompt for one in inputs])


def as_line(one: "Input", found: Answer) -> dict[str, Any]:
    """An answer as JSON data, scores to four places."""
    line: dict[str, Any] = {} if one.prompt is None else {"prompt": one.prompt}
    line |= {"prediction": found.prediction, "score": round(found.score, 4)}
    if found.scores is not None:
        line["scores"] = {label: round(score, 4) for label, score in found.scores.items()}
    if found.votes is not None:
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
        line = line.removeprefix("\ufeff").rstrip("\r\n")
        if template is not None and not line.strip():
            continue
        where = f"Line {number} of the input"
        record = None if template is None else json_object(line, where, _LINES)
        try:
            prompt = None if prompt_field is None else field_text(record, prompt_field)
            text = line if template is None else template.render(record)
            check_unicode(text, "text")
        except ValueError as error:
            raise ValueError(f"{where}: {error}.") from error
        yield Input(text, prompt, number)


@contextlib.contextmanager
def _source(path: str | None) -> Iterator[TextIO]:
    if path is None:
        if jax.process_count() > 1:
            raise ValueError("Several hosts cannot read one standard input: give INPUT_FILE.")
        yield sys.stdin
        return
    if not Path(path).exists() or Path(path).is_dir():
        raise FileNotFoundError(f"There is no INPUT_FILE {path}.")
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"INPUT_FILE {path} is not UTF-8 text ({error}).") from error


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
    config = command.parse(InferConfig, argv, __doc__)
    with hosts.connected():
        infer(config)


if __name__ == "__main__":
    command.run(main, ends_with_reader=True)
