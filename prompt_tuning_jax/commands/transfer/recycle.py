"""A prompt of one frozen model for another, without training: a beginning, or sometimes enough.

    prompt-tuning recycle bundled_topic --target_model bundled_causal --output prompts/topic_causal
    prompt-tuning recycle runs/mine/best --model t5-small --target_model t5-base --output runs/base

A map from the one model's embeddings to the other's is fitted on the pieces that both
vocabularies have, and the prompt's rows go through it (Lester et al. 2022). What was done and how
well the map fits is printed, and recorded in prompt.json. `prompt-tuning evaluate` says what the
prompt is worth, and `train` goes on from it with --prompt_init. In Python it is
`prompt_tuning_jax.recycle`.
"""

import json
from typing import Any

from prompt_tuning_jax.bounds import COUNT, SEED
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands.written_prompt import written
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import MismatchConfig, ModelConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.training.transfer.embedding_maps import MAPS
from prompt_tuning_jax.training.transfer.recycling import recycle


@settings
class RecycleConfig(MismatchConfig, ModelConfig):
    """What `prompt-tuning recycle` takes."""

    prompt: PathLike = setting(
        help="a prompt's file, directory or, of a pre-built one, name.",
        group="prompt",
        positional=True,
    )
    target_model: Any = setting(
        help="the frozen model that the prompt is wanted for; see model.", group="model"
    )
    target_vocabulary: PathLike | None = setting(
        default=None,
        help="the target model's tokenizer.json or spiece.model, where its directory holds none.",
        group="model",
    )
    embedding_map: str = setting(
        default="linear",
        help="""from the one model's embeddings to the other's: linear, by least squares, or
        network, of two layers.""",
        group="prompt",
        first=True,
        choices=tuple(MAPS),
    )
    intercept: bool = setting(
        default=False, help="whether the linear map has one.", group="prompt", first=True
    )
    pieces: int | None = setting(
        default=None,
        help="fit on so many of the most frequent pieces that both have. None: on all.",
        group="prompt",
        bounds=COUNT,
    )
    seed: int = setting(default=0, help="of the network.", group="prompt", bounds=SEED)
    output: PathLike = setting(help="a directory, or a .npy file.", group="prompt")


CONFIG = RecycleConfig


def main(argv: list[str] | None = None) -> None:
    config = parse(CONFIG, argv, __doc__, "prompt-tuning recycle")
    made = recycle(
        config.prompt,
        _load(config.model, config.vocabulary),
        _load(config.target_model, config.target_vocabulary),
        embedding_map=config.embedding_map,
        intercept=config.intercept,
        pieces=config.pieces,
        seed=config.seed,
        allow_prompt_mismatch=config.allow_prompt_mismatch,
    )
    print(json.dumps(made.metadata["recycled"]))
    place = save_prompt(config.output, made)
    print(written(place, "recycled", made, made.metadata["base_model"]))


def _load(model: Any, vocabulary: PathLike | None) -> FrozenModel:
    return model if isinstance(model, FrozenModel) else load_model(model, vocabulary=vocabulary)
