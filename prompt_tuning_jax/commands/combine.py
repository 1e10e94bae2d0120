"""New prompts from prompts: averaged, interpolated, or composed.

    prompt-tuning combine interpolate bundled_sentiment bundled_season --at 0.25 --output between
    prompt-tuning combine average runs/mine/prompts/800 runs/mine/prompts/1000 --output mean
    prompt-tuning combine compose shared own --output both

An average smooths the last steps of one run; prompts of different runs lie far apart, and their
average is rarely good. A composed prompt is a shared part followed by a task's own part. The own
part works best if it was tuned behind the shared one, as training does with --shared_prompt.
"""

from collections.abc import Sequence
from typing import Any

from prompt_tuning_jax.bounds import Bounds
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.combine import average, compose, interpolate
from prompt_tuning_jax.commands.command import Inner, run_inner
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.tuned_prompt import TunedPrompt


@settings
class CombineConfig:
    """What every way to combine takes."""

    prompts: Sequence[str] = setting(
        help="prompts: files, directories, or names of pre-built ones.",
        group="prompt",
        positional=True,
    )
    output: PathLike = setting(help="a directory, or a .npy file.", group="prompt")


@settings
class AverageConfig(CombineConfig):
    weights: Sequence[float] | None = setting(
        default=None,
        help="one for each prompt; equal by default.",
        group="prompt",
        bounds=Bounds(-1e6, 1e6),
    )


@settings
class InterpolateConfig(CombineConfig):
    at: float = setting(
        help="0 is the first prompt, 1 is the second.", group="prompt", bounds=Bounds(-1e6, 1e6)
    )


def _average(config: AverageConfig) -> None:
    made = average(_load(config), config.weights)
    weights = {} if config.weights is None else {"weights": list(config.weights)}
    _save(config, made, "average", weights)


def _interpolate(config: InterpolateConfig) -> None:
    prompts = _load(config)
    if len(prompts) != 2:
        raise UsageError(f"{spelled('prompts')}: two are interpolated, not {len(prompts)}.")
    _save(config, interpolate(*prompts, config.at), "interpolate", {"at": config.at})


def _compose(config: CombineConfig) -> None:
    _save(config, compose(_load(config)), "compose", {})


def _load(config: CombineConfig) -> list[TunedPrompt]:
    return [load_prompt(path) for path in config.prompts]


def _save(config: CombineConfig, made: TunedPrompt, way: str, options: dict[str, Any]) -> None:
    source = {"way": way, "of": list(config.prompts)} | options
    path = save_prompt(config.output, made, combined_from=source)
    length, width = made.shape
    print(f"{path}: [{length}, {width}], {made.layout}")


COMMANDS = {
    "average": Inner(AverageConfig, _average, "the mean of prompts of one shape"),
    "interpolate": Inner(InterpolateConfig, _interpolate, "a prompt on the line between two"),
    "compose": Inner(CombineConfig, _compose, "the rows of several prompts, the shared part first"),
}


def main(argv: list[str] | None = None) -> None:
    run_inner(COMMANDS, argv, __doc__, "prompt-tuning combine")
