"""Prompts to and from other libraries: PEFT adapters, plain arrays, T5X checkpoints.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning export bundled_topic topic.npy
    prompt-tuning import topic-adapter prompts/topic --model bundled

Also as `prompt-tuning export ...` and `... import ...`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import jax.numpy as jnp

from prompt_tuning_jax.banks import TunedPrompt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.model import load_model

_EXPORT = """Write a prompt for another library, by default as a PEFT adapter.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning export bundled_topic topic.npy

A PEFT adapter is a directory that `PeftModel.from_pretrained(base, DESTINATION)` loads onto the
same frozen model, with the same numbers.

A .npy file is the bare array, float32 [P, D], for any other server. It is fed by
  1. looking the input's token ids up in the model's table of input embeddings, [T, D];
  2. putting the array's rows before them, [P + T, D] (for another layout than "prefix", where the
     prompt was tuned to stand), and giving that to the encoder instead of ids (`inputs_embeds`);
  3. widening the attention mask by P ones (of a prompt whose visibility is not "full", its rows
     attend to less than all).
The decoder gets nothing.

For T5X, `prompt-tuning checkpoint add-prompt` puts a prompt into a checkpoint.
"""
_IMPORT = """Write another library's prompt as a prompt file, which every command here takes.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning import topic-adapter prompts/topic --model bundled

With --model, the file records the frozen model that the prompt was tuned for, and no other will
take it. --verbalizers are the answers to choose from when it is used for inference.
"""


def export_prompt(
    prompt: str,
    destination: str,
    to: str | None = None,
    model: str | None = None,
    base_model: str | None = None,
    allow_mismatch: bool = False,
) -> str:
    """Writes a prompt as a PEFT adapter or as a `.npy` array; says what was written.

    Args:
      prompt: whatever `load_prompt` takes.
      to: "peft" or "npy"; None: as the destination's name says.
      model: the frozen model that the prompt was tuned for, by default "bundled"; for an adapter.
      base_model: the model's name in the adapter; by default `model`.
      allow_mismatch: take a prompt that was tuned for other weights.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`, `load_model` and `peft.write_adapter`; or
        the prompt is of another model; or the destination's name is not of the form `to`.
    """
    form, tuned = _form(destination, to), load_prompt(prompt)
    if form == "npy":
        if model or base_model or allow_mismatch:
            raise UsageError(
                "--model, --base_model and --allow_mismatch are for a PEFT adapter, not an array."
            )
        save_prompt(destination, tuned)
        return _written(destination, "an array", tuned, tuned.metadata.get("base_model"))
    model = model or "bundled"
    frozen = load_model(model, jnp.bfloat16)
    frozen.check(tuned, allow_mismatch)
    name = base_model or (str(BUNDLED) if model == "bundled" else model)
    peft.write_adapter(
        destination,
        tuned.values,
        base_model=name,
        num_layers=frozen.config.num_encoder_layers,
        num_heads=frozen.config.num_heads,
        layout=tuned.layout,
        visibility=tuned.visibility,
    )
    return _written(destination, "a PEFT adapter", tuned, model)


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
    _check_directory(destination, "a prompt file")
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
    line = _written(destination, "a prompt file", saved, saved.metadata.get("base_model"))
    if unused := saved.metadata.get("peft_unused_rows"):
        line += f"; {unused} more rows, which PEFT never uses, are left out"
    if "base_model_fingerprint" not in saved.metadata:
        line += "; give --model to have other models refused"
    return line


def _form(destination: str, to: str | None) -> str:
    """Either "npy" or "peft"; refuses a destination that cannot be that."""
    is_npy = Path(destination).suffix == ".npy"
    if to == "npy" and not is_npy:
        raise ValueError(f"{destination}: an array's file ends in .npy; name it so.")
    if to == "peft" or not is_npy:
        _check_directory(destination, "a PEFT adapter")
    return "npy" if is_npy else "peft"


def _check_directory(destination: str, what: str) -> None:
    path = Path(destination)
    if path.is_file() or path.suffix == ".npy":
        raise ValueError(
            f"{destination} is a file's name, but {what} is a directory: choose another name. "
            "Plain arrays are written by `prompt-tuning export PROMPT NAME.npy`."
        )


def _written(place: str, what: str, prompt: TunedPrompt, model: str | None) -> str:
    """The line that a command prints."""
    whose = f"for {model}" if model else "for a model it does not name"
    use = prompt.layout if prompt.visibility == "full" else f"{prompt.layout}, {prompt.visibility}"
    return f"{place}: {what}, {list(prompt.shape)}, {use}, {whose}"


def parser() -> argparse.ArgumentParser:
    both = command.Parser(prog="prompt-tuning", description="Prompts, there and back.")
    commands = both.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("export", help="for another library", description=_EXPORT)
    one.add_argument("prompt", help="prompt directory or file, or a pre-built prompt's name")
    one.add_argument("destination", help="directory of the adapter, or a .npy file")
    one.add_argument("--to", choices=("peft", "npy"), help="by default as DESTINATION is named")
    one.add_argument("--model", help="the prompt's; bundled by default")
    one.add_argument("--base_model", help="its name for PEFT, such as a hub's; by default --model")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    one.set_defaults(run=export_prompt)

    one = commands.add_parser("import", help="from another library", description=_IMPORT)
    one.add_argument("source", help="PEFT adapter directory, .npy file, T5X checkpoint, prompt")
    one.add_argument("destination", help="prompt directory to write")
    one.add_argument("--model", help="the frozen model that it was tuned for, to be recorded")
    one.add_argument("--vocabulary", help="the model's spiece.model, if it lies elsewhere")
    one.add_argument("--layout", choices=LAYOUTS, help="if the source does not say; else prefix")
    one.add_argument("--visibility", choices=VISIBILITIES, help="likewise; else full")
    one.add_argument("--task", help="its name, to be recorded")
    one.add_argument("--verbalizers", nargs="+", metavar="ANSWER", help="to be recorded")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    one.set_defaults(run=import_prompt)
    return both


def main(argv: list[str] | None = None) -> None:
    """`export ...` or `import ...`."""
    options = vars(parser().parse_args(argv))
    run = options.pop("run")
    print(run(**options))


def export_main(argv: list[str] | None = None) -> None:
    """`prompt-tuning export`."""
    main(["export", *(sys.argv[1:] if argv is None else argv)])


def import_main(argv: list[str] | None = None) -> None:
    """`prompt-tuning import`."""
    main(["import", *(sys.argv[1:] if argv is None else argv)])


if __name__ == "__main__":
    command.run(main)
