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

import sys
from collections.abc import Sequence

from prompt_tuning_jax.bounds import STEP, Bounds
from prompt_tuning_jax.checkpoints import t5x
from prompt_tuning_jax.checkpoints.compare import compare_models
from prompt_tuning_jax.checkpoints.convert import leaf_to_npy, to_huggingface, to_t5x
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt
from prompt_tuning_jax.checkpoints.t5x.checkpoint import TARGET, open_checkpoint
from prompt_tuning_jax.commands.command import Inner, run_inner
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.params import REFERENCE_PROMPT
from prompt_tuning_jax.settings.common import MismatchConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings

_MODELS = "T5X checkpoint (gs:// too), Hugging Face directory, bundled or bundled_causal."


@settings
class ConvertConfig:
    """What `checkpoint convert` takes."""

    source: PathLike = setting(help=_MODELS, group="model", positional=True)
    destination: PathLike = setting(help="the directory to write.", group="model", positional=True)
    to: str = setting(help="huggingface or t5x.", group="model", choices=("huggingface", "t5x"))
    vocabulary: PathLike | None = setting(
        default=None,
        help="a tokenizer.json or spiece.model to copy into a Hugging Face directory.",
        group="model",
    )
    activations: Sequence[str] | None = setting(
        default=None,
        help="of the MLP, such as silu linear. None: as its shapes suggest.",
        group="model",
    )
    model_dtype: str | None = setting(
        default=None,
        help="of the weights written. None: a T5X checkpoint's own, else float32.",
        group="model",
        choices=("float32", "bfloat16"),
    )
    step: int | None = setting(
        default=None, help="names the T5X checkpoint. None: 0.", group="model", bounds=STEP
    )
    form: str | None = setting(
        default=None, help="of a T5X checkpoint. None: orbax.", group="model", choices=t5x.FORMS
    )


def _convert(config: ConvertConfig) -> None:
    foreign = {"t5x": ("vocabulary", "activations"), "huggingface": ("step", "form")}
    for name in foreign[config.to]:
        if getattr(config, name) is not None:
            other = next(to for to in foreign if to != config.to)
            raise UsageError(f"{spelled(name)} is for {spelled('to', other)}: leave it out.")
    source, common = _model(config.source), {"dtype": config.model_dtype, "report": print}
    if config.to == "t5x":
        step, form = config.step or 0, config.form or "orbax"
        print(to_t5x(source, config.destination, step, form, **common))
        return
    activations = None if config.activations is None else tuple(config.activations)
    options = {"vocabulary": config.vocabulary, "activations": activations}
    print(to_huggingface(source, config.destination, **options, **common))


@settings
class ListConfig:
    """What `checkpoint list` takes."""

    checkpoint: PathLike = setting(help="a T5X checkpoint.", group="model", positional=True)
    everything: bool = setting(default=False, help="the optimizer's state too.", group="model")


def _list(config: ListConfig) -> None:
    checkpoint = open_checkpoint(config.checkpoint)
    leaves = checkpoint.leaves("" if config.everything else TARGET)
    rows = [(name, str(list(leaf.shape)), str(leaf.dtype)) for name, leaf in leaves.items()]
    head = f"{checkpoint.path}: {checkpoint.kind} T5X checkpoint, step {checkpoint.step}"
    print("\n".join([f"{head}, {len(rows)} leaves", *_aligned(rows)]))


@settings
class ExtractConfig:
    """What `checkpoint extract` takes."""

    checkpoint: PathLike = setting(help="a T5X checkpoint.", group="model", positional=True)
    leaf: str = setting(help="its name, as `list` shows it.", group="model", positional=True)
    destination: PathLike = setting(help="a .npy file.", group="model", positional=True)


def _extract(config: ExtractConfig) -> None:
    print(leaf_to_npy(config.checkpoint, config.leaf, config.destination))


@settings
class DiffConfig:
    """What `checkpoint diff` takes."""

    a: PathLike = setting(help=_MODELS, group="model", positional=True)
    b: PathLike = setting(help="the other model.", group="model", positional=True)
    everything: bool = setting(default=False, help="the optimizer's state too.", group="model")
    tolerance: float = setting(
        default=0.0,
        help="the absolute difference up to which values count as equal.",
        group="model",
        bounds=Bounds(0, 1e6),
    )


def _diff(config: DiffConfig) -> None:
    found, compared = compare_models(
        _model(config.a), _model(config.b), config.everything, config.tolerance
    )
    rows = [
        (each.name, each.state, f"largest {each.largest:.3g}", f"mean {each.mean:.3g}")
        if each.state == "differs"
        else (each.name, each.state, "", "")
        for each in found
    ]
    print("\n".join([f"{compared} leaves compared, {len(found)} differ", *_aligned(rows)]))
    sys.exit(1 if found else 0)


@settings
class AddPromptConfig(MismatchConfig):
    """What `checkpoint add-prompt` takes."""

    base: PathLike = setting(
        help="a T5X checkpoint; a prompt in it is replaced.", group="model", positional=True
    )
    prompt: PathLike = setting(
        help="a prompt's file or directory, or a T5X checkpoint that holds one.",
        group="prompt",
        positional=True,
    )
    destination: PathLike = setting(
        help="the directory in which checkpoint_STEP is written.", group="model", positional=True
    )
    step: int | None = setting(default=None, help="None: the base's.", group="model", bounds=STEP)
    name: str | None = setting(
        default=None,
        help=f"of the leaf, such as {REFERENCE_PROMPT}, the reference's.",
        group="prompt",
    )
    form: str | None = setting(
        default=None, help="None: the base's.", group="model", choices=t5x.FORMS
    )


def _add_prompt(config: AddPromptConfig) -> None:
    written = t5x.add_prompt(
        config.base,
        load_prompt(config.prompt),
        config.destination,
        step=config.step,
        name=config.name,
        form=config.form,
        allow_prompt_mismatch=config.allow_prompt_mismatch,
    )
    print(written)


COMMANDS = {
    "convert": Inner(ConvertConfig, _convert, "between T5X and Hugging Face"),
    "list": Inner(ListConfig, _list, "names, shapes and dtypes of a T5X checkpoint"),
    "extract": Inner(ExtractConfig, _extract, "a leaf of a T5X checkpoint, as an array"),
    "diff": Inner(DiffConfig, _diff, "which leaves of two models differ, and by how much"),
    "add-prompt": Inner(AddPromptConfig, _add_prompt, "a full T5X checkpoint: base and prompt"),
}


def _model(source: PathLike) -> str:
    return str(directory_of(source))


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(c.ljust(w) for c, w in zip(r, widths, strict=True)).rstrip() for r in rows]


def main(argv: list[str] | None = None) -> None:
    """Runs one of the commands."""
    run_inner(COMMANDS, argv, __doc__, "prompt-tuning checkpoint")
