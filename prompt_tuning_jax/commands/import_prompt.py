"""Write another library's prompt as a prompt file, which every command here takes.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning import topic-adapter prompts/topic --model bundled

With --model, the file records the frozen model that the prompt was tuned for, and no other will
take it. --verbalizers are the answers to choose from when it is used for inference. PEFT's
multitask prompt becomes one prompt for each of its tasks, as 0, 1, ... in the directory.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints.adapters.peft_multitask import is_multitask, read_multitask
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.commands.written_prompt import check_directory, written
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES
from prompt_tuning_jax.model import load_model
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import MismatchConfig, VocabularyConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.tuned_prompt import TunedPrompt


@settings
class ImportConfig(MismatchConfig, VocabularyConfig):
    """What `prompt-tuning import` takes."""

    source: PathLike = setting(
        help="a PEFT adapter's directory, .npy file, T5X checkpoint or prompt.",
        group="prompt",
        positional=True,
    )
    destination: PathLike = setting(
        help="the prompt's directory to write.", group="prompt", positional=True
    )
    model: PathLike | None = setting(
        default=None, help="the frozen model that it was tuned for, to be recorded.", group="model"
    )
    prompt_layout: str | None = setting(
        default=None,
        help="where its rows stood in tuning, if the source does not say. None: prefix.",
        group="prompt",
        choices=LAYOUTS,
    )
    prompt_visibility: str | None = setting(
        default=None,
        help="what they attended to, if the source does not say. None: full.",
        group="prompt",
        choices=VISIBILITIES,
    )
    task: str | None = setting(default=None, help="the task's name, to be recorded.", group="data")
    verbalizers: Mapping[str, str] | Sequence[str] | None = setting(
        default=None, help="the legal answers, to be recorded.", group="data"
    )


CONFIG = ImportConfig


def import_prompt(config: ImportConfig) -> str:
    """Writes any prompt as a prompt file, or each of several; says what was written.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt` and `load_model`; or the prompt is of
        another model.
    """
    check_directory(config.destination, "a prompt file")
    if not is_multitask(config.source):
        return _write(config, load_prompt(config.source), config.destination)
    lines = [
        _write(config, tuned, Path(config.destination) / str(number))
        for number, tuned in enumerate(read_multitask(config.source))
    ]
    return "\n".join(lines)


def _write(config: ImportConfig, tuned: TunedPrompt, destination: PathLike) -> str:
    check_use(config, tuned)
    facts = {"task": config.task, "verbalizers": config.verbalizers}
    if config.model is not None:
        frozen = load_model(config.model, jnp.bfloat16, vocabulary=config.vocabulary)
        frozen.check(tuned, config.allow_prompt_mismatch)
        facts |= frozen.identity | {"base_model": str(config.model)}
    use = {"layout": config.prompt_layout, "visibility": config.prompt_visibility}
    save_prompt(destination, tuned, **use, **facts)
    saved = load_prompt(destination)
    line = written(destination, "a prompt file", saved, saved.metadata.get("base_model"))
    if unused := saved.metadata.get("peft_unused_rows"):
        line += f"; {unused} more rows, which PEFT never uses, are left out"
    named = tuned.metadata.get("base_model")
    if config.model and named and Path(named).name not in _names_of(config.model):
        line += f"; its own file says for {named}"
    if "base_model_fingerprint" not in saved.metadata:
        line += f"; give {spelled('model')} to have other models refused"
    return line


def _names_of(model: PathLike) -> set[str]:
    """The last part of a model's name, and of the directory that it stands for."""
    return {Path(model).name, Path(directory_of(model)).name}


def check_use(config: ImportConfig, tuned: TunedPrompt) -> None:
    """Refuses settings that contradict the prompt's own file, or that lack a model."""
    ours = "prompt_length" in tuned.metadata  # this library's file, which says all of its use
    for name in ("layout", "visibility"):
        asked, says = getattr(config, f"prompt_{name}"), getattr(tuned, name)
        if ours and asked not in (None, says):
            raise ValueError(
                f"{config.source} was tuned as {says!r}: leave out "
                f"{spelled(f'prompt_{name}', asked)}."
            )
    if config.model is None and (config.vocabulary is not None or config.allow_prompt_mismatch):
        names = f"{spelled('vocabulary')} and {spelled('allow_prompt_mismatch')}"
        raise UsageError(f"{names} go with a {spelled('model')}: name it too.")


def main(argv: list[str] | None = None) -> None:
    print(import_prompt(parse(CONFIG, argv, __doc__, "prompt-tuning import")))
