"""Checkpoints: convert between T5X and Hugging Face, list, extract, compare, add a prompt.

    prompt-tuning checkpoint convert bundled bundled-t5x --to t5x
    prompt-tuning checkpoint convert gs://bucket/t5/checkpoint_1100000 t5-hf \\
        --to huggingface --vocabulary spiece.model
    prompt-tuning checkpoint list bundled-t5x/checkpoint_0
    prompt-tuning checkpoint extract bundled-t5x/checkpoint_0 decoder/decoder_norm/scale scale.npy
    prompt-tuning checkpoint diff run/checkpoint_1100000 run/checkpoint_1130000
    prompt-tuning checkpoint add-prompt t5/checkpoint_1100000 prompts/sentiment t5-tuned

T5X is not needed. `prompt-tuning import` takes a prompt out of a checkpoint.
`diff` exits with 0 where all leaves are equal and with 1 where some differ; after a mistake it ends
as every command does, with a line on standard error and nothing on standard output.
"""

import argparse
import dataclasses
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.huggingface import BUNDLED
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import TARGET, is_checkpoint, open_checkpoint
from prompt_tuning_jax.checkpoints.t5x.weights import is_scanned
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import REFERENCE_PROMPT


def to_huggingface(
    source: str,
    destination: str,
    vocabulary: str | None = None,
    dtype: Any = None,
    activations: tuple[str, ...] | None = None,
) -> Path:
    """Writes a T5X, Hugging Face or the bundled model as a Hugging Face directory.

    Of a T5X checkpoint, one weight is in memory at a time.

    Args:
      vocabulary: the model's `spiece.model`, to be copied in; None: the source's, if it has one.
      dtype: of the weights written; None keeps a T5X checkpoint's, and is float32 for others.
      activations: of the MLP, where they are not those that its shapes suggest.

    Raises:
      FileNotFoundError, ValueError: as `t5x.load`, `huggingface.load` and `huggingface.save`.
    """
    if is_checkpoint(source):
        config, weights = t5x.load_lazily(source, dtype, report=print)
        params, words = unflatten_dict(weights, sep="/"), None
    else:
        config, params, words = huggingface.load(_model(source), dtype or jnp.float32, print)
    config = _with_activations(config, activations)
    if vocabulary is not None:
        words = huggingface.read_vocabulary(vocabulary, config)
    huggingface.save(destination, config, params, words)
    return Path(destination)


def to_t5x(
    source: str, destination: str, step: int = 0, form: str = "orbax", dtype: Any = None
) -> Path:
    """Writes a Hugging Face, T5X or the bundled model as `destination/checkpoint_{step}`.

    Raises:
      FileNotFoundError, ValueError: as `huggingface.load` and `t5x.save`; or T5X has no such
        model.
    """
    if is_checkpoint(source):
        _, weights = t5x.load_lazily(source, dtype, report=print)
        return t5x.save(destination, weights, step, form)
    config, params, _ = huggingface.load(_model(source), dtype or jnp.float32, print)
    if config.scale_decoder_outputs is not None:
        raise ValueError(
            f"{source} has {'tied' if config.logits_via_embedding else 'separate'} embeddings and "
            f"scale_decoder_outputs {config.outputs_scaled}: T5X has no such T5, its outputs would "
            "change."
        )
    return t5x.save(destination, params, step, form)


def list_leaves(path: str, everything: bool = False) -> str:
    """A table of a T5X checkpoint's leaves: name, shape, dtype.

    `everything` shows the optimizer's state beside the parameters.
    """
    checkpoint = open_checkpoint(path)
    leaves = checkpoint.leaves("" if everything else TARGET)
    rows = [(name, str(list(leaf.shape)), str(leaf.dtype)) for name, leaf in leaves.items()]
    head = f"{checkpoint.path}: {checkpoint.kind} T5X checkpoint, step {checkpoint.step}"
    return "\n".join([f"{head}, {len(rows)} leaves", *_aligned(rows)])


def extract(path: str, name: str, destination: str) -> Path:
    """Writes the leaf `name` of a checkpoint as a `.npy` array.

    Raises:
      FileNotFoundError, ValueError: as `open_checkpoint`; there is no such leaf, or the
        destination is not a `.npy` file.
    """
    if not destination.endswith(".npy"):
        raise ValueError(f"{destination}: a leaf is written as a .npy file; name it so.")
    leaf = open_checkpoint(path).leaf(name)
    with new_file(destination) as partial, open(partial, "wb") as file:
        values = leaf.read()
        if not isinstance(values.dtype.type(0), (np.floating, np.integer)):
            values = values.astype(np.float32)  # .npy has no bfloat16
        np.save(file, values, allow_pickle=False)
    return Path(destination)


class Difference(NamedTuple):
    """How a leaf differs: its state, and the largest and the mean absolute difference."""

    name: str
    state: str
    largest: float = 0.0
    mean: float = 0.0


def diff(
    a: str, b: str, everything: bool = False, tolerance: float = 0.0
) -> tuple[list[Difference], int]:
    """The leaves that differ between two models, and how many leaves were compared.

    Either is a T5X checkpoint, a Hugging Face directory or "bundled". Two T5X checkpoints of one
    layout are compared leaf by leaf as stored; otherwise weights are, under T5X's names.

    Args:
      everything: compare the optimizer's state too; T5X checkpoints only.
      tolerance: the absolute difference up to which values count as equal.
    """
    ours, theirs = _comparable(a, b, everything)
    names = sorted({*ours, *theirs})
    found = [_difference(n, ours.get(n), theirs.get(n), tolerance) for n in names]
    return [each for each in found if each is not None], len(names)


def _comparable(a: str, b: str, everything: bool) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if is_checkpoint(a) and is_checkpoint(b):
        prefix = "" if everything else TARGET
        ours, theirs = open_checkpoint(a).leaves(prefix), open_checkpoint(b).leaves(prefix)
        if everything or is_scanned(ours) == is_scanned(theirs):
            return ours, theirs
    elif everything:
        raise ValueError("Only T5X checkpoints hold an optimizer's state: leave out --all.")
    return _weights(a), _weights(b)


def _weights(path: str) -> Mapping[str, Any]:
    if is_checkpoint(path):
        return t5x.load_lazily(path)[1]
    return flatten_dict(huggingface.load(_model(path))[1], sep="/")


def _model(source: str) -> str:
    return str(BUNDLED) if source == "bundled" else source


def _difference(name: str, ours: Any, theirs: Any, tolerance: float) -> Difference | None:
    if ours is None or theirs is None:
        return Difference(name, f"only in {'B' if ours is None else 'A'}")
    if ours.shape != theirs.shape:
        return Difference(name, f"shape {list(ours.shape)} | {list(theirs.shape)}")
    common = np.result_type(np.float32, ours.dtype, theirs.dtype)
    a, b = (np.asarray(x).astype(common) for x in (ours, theirs))
    with np.errstate(invalid="ignore"):  # infinity less infinity
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    if apart.size == 0 or apart.max() <= tolerance:
        return None
    return Difference(name, "differs", float(apart.max()), float(apart.mean()))


def _print_diff(args: argparse.Namespace) -> None:
    found, compared = diff(args.a, args.b, args.all, args.tolerance)
    rows = [
        (each.name, each.state, f"largest {each.largest:.3g}", f"mean {each.mean:.3g}")
        if each.state == "differs"
        else (each.name, each.state, "", "")
        for each in found
    ]
    print("\n".join([f"{compared} leaves compared, {len(found)} differ", *_aligned(rows)]))
    sys.exit(1 if found else 0)


def _convert(args: argparse.Namespace) -> None:
    foreign = {"t5x": ("vocabulary", "activations"), "huggingface": ("step", "form")}
    for option in foreign[args.to]:
        if getattr(args, option) is not None:
            other = next(to for to in foreign if to != args.to)
            raise UsageError(f"--{option} is for --to {other}: leave it out.")
    if args.to == "t5x":
        step, form = args.step or 0, args.form or "orbax"
        print(to_t5x(args.source, args.destination, step, form, args.dtype))
        return
    activations = None if args.activations is None else tuple(args.activations.split(","))
    options = {"dtype": args.dtype, "activations": activations}
    print(to_huggingface(args.source, args.destination, args.vocabulary, **options))


def _add_prompt(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ("step", "name", "form", "allow_mismatch")}
    print(t5x.add_prompt(args.base, load_prompt(args.prompt), args.destination, **options))


def _with_activations(config: T5Config, activations: tuple[str, ...] | None) -> T5Config:
    if activations is None:
        return config
    asked = dataclasses.replace(config, mlp_activations=activations)
    if len(asked.mlp_activations) != len(config.mlp_activations):
        raise ValueError(
            f"This model's MLP has {len(config.mlp_activations)} activation(s), not "
            f"{','.join(activations)}."
        )
    return asked


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def parser() -> argparse.ArgumentParser:
    main_parser = command.Parser(description=__doc__)
    commands = main_parser.add_subparsers(required=True, metavar="COMMAND")

    one = commands.add_parser("convert", help="between T5X and Hugging Face")
    one.add_argument("source", help="T5X checkpoint (gs:// too), Hugging Face directory, bundled")
    one.add_argument("destination", help="directory to write")
    one.add_argument("--to", required=True, choices=("huggingface", "t5x"))
    one.add_argument("--vocabulary", help="spiece.model to copy into a Hugging Face directory")
    one.add_argument("--activations", help="such as silu,linear; shapes suggest them by default")
    one.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the weights written")
    one.add_argument("--step", type=int, help="names the T5X checkpoint; 0 by default")
    one.add_argument("--form", choices=t5x.FORMS, help="of a T5X checkpoint; orbax by default")
    one.set_defaults(run=_convert)

    one = commands.add_parser("list", help="names, shapes and dtypes of a T5X checkpoint")
    one.add_argument("checkpoint")
    one.add_argument("--all", action="store_true", help="the optimizer's state too")
    one.set_defaults(run=lambda args: print(list_leaves(args.checkpoint, args.all)))

    one = commands.add_parser("extract", help="a leaf of a T5X checkpoint, as an array")
    one.add_argument("checkpoint")
    one.add_argument("leaf", help="its name, as `list` shows it")
    one.add_argument("destination", help="a .npy file")
    one.set_defaults(run=lambda args: print(extract(args.checkpoint, args.leaf, args.destination)))

    one = commands.add_parser("diff", help="which leaves of two models differ, and by how much")
    one.add_argument("a", help="T5X checkpoint, Hugging Face directory, or bundled")
    one.add_argument("b")
    one.add_argument("--all", action="store_true", help="the optimizer's state too")
    one.add_argument("--tolerance", type=float, default=0.0, help="absolute; 0 by default")
    one.set_defaults(run=_print_diff)

    one = commands.add_parser("add-prompt", help="a full T5X checkpoint from base and prompt")
    one.add_argument("base", help="T5X checkpoint; a prompt in it is replaced")
    one.add_argument("prompt", help="prompt directory or file, or a T5X checkpoint holding one")
    one.add_argument("destination", help="directory in which checkpoint_STEP is written")
    one.add_argument("--step", type=int, help="by default the base's")
    one.add_argument("--name", help=f"such as {REFERENCE_PROMPT}, as the reference names it")
    one.add_argument("--form", choices=t5x.FORMS, help="by default the base's")
    one.add_argument("--allow_mismatch", action="store_true", help="a prompt of another model")
    one.set_defaults(run=_add_prompt)
    return main_parser


def main(argv: list[str] | None = None) -> None:
    """Runs one of the commands."""
    args = parser().parse_args(argv)
    args.run(args)


if __name__ == "__main__":
    command.run(main)
