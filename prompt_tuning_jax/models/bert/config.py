"""Everything that defines a BERT's shape and arithmetic."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.models.activations import ACTIVATIONS
from prompt_tuning_jax.models.attention.choice import check_form


@dataclasses.dataclass(frozen=True)
class BertConfig:
    """The shape of an encoder of BERT's kind: BERT, RoBERTa, XLM-R.

    Attributes:
      architecture: what Hugging Face calls the family, which names the weights in its files.
      positions: rows of the table of learned positions.
      first_position: the row that a text's first token has; RoBERTa's are counted from its padding.
      token_types: rows of the table of token types. All tokens here are of the first.
      dropout_rate: of the network while it was trained; nothing drops here.
      prompt_visibility, attention, attention_chunk: as in `T5Config`.
    """

    architecture: str
    vocab_size: int
    emb_dim: int
    num_heads: int
    num_layers: int
    mlp_dim: int
    positions: int
    first_position: int = 0
    token_types: int = 2
    activation: str = "gelu_exact"
    norm_epsilon: float = 1e-12
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    pad_id: int = 0
    prompt_visibility: str = "full"
    attention: str = "auto"
    attention_chunk: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        check_form(self.attention, self.attention_chunk)
        if self.activation not in ACTIVATIONS:
            raise ValueError(
                f"Unknown activation {self.activation!r}: choose from {', '.join(ACTIVATIONS)}."
            )
        if self.emb_dim % self.num_heads:
            raise ValueError(
                f"BertConfig needs num_heads that divide emb_dim; these are {self.num_heads} and "
                f"{self.emb_dim}."
            )
        if self.length_limit < 1:
            raise ValueError(
                f"BertConfig.positions, {self.positions}, must be more than first_position, "
                f"{self.first_position}."
            )
        if self.prompt_visibility not in VISIBILITIES:
            raise ValueError(
                f"BertConfig.prompt_visibility is one of {', '.join(VISIBILITIES)}, not "
                f"{self.prompt_visibility!r}."
            )

    @property
    def continues_inputs(self) -> bool:
        """Whether targets go on where an input ends: there are none."""
        return False

    @property
    def length_limit(self) -> int:
        """The most positions a row may have, those of a prompt among them."""
        return self.positions - self.first_position

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What a visibility of prompts that stand so is here: what it is called."""
        del layouts
        return visibility
