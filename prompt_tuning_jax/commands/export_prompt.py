"""Write a prompt for another library, by default as a PEFT adapter.

    prompt-tuning export bundled_topic topic-adapter
    prompt-tuning export bundled_topic topic.npy
    prompt-tuning export runs/faq/best tuned --to sentence_transformers --model all-MiniLM-L6-v2

A PEFT adapter is a directory that `PeftModel.from_pretrained(base, DESTINATION)` loads onto the
same frozen model, with the same numbers.

A .npy file is the bare array, float32 [P, D], for any other server. It is fed by
  1. looking the input's token ids up in the model's table of input embeddings, [T, D], scaled where
     its embedding layer scales them (Gemma's does);
  2. putting the array's rows before them as they are, [P + T, D] (for another layout than "prefix",
     where the prompt was tuned to stand), and giving that to the encoder, or to a causal model,
     instead of ids (`inputs_embeds`);
  3. widening the attention mask by P ones (of a prompt whose visibility is not "full", its rows
     attend to less than all), with no padding between the rows and the text.
A decoder beside an encoder gets nothing.

A sentence-transformers model is a copy of --model with the prompt beside it: the tuned query side,
loaded by `SentenceTransformer(DESTINATION, trust_remote_code=True)` where this library is present.

For T5X, `prompt-tuning checkpoint add-prompt` puts a prompt into a checkpoint.
"""

from pathlib import Path

import jax.numpy as jnp

from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.huggingface import directory_of, resolve
from prompt_tuning_jax.checkpoints.prompt_file import load_prompt, save_prompt
from prompt_tuning_jax.checkpoints.query_side.export import write_sentence_transformer
from prompt_tuning_jax.commands.written_prompt import check_directory, written
from prompt_tuning_jax.embedding import load_embedding_model
from prompt_tuning_jax.errors import UsageError, spelled
from prompt_tuning_jax.model import load_model
from prompt_tuning_jax.models.embedding.config import BOTH
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.common import MismatchConfig
from prompt_tuning_jax.settings.setting import PathLike, setting, settings
from prompt_tuning_jax.tuned_prompt import (
    DOCUMENT_NAME,
    POOL_PROMPT,
    QUERY_NAME,
    SIDE,
    TunedPrompt,
)

FORMS = ("peft", "npy", "sentence_transformers")


@settings
class ExportConfig(MismatchConfig):
    """What `prompt-tuning export` takes."""

    prompt: PathLike = setting(
        help="a prompt's file, directory or, of a pre-built one, name.",
        group="prompt",
        positional=True,
    )
    destination: PathLike = setting(
        help="the adapter's or the model's directory, or a .npy file.",
        group="prompt",
        positional=True,
    )
    to: str | None = setting(
        default=None,
        help="""peft, npy or sentence_transformers. None: an array where the destination ends in
        .npy, else peft.""",
        group="prompt",
        choices=FORMS,
    )
    model: PathLike | None = setting(
        default=None, help="the frozen model that it was tuned for. None: bundled.", group="model"
    )
    base_model: str | None = setting(
        default=None,
        help="the model's name for PEFT, such as a hub's. None: as model.",
        group="model",
    )


CONFIG = ExportConfig


def export_prompt(config: ExportConfig) -> str:
    """Writes a prompt as a PEFT adapter or as a `.npy` array; says what was written.

    Raises:
      FileNotFoundError, ValueError: as `load_prompt`, `load_model` and `peft.write_adapter`; or
        the prompt is of another model; or the destination's name is not of the form `to`.
    """
    form, tuned = _form(config), load_prompt(config.prompt)
    if form == "npy":
        if config.model or config.base_model or config.allow_prompt_mismatch:
            names = ", ".join(map(spelled, ("model", "base_model", "allow_prompt_mismatch")))
            raise UsageError(f"{names} are for a PEFT adapter, not an array: leave them out.")
        save_prompt(config.destination, tuned)
        return written(config.destination, "an array", tuned, tuned.metadata.get("base_model"))
    if form == "sentence_transformers":
        return _export_sentence_transformer(config, tuned)
    model = config.model or "bundled"
    frozen = load_model(model, jnp.bfloat16)
    frozen.check(tuned, config.allow_prompt_mismatch)
    peft.write_adapter(
        config.destination,
        tuned.values,
        base_model=config.base_model or str(directory_of(model)),
        num_layers=family_of(frozen.config).depth(frozen.config),
        num_heads=frozen.config.num_heads,
        task_type=peft.task_of(frozen.config.continues_inputs),
        layout=tuned.layout,
        visibility=tuned.visibility,
    )
    return written(config.destination, "a PEFT adapter", tuned, model)


def _form(config: ExportConfig) -> str:
    """One of FORMS; refuses a destination that cannot be that."""
    is_npy = Path(config.destination).suffix == ".npy"
    if config.to == "npy" and not is_npy:
        raise ValueError(f"{config.destination}: an array's file ends in .npy; name it so.")
    if config.to not in (None, "npy") or not is_npy:
        what = "a model" if config.to == "sentence_transformers" else "a PEFT adapter"
        check_directory(config.destination, what)
    return config.to or ("npy" if is_npy else "peft")


def _export_sentence_transformer(config: ExportConfig, tuned: TunedPrompt) -> str:
    if config.model is None or config.base_model is not None:
        raise UsageError(
            f"{spelled('to', 'sentence_transformers')} copies {spelled('model')}: give its "
            f"directory, and leave {spelled('base_model')} out."
        )
    base = resolve(directory_of(config.model))
    model = load_embedding_model(base)
    model.check(tuned, config.allow_prompt_mismatch)
    if (tuned.layout, tuned.visibility) != ("prefix", "full"):
        raise ValueError(
            f"{config.prompt} is {tuned.layout}, {tuned.visibility}: in sentence-transformers a "
            "prompt stands in front and sees everything."
        )
    pool_prompt = bool(tuned.metadata.get(POOL_PROMPT, model.pool_prompt))
    write_sentence_transformer(
        config.destination,
        tuned.values,
        base,
        pool_prompt=pool_prompt,
        max_seq_length=model.room(prompt_length=len(tuned.values)),
        query_name=_unasked_name(tuned),
    )
    return written(config.destination, "a sentence-transformers model", tuned, config.model)


def _unasked_name(tuned: TunedPrompt) -> str | None:
    """The text prompt that stands before all texts: none where documents, embedded too, differ."""
    name = tuned.metadata.get(QUERY_NAME)
    is_both = tuned.metadata.get(SIDE) == BOTH
    return None if is_both and name != tuned.metadata.get(DOCUMENT_NAME) else name


def main(argv: list[str] | None = None) -> None:
    print(export_prompt(parse(CONFIG, argv, __doc__, "prompt-tuning export")))
