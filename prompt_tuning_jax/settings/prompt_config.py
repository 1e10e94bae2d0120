"""The prompts that a command names, read and checked against the model."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from prompt_tuning_jax.banks import TunedBank
from prompt_tuning_jax.checkpoints.adapters.adapter import Adapter
from prompt_tuning_jax.checkpoints.adapters.adapter_file import load_adapter
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, named
from prompt_tuning_jax.data.templates import words_of
from prompt_tuning_jax.embedding import EmbeddingModel
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.settings.common import MismatchConfig, TextPromptConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.tuned_prompt import TunedPrompt

Model = TypeVar("Model", FrozenModel, EmbeddingModel)


@settings
class PromptConfig(MismatchConfig, TextPromptConfig):
    """Which prompts are used."""

    prompt: PathLike | None = setting(
        default=None,
        help="a prompt's file, directory or, of a pre-built one, name; None for the model alone.",
        group="prompt",
        first=True,
    )
    prompts: Mapping[str, str] | Sequence[str] | None = setting(
        default=None, help="several prompts, as paths or as name=path.", group="prompt"
    )
    prompt_field: str | None = setting(
        default=None,
        help="""the field of JSON records, or of a file task's, that names the prompt of each; None
        for an ensemble.""",
        group="prompt",
    )


@settings
class AdapterConfig(MismatchConfig):
    """Which adapter is in the model."""

    adapter: PathLike | None = setting(
        default=None,
        help="the directory of an adapter, a run's best or PEFT's: the model is used with it.",
        group="prompt",
    )


def load_adapted(config: AdapterConfig, model: Model) -> tuple[Model, Adapter | None]:
    """The model with the adapter that `config` names, and that."""
    if config.adapter is None:
        return model, None
    adapter = load_adapter(config.adapter, model.config)
    return model.adapted(adapter, config.allow_prompt_mismatch), adapter


def check_prompts(config: PromptConfig) -> None:
    """Refuses settings of prompts that contradict each other, before anything is loaded."""
    if config.prompt is not None and config.prompts is not None:
        raise ValueError(f"Give either {spelled('prompt')}, or {spelled('prompts')} for several.")
    if config.prompt_field is not None and config.prompts is None:
        raise ValueError(
            f"{spelled('prompt_field')} needs {spelled('prompts')}, such as "
            "sentiment=runs/sentiment/best topic=runs/topic/best."
        )
    if config.prompts is not None and not named(config.prompts):
        raise ValueError(f"{spelled('prompts')} is empty.")


def load_prompts(config: PromptConfig, model: FrozenModel) -> TunedPrompt | TunedBank | None:
    """The prompt, or the bank of several, that `config` names."""
    if config.prompts is not None:
        return _load_checked_bank(config.prompts, model, config.allow_prompt_mismatch)
    if config.prompt is not None:
        return load_checked_prompt(config.prompt, model, config.allow_prompt_mismatch)
    return None


def own_words(prompt: TunedPrompt | Adapter) -> tuple[str, ...] | None:
    """The legal answers that a prompt's file records, as a list or by class; None for none."""
    recorded = prompt.metadata.get("verbalizers")
    return words_of(recorded) if recorded else None


def load_checked_prompt(
    path: str | os.PathLike[str],
    model: FrozenModel | EmbeddingModel,
    allow_prompt_mismatch: bool,
) -> TunedPrompt:
    """A prompt file that belongs to `model`, or a clear refusal."""
    prompt = load_prompt(path)
    model.check(prompt, allow_prompt_mismatch)
    return prompt.for_any_model() if allow_prompt_mismatch else prompt


def _load_checked_bank(paths: Any, model: FrozenModel, allow_prompt_mismatch: bool) -> TunedBank:
    """Prompt files that belong to `model`, or a refusal that names the one that does not."""
    prompts = {}
    for name, path in named(paths).items():
        try:
            prompts[name] = load_checked_prompt(path, model, allow_prompt_mismatch)
        except ValueError as error:
            raise ValueError(f"Prompt {name!r}, {path}: {error}") from error
    return TunedBank(prompts)
