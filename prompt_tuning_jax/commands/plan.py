"""Whether a training run fits and how fast it may be, on hardware that is not at hand.

    prompt-tuning plan --model base --gpu_memory 16 --flops 65e12 --bandwidth 300e9
    prompt-tuning plan --model xxl --topology v5e:4x4
    prompt-tuning plan --model mt5_xl --topology v4:2x2x2 --mesh fsdp:8 --json plan.json

With --topology the training step is compiled by the TPU's own compiler, which needs no TPU, only
libtpu (pip install 'prompt-tuning-jax[plan]'); a compilation takes minutes. With --gpu_memory it is
only traced, and all numbers are arithmetic. The weights are bfloat16, the prompt float32.
"""

import argparse
import contextlib
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import rich.console

from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.huggingface.config import read_config
from prompt_tuning_jax.commands import command
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES, mt5, t5_1_0, t5_1_1
from prompt_tuning_jax.planning import estimates as plans
from prompt_tuning_jax.planning import hardware as targets
from prompt_tuning_jax.planning import meshes as options
from prompt_tuning_jax.planning import table as report
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings.macros import UsageError

_FAMILIES = {"t5_1_1": t5_1_1, "t5_1_0": t5_1_0, "mt5": mt5}


def model_config(model: str) -> T5Config:
    """The shape of `xxl`, `t5_1_0_large`, `mt5_xl`, or of a Hugging Face model's directory."""
    settings = {"dtype": jnp.bfloat16, "scan_layers": True}
    if (file := Path(model) / "config.json").is_file():
        config = read_config(file, untied=True)
        # Only the gated models have an output layer of their own; the weights are not asked.
        if len(config.mlp_activations) == 1:
            config = read_config(file, untied=False)
        return dataclasses.replace(config, **settings)
    family, _, size = model.rpartition("_")
    make = _FAMILIES.get(family or "t5_1_1")
    try:
        if make is not None:
            return make(size, **settings)
    except ValueError:  # no such size: the message below says what there is
        pass
    raise ValueError(
        f"--model {model}: give small, base, large, xl or xxl, alone or after t5_1_1_, t5_1_0_ or "
        "mt5_, or a directory with a Hugging Face config.json."
    )


def plan_slice(
    config: T5Config,
    lengths: Lengths,
    target: targets.Slice,
    mesh: str | None = None,
    remat: str | None = None,
    tries: int = 3,
) -> Iterator[plans.Plan]:
    """Plans for a TPU slice, one compilation each.

    Args:
      mesh: only this one, such as "fsdp:16"; None: the `tries` likeliest.
      remat: only this policy; None: all, or with `mesh` the cheapest that is likely to fit.

    Raises:
      ValueError: nothing divides, or libtpu knows no such slice.
      ImportError: libtpu is not installed.
    """
    devices = targets.devices(target)
    if mesh:
        splits = [options.only_mesh(sharding.make_mesh(mesh, devices), lengths.batch)]
    else:
        splits = options.meshes(len(devices), lengths.batch, config.num_heads)
    policies = [remat] if remat else REMAT_POLICIES
    chosen = options.likeliest(config, lengths, target.chip, splits, policies)
    for option in chosen[: 1 if mesh else tries]:
        yield plans.compiled_plan(config, lengths, target.chip, devices, option)


def plan_gpu(
    config: T5Config, lengths: Lengths, chip: targets.Chip, remat: str | None = None
) -> Iterator[plans.Plan]:
    """Plans for one GPU: arithmetic, one for each policy."""
    for policy in [remat] if remat else REMAT_POLICIES:
        yield plans.arithmetic_plan(config, lengths, chip, policy)


def as_json(args: dict[str, Any], found: list[plans.Plan]) -> dict[str, Any]:
    """What was asked, and every plan; `recommended` is a place among them."""
    best = plans.recommended(found)
    return {
        "asked": args,
        "versions": plans.versions(),
        "plans": [plan.as_json() for plan in found],
        "recommended": None if best is None else found.index(best),
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = command.Parser(description=__doc__)
    result.add_argument("--model", required=True, help="xxl, t5_1_0_large, mt5_xl, or a directory")
    for name, field in Lengths.__dataclass_fields__.items():
        what = "rows, on all devices" if name == "batch" else f"{name} tokens of a row"
        result.add_argument(f"--{name}", type=_count, default=field.default, help=what)
    where = result.add_mutually_exclusive_group(required=True)
    where.add_argument("--topology", help=f"v5e:4x4, v4:2x2x4; {', '.join(targets.CHIPS)}")
    where.add_argument("--gpu_memory", type=_rate, help="of one GPU, in GB")
    result.add_argument("--flops", type=_rate, help="of the GPU, bfloat16 matrices, a second")
    result.add_argument("--bandwidth", type=_rate, help="of its memory, bytes a second")
    result.add_argument("--mesh", help="such as fsdp:8,model:2; without it several are tried")
    result.add_argument("--remat", choices=REMAT_POLICIES, help="without it several are tried")
    result.add_argument("--tries", type=_count, default=3, help="compilations at most")
    result.add_argument("--json", type=Path, metavar="FILE", help="where to write all numbers")
    return result


def _count(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


def _rate(text: str) -> float:
    if not 0 < (number := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def _plans(args: argparse.Namespace) -> Iterator[plans.Plan]:
    config = model_config(args.model)
    lengths = Lengths(args.batch, args.inputs, args.targets, args.prompt)
    if args.topology:
        if args.flops or args.bandwidth:
            raise UsageError("--flops and --bandwidth are a GPU's: give --gpu_memory too.")
        target = targets.parse_slice(args.topology)
        return plan_slice(config, lengths, target, args.mesh, args.remat, args.tries)
    if not (args.flops and args.bandwidth):
        raise UsageError("--gpu_memory needs the GPU's --flops and --bandwidth too.")
    if args.mesh:
        raise UsageError("--mesh needs a --topology: a GPU is planned for by itself.")
    chip = targets.Chip("gpu", int(args.gpu_memory * 1e9), args.flops, args.bandwidth)
    return plan_gpu(config, lengths, chip, args.remat)


def main(argv: list[str] | None = None) -> None:
    args = parser().parse_args(argv)
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is not needed
    console, found = rich.console.Console(), []
    with new_file(args.json) if args.json else contextlib.nullcontext() as file:
        with console.status("tracing the step") as status:
            for plan in _plans(args):
                found.append(plan)
                status.update(report.one_line(plan))
        report.print_plans(found, console)
        if args.json:
            asked = {k: v for k, v in vars(args).items() if k != "json" and v is not None}
            file.write_text(json.dumps(as_json(asked, found), indent=1) + "\n")


if __name__ == "__main__":
    command.run(main)
