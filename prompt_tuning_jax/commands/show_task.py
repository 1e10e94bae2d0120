"""What a task is, before any training: its records, texts, token ids, labels and lengths.

    prompt-tuning show-task bundled_sentiment
    prompt-tuning show-task taskless_super_glue_rte_v102 \\
        --task_module prompt_tuning_jax.tasks.super_glue --data_dir data --split validation
    prompt-tuning show-task --data_dir glue/SST-2 \\
        --input_template "sentence: {sentence}" --verbalizers 0=negative 1=positive
    prompt-tuning show-task --list

Shows raw records, then examples as text, as token ids with their pieces, and as the row that the
encoder gets with its prompt; then, over the first --limit examples, the targets that occur, the
lengths in tokens, and the share that --feature_lengths would cut. No weights are loaded, and only
SeqIO tasks need TensorFlow. --json prints the same facts as JSON; --list names every task, those of
a --task_module too.
"""

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rich.console

from prompt_tuning_jax.bounds import COUNT, STEP
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint
from prompt_tuning_jax.commands.task_tables import print_facts
from prompt_tuning_jax.data.task_facts import task_facts
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import LayoutConfig, LengthConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.settings.task_config import TaskConfig, lengths_of, load_task
from prompt_tuning_jax.vocabularies import Vocabulary, load_vocabulary

# The modules of `prompt_tuning_jax.tasks` that register tasks with SeqIO.
TASK_MODULES = ("super_glue", "glue", "glue_transfer", "qa", "summarization", "language_modeling")


@settings
class ShowTaskConfig(LengthConfig, LayoutConfig, TaskConfig):
    """What `prompt-tuning show-task` takes."""

    split: str = setting(default="train", help="which split to show.", group="data", first=True)
    examples: int = setting(default=2, help="how many to show in full.", group="data", bounds=STEP)
    limit: int | None = setting(
        default=10_000, help="how many examples to count; None for all.", group="data", bounds=COUNT
    )
    prompt: PathLike | None = setting(
        default=None,
        help="a prompt whose place to show, instead of a length and a layout.",
        group="prompt",
    )
    json: bool = setting(default=False, help="print the facts as JSON.", group="data")
    list: bool = setting(
        default=False, help="name every task, with one line each.", group="data", first=True
    )


CONFIG = ShowTaskConfig


def read_vocabulary(model: str = "bundled", vocabulary: PathLike | None = None) -> Vocabulary:
    """A model's vocabulary, without its weights.

    Args:
      model: "bundled", "bundled_causal", or a Hugging Face directory.
      vocabulary: what `load_vocabulary` reads, instead of the model's.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is not the model's.
    """
    if vocabulary is not None:
        return load_vocabulary(vocabulary)
    if is_checkpoint(model):
        raise ValueError(
            f"{model} is a T5X checkpoint, which holds no vocabulary: give {spelled('vocabulary')}."
        )
    directory = Path(directory_of(model)).expanduser()
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"{directory} is no Hugging Face directory with a config.json and a spiece.model; give "
            f"one, or the vocabulary alone with {spelled('vocabulary')}."
        )
    return huggingface.vocabulary_of(directory)


def prompt_place(config: ShowTaskConfig) -> tuple[int, str]:
    """(length, layout) of the prompt: the file's where one is named."""
    if config.prompt is None:
        return config.prompt_length, config.prompt_layout
    tuned = load_prompt(config.prompt)
    if config.prompt_layout not in ("prefix", tuned.layout):
        raise ValueError(
            f"{config.prompt} was tuned as {tuned.layout!r}: leave out "
            f"{spelled('prompt_layout', config.prompt_layout)}."
        )
    return tuned.shape[0], tuned.layout


def show_task(config: ShowTaskConfig) -> dict[str, Any]:
    """The facts of the task that is named."""
    lengths = lengths_of(config.feature_lengths)
    length, layout = prompt_place(config)
    vocabulary = read_vocabulary(config.model, config.vocabulary)
    # Told no lengths, so that nothing is cut before it is counted.
    task = load_task(dataclasses.replace(config, feature_lengths=None), vocabulary)
    if getattr(task.splits.get(config.split), "fills_lengths", False):
        task = load_task(dataclasses.replace(config, feature_lengths=lengths), vocabulary)
    return task_facts(
        task,
        config.split,
        vocabulary,
        lengths,
        prompt_length=length,
        layout=layout,
        examples=config.examples,
        limit=config.limit,
    )


def every_task(module: str | None) -> Iterator[tuple[str, str]]:
    """(name, one line) of each task: the bundled ones, then those registered with SeqIO.

    Args:
      module: one that registers tasks; None: those of this package, where SeqIO is installed.
    """
    for name, task in BUNDLED_TASKS.items():
        yield name, f"bundled: {task.summary}"
    ours = [f"prompt_tuning_jax.tasks.{name}" for name in TASK_MODULES]
    if module is None and importlib.util.find_spec("seqio") is None:
        for each in ours:
            yield each, "tasks for SeqIO, which pip install '.[data]' brings"
        return
    from prompt_tuning_jax.data.seqio_source import registered  # TensorFlow, for these alone

    for name, what in registered([module] if module else ours):
        if name not in BUNDLED_TASKS:  # which SeqIO may know too
            yield name, what


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning show-task")
    if config.list:
        for name, summary in every_task(config.task_module):
            print(f"{name:<48} {summary}")
        return
    facts = show_task(config)
    if config.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print_facts(facts, rich.console.Console(highlight=False))
