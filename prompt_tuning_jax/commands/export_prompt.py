"""Write a prompt for another library, by default as a PEFT adapter.

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

import argparse
from pathlib import Path

import jax.numpy as jnp

from prompt_tuning_jax.bundled import BUNDLED
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.commands.written_prompt import check_directory, written
from prompt_tuning_jax.model import load_model
from prompt_tuning_jax.settings.macros import UsageError


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
        return written(destination, "an array", tuned, tuned.metadata.get("base_model"))
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
    return written(destination, "a PEFT adapter", tuned, model)


def _form(destination: str, to: str | None) -> str:
    """Either "npy" or "peft"; refuses a destination that cannot be that."""
    is_npy = Path(destination).suffix == ".npy"
    if to == "npy" and not is_npy:
        raise ValueError(f"{destination}: an array's file ends in .npy; name it so.")
    if to == "peft" or not is_npy:
        check_directory(destination, "a PEFT adapter")
    return "npy" if is_npy else "peft"


def parser() -> argparse.ArgumentParser:
    one = command.Parser(description=__doc__)
    one.add_argument("prompt", help="prompt directory or file, or a pre-built prompt's name")
    one.add_argument("destination", help="directory of the adapter, or a .npy file")
    one.add_argument("--to", choices=("peft", "npy"), help="by default as DESTINATION is named")
    one.add_argument("--model", help="the prompt's; bundled by default")
    one.add_argument("--base_model", help="its name for PEFT, such as a hub's; by default --model")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    return one


def main(argv: list[str] | None = None) -> None:
    """Writes a prompt for another library, and prints what was written."""
    print(export_prompt(**vars(parser().parse_args(argv))))


if __name__ == "__main__":
    command.run(main)
