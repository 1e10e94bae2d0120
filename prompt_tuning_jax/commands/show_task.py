"""What a task is, before any training: its records, texts, token ids, labels and lengths.

    prompt-tuning show-task bundled_sentiment
    prompt-tuning show-task taskless_super_glue_rte_v102 \\
        --module prompt_tuning_jax.tasks.super_glue --data_dir data --split validation
    prompt-tuning show-task --data_dir glue/SST-2 \\
        --input_template "sentence: {sentence}" --verbalizers '{"0": "negative", "1": "positive"}'

Shows raw records, then examples as text, as token ids with their pieces, and as the row that the
encoder gets with its prompt; then, over the first LIMIT examples, the targets that occur, the
lengths in tokens, and the share that LENGTHS would cut. No weights are loaded, and only SeqIO tasks
need TensorFlow. `--json` prints the same facts as JSON.
"""

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import rich.console

from prompt_tuning_jax.bundled import BUNDLED
from prompt_tuning_jax.bundled.tasks import BUNDLED_TASKS
from prompt_tuning_jax.checkpoints import huggingface
from prompt_tuning_jax.checkpoints.huggingface.config import read_config
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import is_checkpoint
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.commands.task_tables import print_report
from prompt_tuning_jax.data.task_facts import task_facts
from prompt_tuning_jax.data.vocabulary import Vocabulary
from prompt_tuning_jax.layout import LAYOUTS
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.macros import UsageError
from prompt_tuning_jax.settings.task_config import LENGTHS, TaskConfig, load_task


def read_vocabulary(model: str = "bundled", vocabulary: str | None = None) -> Vocabulary:
    """A model's vocabulary, without its weights.

    Args:
      model: "bundled", or a Hugging Face directory.
      vocabulary: a spiece.model, instead of the model's.

    Raises:
      FileNotFoundError, ValueError: there is none, or it is not the model's.
    """
    if vocabulary is not None:
        return Vocabulary.load(vocabulary)
    if is_checkpoint(model):
        raise ValueError(
            f"{model} is a T5X checkpoint, which holds no vocabulary: give --vocabulary"
        )
    directory = BUNDLED if model == "bundled" else Path(model).expanduser()
    if not (directory / "config.json").is_file():
        raise FileNotFoundError(
            f"{directory} is no Hugging Face directory with a config.json and a spiece.model; give "
            "one, or the vocabulary alone with --vocabulary"
        )
    return huggingface.read_vocabulary(directory, read_config(directory / "config.json", True))


def prompt_place(prompt: str, layout: str | None) -> tuple[int, str]:
    """(length, layout) of a prompt given as its length, or as the path of a prompt file."""
    if prompt.isdecimal():
        return int(prompt), layout or LAYOUTS[0]
    tuned = load_prompt(prompt)
    if layout not in (None, tuned.layout):
        raise ValueError(f"{prompt} was tuned as {tuned.layout!r}: leave out --layout {layout}")
    return tuned.shape[0], tuned.layout


def parse_lengths(text: str) -> dict[str, int]:
    """`"inputs=512,targets=64"` as a mapping; either may be left out."""
    lengths = dict(LENGTHS)
    for part in filter(None, text.split(",")):
        name, _, number = part.partition("=")
        if name not in LENGTHS or not number.isdecimal() or int(number) < 1:
            raise UsageError(f"--lengths {text}: write it as inputs=512,targets=64")
        lengths[name] = int(number)
    return lengths


def parse_verbalizers(text: str | None) -> Mapping[str, str] | Sequence[str] | None:
    """A JSON object or list, or words with commas between them."""
    if text is None or not text.lstrip().startswith(("{", "[")):
        return None if text is None else text.split(",")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(f"--verbalizers {text} is not valid JSON ({error.msg})") from error


def task_config(args: argparse.Namespace) -> TaskConfig:
    """Which task the arguments mean: by name where there is one, otherwise files."""
    if args.task not in (None, *BUNDLED_TASKS) and args.module is None:
        raise ValueError(
            f"{args.task!r} is no bundled task ({', '.join(BUNDLED_TASKS)}). For a SeqIO task, "
            "name the module that registers it, such as --module prompt_tuning_jax.tasks.super_glue"
        )
    return TaskConfig(
        task=args.task,
        task_module=args.module,
        data_dir=args.data_dir,
        input_template=args.input_template,
        target_template=args.target_template,
        verbalizers=parse_verbalizers(args.verbalizers),
        columns=None if args.columns is None else args.columns.split(","),
    )


def show_task(args: argparse.Namespace) -> dict[str, Any]:
    """The facts of the task that the arguments name."""
    lengths = parse_lengths(args.lengths)
    length, layout = prompt_place(args.prompt, args.layout)
    config, vocabulary = task_config(args), read_vocabulary(args.model, args.vocabulary)
    # Tasks ask a model for its vocabulary alone.
    model = FrozenModel(config=None, params={}, vocabulary=vocabulary, name=args.model)
    task = load_task(config, model)  # told no lengths, so that nothing is cut before it is counted
    if getattr(task.splits.get(args.split), "fills_lengths", False):
        task = load_task(dataclasses.replace(config, feature_lengths=lengths), model)
    return task_facts(
        task,
        args.split,
        vocabulary,
        lengths,
        prompt_length=length,
        layout=layout,
        examples=args.examples,
        limit=args.limit or None,
    )


def parser() -> argparse.ArgumentParser:
    one = command.Parser(description=__doc__)
    one.add_argument("task", nargs="?", help="bundled or SeqIO task or mixture; none for files")
    one.add_argument("--module", help="Python module that registers the SeqIO task")
    one.add_argument("--split", default="train", help="train by default")
    one.add_argument("--examples", type=_count, default=2, help="to show in full; 2 by default")
    one.add_argument("--limit", type=_count, default=10_000, help="examples to count; 0 for all")
    one.add_argument("--data_dir", help="release files of SeqIO tasks; or a files task's directory")
    one.add_argument("--input_template", help='of files, such as "sentence: {sentence}"')
    one.add_argument("--target_template", default="{label}", help="of files; {label} by default")
    one.add_argument("--verbalizers", help="JSON, or words with commas between them")
    one.add_argument("--columns", help="of files without a header, with commas between them")
    one.add_argument("--model", default="bundled", help="bundled, or a Hugging Face directory")
    one.add_argument("--vocabulary", help="a spiece.model, instead of the model's")
    one.add_argument("--prompt", default="100", help="length, or a prompt file; 100 by default")
    one.add_argument("--layout", choices=LAYOUTS, help="of a prompt given as a length")
    one.add_argument("--lengths", default="", help="where to cut; inputs=512,targets=64 by default")
    one.add_argument("--json", action="store_true", help="print the facts as JSON")
    return one


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    facts = show_task(args)
    if args.json:
        print(json.dumps(facts, ensure_ascii=False))
    else:
        print_report(facts, rich.console.Console(highlight=False))


if __name__ == "__main__":
    command.run(main)
