"""Write another library's prompt as a prompt file, which every command here takes.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning import topic-adapter prompts/topic --model bundled

With --model, the file records the frozen model that the prompt was tuned for, and no other will
take it. --verbalizers are the answers to choose from when it is used for inference.
"""

import argparse
from collections.abc import Sequence

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.commands.written_prompt import check_directory, written
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.model import load_model
from prompt_tuning_jax.settings.macros import UsageError


def import_prompt(
    source: str,
    destination: str,
    model: str | None = None,
    vocabulary: str | None = None,
    layout: str | None = None,
    visibility: str | None = None,
    task: str | None = None,
    verbalizers: Sequence[str] | None = None,
    allow_mismatch: bool = False,
) -> str:
    """Writes any prompt as a prompt file; says what was written.

    Args:
      source: whatever `load_prompt` takes.
      model: the frozen model that the prompt was tuned for; recorded, and checked at loading.
      vocabulary: its spiece.model, where the model's directory does not hold one.
      layout, visibility: where the rows stood in tuning and what they attended to, if the source
        does not say.
      task, verbalizers: recorded.
      allow_mismatch: take a prompt that was tuned for other weights.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt` and `load_model`; or the prompt is of
        another model.
    """
    check_directory(destination, "a prompt file")
    tuned, facts = load_prompt(source), {"task": task, "verbalizers": verbalizers}
    ours = "prompt_length" in tuned.metadata  # this library's file, which says all of its use
    for name, asked in (("layout", layout), ("visibility", visibility)):
        says = getattr(tuned, name)
        if ours and asked not in (None, says):
            raise ValueError(f"{source} was tuned as {says!r}: leave out --{name} {asked}.")
    if model is None and (vocabulary is not None or allow_mismatch):
        raise UsageError("--vocabulary and --allow_mismatch go with a --model.")
    if model is not None:
        frozen = load_model(model, jnp.bfloat16, vocabulary=vocabulary)
        frozen.check(tuned, allow_mismatch)
        facts |= frozen.identity | {"base_model": model}
    save_prompt(destination, tuned, layout=layout, visibility=visibility, **facts)
    saved = load_prompt(destination)
    line = written(destination, "a prompt file", saved, saved.metadata.get("base_model"))
    if unused := saved.metadata.get("peft_unused_rows"):
        line += f"; {unused} more rows, which PEFT never uses, are left out"
    if "base_model_fingerprint" not in saved.metadata:
        line += "; give --model to have other models refused"
    return line


def parser() -> argparse.ArgumentParser:
    one = command.Parser(description=__doc__)
    one.add_argument("source", help="PEFT adapter directory, .npy file, T5X checkpoint, prompt")
    one.add_argument("destination", help="prompt directory to write")
    one.add_argument("--model", help="the frozen model that it was tuned for, to be recorded")
    one.add_argument("--vocabulary", help="the model's spiece.model, if it lies elsewhere")
    one.add_argument("--layout", choices=LAYOUTS, help="if the source does not say; else prefix")
    one.add_argument("--visibility", choices=VISIBILITIES, help="likewise; else full")
    one.add_argument("--task", help="its name, to be recorded")
    one.add_argument("--verbalizers", nargs="+", metavar="ANSWER", help="to be recorded")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    return one


def main(argv: list[str] | None = None) -> None:
    """Writes a prompt file of another library's prompt, and prints what was written."""
    print(import_prompt(**vars(parser().parse_args(argv))))


if __name__ == "__main__":
    command.run(main)
