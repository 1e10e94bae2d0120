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
import sys

from prompt_tuning_jax.bundled import BUNDLED
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.compare import compare_models
from prompt_tuning_jax.checkpoints.convert import leaf_to_npy, to_huggingface, to_t5x
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import TARGET, open_checkpoint
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.settings.macros import UsageError


def _list(args: argparse.Namespace) -> None:
    checkpoint = open_checkpoint(args.checkpoint)
    leaves = checkpoint.leaves("" if args.all else TARGET)
    rows = [(name, str(list(leaf.shape)), str(leaf.dtype)) for name, leaf in leaves.items()]
    head = f"{checkpoint.path}: {checkpoint.kind} T5X checkpoint, step {checkpoint.step}"
    print("\n".join([f"{head}, {len(rows)} leaves", *_aligned(rows)]))


def _extract(args: argparse.Namespace) -> None:
    print(leaf_to_npy(args.checkpoint, args.leaf, args.destination))


def _diff(args: argparse.Namespace) -> None:
    found, compared = compare_models(_model(args.a), _model(args.b), args.all, args.tolerance)
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
    source, common = _model(args.source), {"dtype": args.dtype, "report": print}
    if args.to == "t5x":
        step, form = args.step or 0, args.form or "orbax"
        print(to_t5x(source, args.destination, step, form, **common))
        return
    activations = None if args.activations is None else tuple(args.activations.split(","))
    options = {"vocabulary": args.vocabulary, "activations": activations}
    print(to_huggingface(source, args.destination, **options, **common))


def _add_prompt(args: argparse.Namespace) -> None:
    options = {name: getattr(args, name) for name in ("step", "name", "form", "allow_mismatch")}
    print(t5x.add_prompt(args.base, load_prompt(args.prompt), args.destination, **options))


def _model(source: str) -> str:
    return str(BUNDLED) if source == "bundled" else source


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
    one.set_defaults(run=_list)

    one = commands.add_parser("extract", help="a leaf of a T5X checkpoint, as an array")
    one.add_argument("checkpoint")
    one.add_argument("leaf", help="its name, as `list` shows it")
    one.add_argument("destination", help="a .npy file")
    one.set_defaults(run=_extract)

    one = commands.add_parser("diff", help="which leaves of two models differ, and by how much")
    one.add_argument("a", help="T5X checkpoint, Hugging Face directory, or bundled")
    one.add_argument("b")
    one.add_argument("--all", action="store_true", help="the optimizer's state too")
    one.add_argument("--tolerance", type=float, default=0.0, help="absolute; 0 by default")
    one.set_defaults(run=_diff)

    one = commands.add_parser("add-prompt", help="a full T5X checkpoint from base and prompt")
    one.add_argument("base", help="T5X checkpoint; a prompt in it is replaced")
    one.add_argument("prompt", help="prompt directory or file, or a T5X checkpoint holding one")
    one.add_argument("destination", help="directory in which checkpoint_STEP is written")
    one.add_argument("--step", type=int, help="by default the base's")
    one.add_argument("--name", help=f"such as {t5x.REFERENCE_PROMPT}, as the reference names it")
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
