"""Whether a training run fits and how fast it may be, on hardware that is not at hand.

    prompt-tuning plan --model xl --gpu h100
    prompt-tuning plan --model xxl --gpu a100:8 --prompt_visibility isolated
    prompt-tuning plan --model xxl --topology v5e:4x4
    prompt-tuning plan --model llama3.2-3b --gpu h200 --feature_lengths inputs=256 targets=512
    prompt-tuning plan --model xl --gpu h100 --method lora --lora_rank 16
    prompt-tuning plan --model large --topology v5e:2x2 --method model --optimizer adamw
    prompt-tuning plan --model mt5_xl --topology v4:2x2x2 --mesh fsdp:8 --output plan.json

The training step is compiled by the hardware's own compiler, which needs no hardware, but libtpu
for TPUs (pip install 'prompt-tuning-jax[plan]') and 5 GB of CUDA for GPUs (pip install
'prompt-tuning-jax[plan_gpu]'). A compilation takes minutes. Activations are bfloat16, and so
are frozen weights unless they are int8; what trains is float32.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import rich.console

from prompt_tuning_jax.bounds import ROWS, TOKENS, Bounds
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.models.attention.choice import FORMS
from prompt_tuning_jax.models.t5.config import REMAT_POLICIES
from prompt_tuning_jax.planning import gpus, hardware, table
from prompt_tuning_jax.planning.models import model_config
from prompt_tuning_jax.planning.plan import Plan, as_json, plan_target
from prompt_tuning_jax.planning.step import Lengths
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.parts.method import MethodConfig
from prompt_tuning_jax.settings.parts.recipe import FormConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings, settings_of
from prompt_tuning_jax.settings.task_config import lengths_of

MODEL_DTYPES = ("bfloat16", "int8")


@settings
class PlanConfig(FormConfig, MethodConfig):
    """What `prompt-tuning plan` takes."""

    model: PathLike = setting(
        help="""xxl, t5_1_0_large, mt5_xl, llama3.2-1b, gemma2-2b, t5gemma-9b-2b (a name that there
        is not tells all), or a directory with a Hugging Face config.json.""",
        group="model",
        first=True,
    )
    model_dtype: str = setting(
        default="bfloat16",
        help="of the frozen weights; int8 ones are multiplied with bfloat16 activations.",
        group="model",
        choices=MODEL_DTYPES,
    )
    prompt_visibility: str = setting(
        default="full",
        help="what the prompt may attend to, as in training.",
        group="prompt",
        choices=VISIBILITIES,
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
        default=None,
        help=f"v5e:4x4, v4:2x2x4; {', '.join(hardware.CHIPS)}.",
        group="devices",
        first=True,
    )
    gpu: str | None = setting(
        default=None, help=f"h100, a100:8; {', '.join(gpus.GPUS)}.", group="devices", first=True
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
    scan_layers: bool | None = setting(
        default=None,
        help="""compile one layer for all, as in training: planned sooner, slower in use. None: for
        a prompt; other methods cannot, and their compilation takes several times as long.""",
        group="devices",
    )
    attention: str = setting(
        default="auto",
        help="auto, dense, chunked or fused, as in training.",
        group="devices",
        choices=FORMS,
    )
    attention_chunk: int | None = setting(
        default=None,
        help="how many queries' attention scores are in memory at a time, as in training.",
        group="devices",
        bounds=Bounds(1, TOKENS.most),
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
    """Plans for the TPU slice or the GPUs that are named.

    Raises:
      UsageError: neither or both are named.
    """
    if (config.topology is None) == (config.gpu is None):
        raise UsageError(f"Give either {spelled('topology')} or {spelled('gpu')}.")
    scans = config.trains == "prompt" if config.scan_layers is None else config.scan_layers
    model = dataclasses.replace(
        model_config(str(config.model)),
        prompt_visibility=config.prompt_visibility,
        scan_layers=scans,
        attention=config.attention,
        attention_chunk=config.attention_chunk,
    )
    target = (
        gpus.parse_node(config.gpu) if config.gpu else hardware.parse_slice(str(config.topology))
    )
    return plan_target(
        model, lengths_for(config), target, config.mesh, config.remat_policy, config.tries
    )


def lengths_for(config: PlanConfig) -> Lengths:
    """The sizes of the step that is asked for, and its method."""
    tokens = lengths_of(config.feature_lengths or LENGTHS)
    return Lengths(
        batch=config.batch_size,
        inputs=tokens["inputs"],
        targets=tokens["targets"],
        prompt=config.prompt_length,
        int8=config.model_dtype == "int8",
        method=_method(config),
    )


def _method(config: PlanConfig) -> tuple[tuple[str, Any], ...]:
    """What is asked of the method and its form, but for the prompt's length."""
    names = {**settings_of(MethodConfig), **settings_of(FormConfig)}.keys() - {"prompt_length"}
    given = {name: getattr(config, name) for name in sorted(names)}
    targets = given["lora_targets"]
    given["lora_targets"] = None if targets is None else tuple(targets)  # it is to be hashed
    return tuple(given.items())


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning plan")
    jax.config.update("jax_platforms", "cpu")  # an accelerator that is here is not needed
    console, found = rich.console.Console(), []
    with new_file(config.output) if config.output else contextlib.nullcontext() as file:
        with console.status("tracing the step") as status:
            for plan in plans_of(config):
                found.append(plan)
                status.update(table.one_line(plan))
        table.print_plans(found, table.GPU_NOTES if config.gpu else table.TPU_NOTES, console)
        if config.output:
            file.write_text(json.dumps(as_json(_asked(config), found), indent=1) + "\n")


def _asked(config: PlanConfig) -> dict[str, Any]:
    """The settings that are not None, but where the plan is written."""
    given = dataclasses.asdict(config) | {"feature_lengths": config.feature_lengths or LENGTHS}
    return {k: v for k, v in given.items() if k != "output" and v is not None}
