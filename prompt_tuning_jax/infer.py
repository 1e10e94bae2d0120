"""Predictions for a file, or for lines on standard input, in order.

    echo "The soup was cold and the waiter rude." | python -m prompt_tuning_jax.infer \\
        --gin.PROMPT=runs/sentiment/best

Input is one JSON object a line, whose fields INPUT_TEMPLATE may name, or plain lines. Output is one
JSON object a line: the prediction, its score, and, for rank classification, every label's score.
Changing the prompt file is all it takes to change the task.
"""

import contextlib
import dataclasses
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from prompt_tuning_jax import command
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.evaluate import apply_text_prompt, load_checked_prompt
from prompt_tuning_jax.model import FrozenModel, PromptLike, load_model
from prompt_tuning_jax.templates import Template

CHUNK = 1024  # records read before any is answered: memory stays bounded on a file of any size


@dataclasses.dataclass(frozen=True)
class InferConfig:
    """What `python -m prompt_tuning_jax.infer` takes; each field is a gin macro in capitals.

    Attributes:
      model: (INITIAL_CHECKPOINT_PATH) the frozen model.
      vocabulary: its spiece.model, where the model's directory does not hold one.
      prompt: a prompt file or directory; None for the model alone.
      text_prompt: a hand-written prompt around the input, such as "Is it good? {input}".
      input_file, output_file: None for standard input and output.
      input_template: makes the input from a JSON record's fields, such as "sentence: {sentence}".
      verbalizers: the legal answers, to rank; None: those of the prompt file.
      predictions: "rank" or "generate"; None: rank where there are verbalizers.
      beams, length_penalty, temperature, top_k, top_p, seed: of generation.
      max_length, max_input_length: in tokens.
    """

    model: str = "bundled"
    vocabulary: str | None = None
    prompt: str | None = None
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
    if config.predictions not in (None, "rank", "generate"):
        raise ValueError(f"PREDICTIONS must be 'rank' or 'generate', got {config.predictions!r}.")
    template = Template(config.input_template) if config.input_template else None
    model = load_model(config.model, config.model_dtype, vocabulary=config.vocabulary)
    prompt, verbalizers = None, config.verbalizers
    if config.prompt is not None:
        prompt = load_checked_prompt(config.prompt, model, config.allow_prompt_mismatch)
        verbalizers = verbalizers or prompt.metadata.get("verbalizers")
    with _source(config.input_file) as source, _target(config.output_file) as output:
        inputs = read_inputs(source, template)
        while chunk := list(itertools.islice(inputs, CHUNK)):
            if config.text_prompt is not None:
                chunk = [apply_text_prompt(config.text_prompt, text) for text in chunk]
            for answer in predict(config, model, chunk, prompt, verbalizers):
                output.write(json.dumps(answer, ensure_ascii=False) + "\n")
            output.flush()


def predict(
    config: InferConfig,
    model: FrozenModel,
    texts: list[str],
    prompt: PromptLike,
    verbalizers: Sequence[str] | None,
) -> Iterator[dict[str, Any]]:
    """The answers to some inputs as JSON objects."""
    sizes = {"batch_size": config.batch_size, "max_input_length": config.max_input_length}
    if verbalizers and config.predictions != "generate":
        labels, scores = model.classify(texts, list(verbalizers), prompt, **sizes)
        for label, row in zip(labels, scores, strict=True):
            by_label = dict(zip(verbalizers, np.round(row, 4).tolist(), strict=True))
            yield {"prediction": label, "score": by_label[label], "scores": by_label}
        return
    if config.predictions == "rank":
        raise ValueError("PREDICTIONS='rank' needs VERBALIZERS, the legal answers.")
    options = {
        name: getattr(config, name)
        for name in (
            "beams",
            "length_penalty",
            "temperature",
            "top_k",
            "top_p",
            "seed",
            "max_length",
        )
    }
    answers, scores = model.generate(texts, prompt, **options, **sizes)
    for answer, score in zip(answers, scores, strict=True):
        yield {"prediction": answer, "score": round(float(score), 4)}


def read_inputs(lines: Iterable[str], template: Template | None) -> Iterator[str]:
    """Each line as an input text; with a template, each line is a JSON object that fills it."""
    for number, line in enumerate(lines, start=1):
        line = line.rstrip("\r\n")
        if template is None:
            yield line
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of the input is no JSON object: {error}.") from error
        if not isinstance(record, dict):
            raise ValueError(f"Line {number} of the input is no JSON object.")
        try:
            yield template.render(record)
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
