"""T5 models in T5X's format, legacy or Orbax, read and written without T5X."""

from prompt_tuning_jax.checkpoints.t5x.model import (
    FORMS,
    add_prompt,
    load,
    load_lazily,
    save,
)

__all__ = ["FORMS", "add_prompt", "load", "load_lazily", "save"]
