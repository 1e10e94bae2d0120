"""Predictions for a file, or for lines on standard input, in order.

    echo "The soup was cold and the waiter rude." | prompt-tuning infer --prompt bundled_sentiment

Input is plain lines, or records (JSON lines, .csv or .tsv) whose fields a template names: that of
--input_template, or the one that the prompt was trained with, unless --template none. Output is one
JSON object a line: the prediction, its score, and, for rank classification, every label's score.
Changing the prompt file is all it takes to change the task.

Several prompts answer together, as an ensemble, or, with --prompt_field, each record is answered
with the prompt that it names; one batch mixes them:

    echo '{"text": "The soup was cold.", "prompt": "bundled_sentiment"}' \\
      | prompt-tuning infer --input_template '{text}' \\
        --prompts bundled_sentiment bundled_season --prompt_field prompt

Of a folder, or a pattern such as 'texts/*.jsonl', every file is answered into one of the folder
--output; on several hosts each answers its share, and a command that was stopped goes on:

    prompt-tuning infer --prompt bundled_topic --input_file 'texts/*.jsonl' --output answers
"""

import contextlib
import dataclasses
import itertools
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TextIO

import jax

from prompt_tuning_jax.banks import PromptLike, TunedBank
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.commands.inference.infer_inputs import (
    Input,
    Made,
    Templates,
    Trained,
    begins_with_record,
    is_ensemble,
    is_records,
    is_table,
    opened_lines,
    own_missing,
    own_templates,
    prompts_by_name,
    read_inputs,
    say_template,
)
from prompt_tuning_jax.commands.inference.infer_shards import identity_of, left, shards_of
from prompt_tuning_jax.data.templates import Template, check_unicode, words_of
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.evaluation.answers import Answer, Choices, answer
from prompt_tuning_jax.evaluation.scoring import apply_text_prompt
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.infer_config import InferConfig
from prompt_tuning_jax.settings.prompt_config import (
    check_prompts,
    load_adapted,
    load_prompts,
    own_words,
)
from prompt_tuning_jax.settings.setting import PathLike
from prompt_tuning_jax.settings.task_config import LENGTHS
from prompt_tuning_jax.tuned_prompt import TunedPrompt

CONFIG = InferConfig
CHUNK = 1024  # records read before any is answered: memory stays bounded on a file of any size
# Settings that are handed on as they are.
ANSWERING = (
    "batch_size",
    "max_input_length",
    "max_length",
    "min_length",
    "beams",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "no_repeat_ngram",
    "repetition_penalty",
    "seed",
)
# What some programs take for a line's end, though JSON does not.
_LINE_ENDS = re.compile("[\x7f-\x9f\u2028\u2029]")


def infer(config: InferConfig | None = None, **options: Any) -> None:
    """Reads inputs, writes one JSON line for each.

    Raises:
      ValueError: a record that is no JSON object, or lacks a field of the template; it names the
        line.
    """
    config = dataclasses.replace(config or InferConfig(), **options)
    check_settings(config)
    shards = shards_of(config)
    mesh = sharding.make_mesh(config.mesh, None if shards is None else jax.local_devices())
    frozen = config.model
    if not isinstance(frozen, FrozenModel):
        frozen = load_model(frozen, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh)
    model, adapter = load_adapted(config, frozen)
    prompt = load_prompts(config, model)
    known = adapter if prompt is None else prompt
    config = as_trained(config, known)
    legal = legal_answers(config, known)
    generation = say_defaults(config, model) if None in legal.values() else {}
    if shards is None:
        with _target(config.output) as output:
            answer_file(config, model, prompt, known, legal, output)
        return
    made_with = identity_of(config, frozen, (prompt, adapter), legal, generation)
    for source, target in left(shards, made_with):
        of_one = dataclasses.replace(config, input_file=source)
        with _new_text(target) as output:
            answer_file(of_one, model, prompt, known, legal, output)


def answer_file(
    config: InferConfig,
    model: FrozenModel,
    prompt: TunedPrompt | TunedBank | None,
    known: Trained,
    legal: Mapping[str | None, Choices],
    output: TextIO,
) -> None:
    """Answers the input file, or standard input, in order."""
    with _inputs(config, known) as inputs:
        first = 0
        while chunk := list(itertools.islice(inputs, CHUNK)):
            for line in predict(config, model, chunk, prompt, legal, first):
                output.write(one_line(line) + "\n")
            output.flush()
            first += len(chunk)


@contextlib.contextmanager
def _inputs(config: InferConfig, prompt: Trained) -> Iterator[Iterator[Input]]:
    """The inputs, made by the template that is given or that the prompt was trained with."""
    given = config.input_template
    if given is not None:
        names = [None] if config.prompt_field is None else prompt.names
        missing = own_missing(config, prompt)
        templates: Templates = {name: Made(Template(given), missing[name]) for name in names}
    else:
        templates = {} if config.template == "none" else own_templates(config, prompt)
    if templates and is_table(config):
        yield read_inputs(config, templates)
        return
    with opened_lines(config.input_file, config.encoding) as lines:
        if templates and given is None and not is_records(config):
            found, lines = begins_with_record(lines, templates)
            if not found and config.prompt_field is None:
                say_template(templates)
                templates = {}
        elif not templates and config.template != "none":
            found, lines = begins_with_record(lines, templates)
            if found or is_records(config):
                warnings.warn(
                    f"{config.input_file or 'Standard input'} is answered line by line, as text: "
                    f"name the fields of its records with {spelled('input_template')}, such as "
                    f"'{{text}}', or say {spelled('template', 'none')}.",
                    stacklevel=2,
                )
        yield read_inputs(config, templates, lines)


def as_trained(config: InferConfig, prompt: Trained) -> InferConfig:
    """The settings, with what is not given as the prompts' files record it; else the default."""
    bank = prompts_by_name(config, prompt)
    recorded = {name: one.metadata.get("feature_lengths") for name, one in bank.items() if one}
    lengths = [of_one or LENGTHS for of_one in recorded.values()] or [LENGTHS]
    found = {
        "max_input_length": max(each["inputs"] for each in lengths),
        "max_length": max(each["targets"] for each in lengths) if any(recorded.values()) else None,
    }
    if config.max_input_length is None and len({each["inputs"] for each in lengths}) > 1:
        say_lengths({name: (of_one or {}).get("inputs") for name, of_one in recorded.items()})
    return dataclasses.replace(
        config, **{name: x for name, x in found.items() if getattr(config, name) is None}
    )


def say_lengths(recorded: Mapping[str | None, int | None]) -> None:
    """Warns that prompts read inputs to other lengths than they were trained with."""
    if hosts.is_first():
        listed = ", ".join(f"{name}: {length or 'unknown'}" for name, length in recorded.items())
        longest = max(length or LENGTHS["inputs"] for length in recorded.values())
        warnings.warn(
            f"the prompts were trained with inputs of other lengths ({listed}), and all inputs are "
            f"cut to {longest} tokens: set {spelled('max_input_length')}.",
            stacklevel=2,
        )


def say_defaults(config: InferConfig, model: FrozenModel) -> dict[str, Any]:
    """Prints what generation takes from the model's own files, and gives all that it goes by.

    Raises:
      ValueError: they ask for what is not done here.
    """
    options = {name: getattr(config, name) for name in ANSWERING}
    resolved = model.generation.resolved(options)
    if taken := model.generation.taken(options):
        listed = ", ".join(f"{name} {value}" for name, value in taken.items())
        print(f"{model.generation.source}: {listed}", file=sys.stderr)
    return resolved


def one_line(found: Mapping[str, Any]) -> str:
    """JSON in which no character ends a line, for any program."""
    text = json.dumps(found, ensure_ascii=False)
    return _LINE_ENDS.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


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
    if config.template == "none" and config.input_template is not None:
        raise ValueError(
            f"{spelled('template', 'none')} is for lines as they are: leave out "
            f"{spelled('input_template')}."
        )
    if config.template == "none" and config.prompt_field is not None:
        raise ValueError(
            f"{spelled('prompt_field')} is a field of records, which need a template: leave out "
            f"{spelled('template', 'none')}."
        )
    if config.missing == "drop":
        raise ValueError(
            f"{spelled('missing')} may be empty or text here: every record gets an answer."
        )


def legal_answers(config: InferConfig, prompt: Trained) -> dict[str | None, Choices]:
    """Prompt name -> the answers to rank, or None where text is generated.

    The name is None where records name no prompt.

    Raises:
      ValueError: answers are asked to be ranked, but unknown; or the members of an ensemble know
        different ones.
    """
    given = None if config.verbalizers is None else words_of(config.verbalizers)
    legal: dict[str | None, Choices] = {}
    for name, one in prompts_by_name(config, prompt).items():
        own = given or (own_words(one) if one else None)
        recorded = one.metadata.get("predictions") if one and not given else None
        if config.predictions == "rank" and not own:
            raise ValueError(
                f"{spelled('predictions', 'rank')} needs {spelled('verbalizers')}, the legal "
                "answers."
            )
        generates = (config.predictions or recorded) == "generate"
        legal[name] = None if generates else own
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
    inputs: Sequence[Input],
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
    config: InferConfig, prompt: TunedPrompt | TunedBank | None, inputs: Sequence[Input]
) -> PromptLike:
    """The one prompt; of several, those that the records name, or all of them together."""
    if config.prompts is None:
        return prompt
    if is_ensemble(config):
        return prompt.ensemble()
    return prompt.rows([one.prompt for one in inputs])


def as_line(one: Input, found: Answer, votes: bool) -> dict[str, Any]:
    """An answer as JSON data, scores to four places, and the members' `votes`."""
    line: dict[str, Any] = {} if one.prompt is None else {"prompt": one.prompt}
    line |= {"prediction": found.prediction, "score": round(found.score, 4)}
    if found.scores is not None:
        line["scores"] = {label: round(score, 4) for label, score in found.scores.items()}
    if votes and found.votes is not None:
        line["votes"] = found.votes
    return line


@contextlib.contextmanager
def _target(path: PathLike | None) -> Iterator[TextIO]:
    """A file appears once all answers are in it. Of several hosts the first one writes."""
    if not hosts.is_first():
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            yield nowhere
        return
    if path is None:
        yield sys.stdout
        return
    with _new_text(path) as file:
        yield file


@contextlib.contextmanager
def _new_text(path: PathLike) -> Iterator[TextIO]:
    with new_file(path) as partial, open(partial, "w", encoding="utf-8") as file:
        yield file


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning infer")
    with hosts.connected():
        infer(config)
