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
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from prompt_tuning_jax import command
from prompt_tuning_jax.answers import Answer, Choices, answer
from prompt_tuning_jax.banks import BankRows, TunedBank
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.prompt_file import TunedPrompt
from prompt_tuning_jax.evaluate import check_prompts, load_checked_bank, load_checked_prompt
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.scoring import apply_text_prompt
from prompt_tuning_jax.templates import Template, field_text

CHUNK = 1024  # records read before any is answered: memory stays bounded on a file of any size
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
class InferConfig:
    """What `prompt-tuning infer` takes; each field is a gin macro in capitals.

    Attributes:
      model: (INITIAL_CHECKPOINT_PATH) the frozen model.
      vocabulary: its spiece.model, where the model's directory does not hold one.
      prompt: a prompt file or directory; None for the model alone.
      prompts: several, as a list of paths or as {name: path}.
      prompt_field: the field of a JSON record that names its prompt; None for an ensemble.
      text_prompt: a hand-written prompt around the input, such as "Is it good? {input}".
      input_file, output_file: None for standard input and output.
      input_template: makes the input from a JSON record's fields, such as "sentence: {sentence}".
      verbalizers: the legal answers, to rank; None: those of the prompt file.
      predictions: "rank" or "generate"; None: rank where there are verbalizers.
      allow_prompt_mismatch: use prompts that were tuned for another model or vocabulary.
      batch_size: rows at once; the copies for an ensemble count.
      beams, length_penalty, temperature, top_k, top_p, seed: of generation.
      max_length, max_input_length: in tokens.
      model_dtype: of the frozen weights and the activations.
    """

    model: str = "bundled"
    vocabulary: str | None = None
    prompt: str | None = None
    prompts: Any = None
    prompt_field: str | None = None
    text_prompt: str | None = None
    input_file: str | None = None
    output_file: str | None = None
    input_template: str | None = None
    verbalizers: Sequence[str] | None = None
    predictions: str | None = None
    allow_prompt_mismatch: bool = False
    batch_size: int = 32
    beams: int = 1
    length_penalty: float = 0.0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    max_length: int = 64
    max_input_length: int = 512
    model_dtype: Any = np.float32


def infer(config: InferConfig | None = None, **options: Any) -> None:
    """Reads inputs, writes one JSON line for each.

    Raises:
      ValueError: a record that is no JSON object, or lacks a field of the template; it names the
        line.
    """
    config = config or InferConfig(**options)
    check_settings(config)
    template = Template(config.input_template) if config.input_template else None
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary)
    prompt = load_prompts(config, model)
    with _source(config.input_file) as source, _target(config.output_file) as output:
        inputs = read_inputs(source, template, config.prompt_field)
        while chunk := list(itertools.islice(inputs, CHUNK)):
            for line in predict(config, model, chunk, prompt):
                output.write(json.dumps(line, ensure_ascii=False) + "\n")
            output.flush()


def check_settings(config: InferConfig) -> None:
    """What can be checked before anything is loaded."""
    if config.predictions not in (None, "rank", "generate"):
        raise ValueError(f"PREDICTIONS must be 'rank' or 'generate', got {config.predictions!r}.")
    check_prompts(config)
    if config.prompt_field is not None and config.input_template is None:
        raise ValueError(
            "PROMPT_FIELD is a field of JSON records: say with INPUT_TEMPLATE which other fields "
            "are the input, such as '{text}'."
        )


def load_prompts(config: InferConfig, model: FrozenModel) -> TunedPrompt | TunedBank | None:
    """The prompt, or the bank, that `config` names."""
    if config.prompts is not None:
        return load_checked_bank(config.prompts, model, config.allow_prompt_mismatch)
    if config.prompt is not None:
        return load_checked_prompt(config.prompt, model, config.allow_prompt_mismatch)
    return None


def predict(
    config: InferConfig,
    model: FrozenModel,
    inputs: Sequence["Input"],
    prompt: TunedPrompt | TunedBank | None,
) -> Iterator[dict[str, Any]]:
    """The answers to some inputs as JSON objects."""
    texts, used, choices = [one.text for one in inputs], prompt, None
    if config.text_prompt is not None:
        texts = [apply_text_prompt(config.text_prompt, text) for text in texts]
    if isinstance(prompt, TunedBank) and config.prompt_field is None:
        used = prompt.ensemble()
        choices = [legal_answers(config, next(iter(prompt.prompts.values())))] * len(texts)
    elif isinstance(prompt, TunedBank):
        used = rows_of(prompt, inputs)
        choices = [legal_answers(config, prompt.prompts[one.prompt]) for one in inputs]
    else:
        choices = [legal_answers(config, prompt)] * len(texts)
    options = {name: getattr(config, name) for name in ANSWERING}
    for one, found in zip(inputs, answer(model, texts, choices, used, **options), strict=True):
        yield as_line(one, found)


def legal_answers(config: InferConfig, prompt: TunedPrompt | None) -> Choices:
    """The answers to rank: those given, else the prompt's own; None to generate."""
    if config.predictions == "generate":
        return None
    legal = config.verbalizers or (prompt.metadata.get("verbalizers") if prompt else None)
    if config.predictions == "rank" and not legal:
        raise ValueError("PREDICTIONS='rank' needs VERBALIZERS, the legal answers.")
    return legal


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
    """Each line as an input; with a template, each line is a JSON object that fills it."""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if template is None:
            yield Input(line, None, number)
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of the input is no JSON object: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError(f"Line {number} of the input is no JSON object.")
        try:
            prompt = field_text(record, prompt_field) if prompt_field else None
            yield Input(template.render(record), prompt, number)
        except ValueError as error:
            raise ValueError(f"Line {number} of the input: {error}.") from error


@contextlib.contextmanager
def _source(path: str | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdin
        return
    if not Path(path).is_file():
        raise FileNotFoundError(f"There is no INPUT_FILE {path}.")
    try:
        with open(path, encoding="utf-8") as file:
            yield file
    except UnicodeDecodeError as error:
        raise ValueError(f"INPUT_FILE {path} is not UTF-8 text ({error}).") from error


@contextlib.contextmanager
def _target(path: str | None) -> Iterator[TextIO]:
    """A file appears once all answers are in it."""
    if path is None:
        yield sys.stdout
        return
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        yield file


def main(argv: list[str] | None = None) -> None:
    infer(command.parse(InferConfig, argv, __doc__))


if __name__ == "__main__":
    command.run(main)
