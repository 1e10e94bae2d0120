"""Whether a training run fits and how fast it may be, on hardware that is not at hand.

    prompt-tuning plan --model base --gpu_memory 16 --flops 65e12 --bandwidth 300e9
    prompt-tuning plan --model xxl --topology v5e:4x4
    prompt-tuning plan --model mt5_xl --topology v4:2x2x2 --mesh fsdp:8 --output plan.json

With --topology the training step is compiled by the TPU's own compiler, which needs no TPU, only
libtpu (pip install 'prompt-tuning-jax[plan]'); a compilation takes minutes. With --gpu_memory it is
only traced, and all numbers are arithmetic. The weights are bfloat16, the prompt float32.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import rich.console

from prompt_tuning_jax.bounds import PROMPT_LENGTH, ROWS, TOKENS, Bounds
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.planning import hardware, table
from prompt_tuning_jax.planning.plan import Plan, as_json, model_config, plan_gpu, plan_slice
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.settings.task_config import lengths_of


@settings
class PlanConfig:
    """What `prompt-tuning plan` takes."""

    model: PathLike = setting(
        help="xxl, t5_1_0_large, mt5_xl, or a directory with a Hugging Face config.json.",
        group="model",
    )
    prompt_length: int = setting(
        default=100,
        help="P, the number of vectors.",
        group="prompt",
        bounds=Bounds(1, PROMPT_LENGTH.most),
    )
    batch_size: int = setting(
        default=32, help="rows, on all devices.", group="training", bounds=ROWS
    )
    feature_lengths: Mapping[str, int] | None = setting(
        default=None,
        help="tokens of a row's input and target. None: inputs=512 targets=8.",
        group="data",
        bounds=TOKENS,
    )
    topology: str | None = setting(
        default=None, help=f"v5e:4x4, v4:2x2x4; {', '.join(hardware.CHIPS)}.", group="devices"
    )
    gpu_memory: float | None = setting(
        default=None, help="of one GPU, in GB.", group="devices", bounds=Bounds(0, 1e6)
    )
    flops: float | None = setting(
        default=None,
        help="of the GPU, bfloat16 matrices, a second.",
        group="devices",
        bounds=Bounds(0, 1e19),
    )
    bandwidth: float | None = setting(
        default=None, help="of its memory, bytes a second.", group="devices", bounds=Bounds(0, 1e18)
    )
    mesh: str | None = setting(
        default=None, help="such as fsdp:8,model:2; without it several are tried.", group="devices"
    )
    remat_policy: str | None = setting(
        default=None,
        help="none, minimal or full; without it several are tried.",
        group="devices",
        choices=REMAT_POLICIES,
    )
    tries: int = setting(
        default=3, help="compilations at most.", group="devices", bounds=Bounds(1, 1000)
    )
    output: PathLike | None = setting(
        default=None, help="a JSON file for all numbers.", group="evaluation"
    )


CONFIG = PlanConfig
LENGTHS = {"inputs": 512, "targets": 8}


def plans_of(config: PlanConfig) -> Iterator[Plan]:
    """Plans for the TPU slice or the GPU that is named.

    Raises:
      UsageError: neither or both are named, or a setting is the other's.
    """
    check_hardware(config)
    model, tokens = model_config(str(config.model)), lengths_of(config.feature_lengths or LENGTHS)
    lengths = Lengths(config.batch_size, tokens["inputs"], tokens["targets"], config.prompt_length)
    if config.topology is not None:
        target = hardware.parse_slice(config.topology)
        return plan_slice(model, lengths, target, config.mesh, config.remat_policy, config.tries)
    memory = int(config.gpu_memory * 1e9)
    chip = hardware.Chip("gpu", memory, config.flops, config.bandwidth)
    return plan_gpu(model, lengths, chip, config.remat_policy)


def check_hardware(config: PlanConfig) -> None:
    """Refuses settings that do not say which hardware is meant."""
    gpu, rates = spelled("gpu_memory"), f"{spelled('flops')} and {spelled('bandwidth')}"
    if (config.topology is None) == (config.gpu_memory is None):
        raise UsageError(f"Give either {spelled('topology')} or {gpu}.")
    if config.topology is not None and (config.flops or config.bandwidth):
        raise UsageError(f"{rates} are a GPU's: give {gpu} instead of {spelled('topology')}.")
    if config.gpu_memory is not None and not (
        config.gpu_memory and config.flops and config.bandwidth
    ):
        raise UsageError(f"{gpu} needs the GPU's {rates} too, each above 0.")
    if config.gpu_memory is not None and config.mesh:
        raise UsageError(
            f"{spelled('mesh')} needs a {spelled('topology')}: a GPU is planned for by itself."
        )


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning plan")
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is not needed
    console, found = rich.console.Console(), []
    with new_file(config.output) if config.output else contextlib.nullcontext() as file:
        with console.status("tracing the step") as status:
            for plan in plans_of(config):
                found.append(plan)
                status.update(table.one_line(plan))
        table.print_plans(found, console)
        if config.output:
            file.write_text(json.dumps(as_json(_asked(config), found), indent=1) + "\n")


def _asked(config: PlanConfig) -> dict[str, Any]:
    """The settings that are not None, but where the plan is written."""
    given = dataclasses.asdict(config) | {"feature_lengths": config.feature_lengths or LENGTHS}
    return {k: v for k, v in given.items() if k != "output" and v is not None}
