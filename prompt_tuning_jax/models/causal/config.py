"""Everything that defines a causal language model's shape and arithmetic."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.attention.choice import check_form

ACTIVATIONS = ("gelu", "gelu_exact", "linear", "relu", "silu")
NORMS = ("rms", "layer")
REMAT_POLICIES = ("none", "minimal", "full")
VISIBILITIES = ("full", "causal", "isolated", "isolated_causal")
ROTARY_KINDS = ("default", "linear", "llama3", "yarn", "dynamic")


@dataclasses.dataclass(frozen=True)
class Rotary:
    """Rotary positions: how fast each pair of a head's features turns.

    Attributes:
      theta: pair i of K/2 turns by theta**(-2 i / K) a position.
      kind: "default"; "linear", `factor` times slower; "llama3", `factor` times slower where a turn
        takes more than `original_length / low` positions, as fast where it takes fewer than
        `original_length / high`, and between them in between; "yarn" (arXiv:2309.00071), the same
        but that what is between grows with the pair's number; "dynamic", as "default" in rows of up
        to `CausalConfig.max_length` positions, and longer ones are refused.
      whole: of "yarn", whether the pairs where that begins and ends are rounded to whole numbers.
      scale: what queries and keys that are turned are multiplied by.
    """

    theta: float
    kind: str = "default"
    factor: float = 1.0
    low: float = 1.0
    high: float = 4.0
    original_length: int = 8192
    whole: bool = True
    scale: float = 1.0

    def __post_init__(self):
        if self.kind not in ROTARY_KINDS:
            raise ValueError(f"Rotary.kind is one of {ROTARY_KINDS}, not {self.kind!r}.")


@dataclasses.dataclass(frozen=True)
class LayerKind:
    """What layers may differ in.

    Attributes:
      window: how many positions a position sees, itself included; None: all before it.
      rotary: None where queries and keys are not turned.
    """

    window: int | None = None
    rotary: Rotary | None = None


@dataclasses.dataclass(frozen=True)
class CausalConfig:
    """The switches of the one block; each family of models is a table of them.

    Attributes:
      architecture: what Hugging Face calls the family, which names the weights in its files.
      num_kv_heads: heads of keys and values, each shared by num_heads / num_kv_heads queries.
      layers: the kind of each layer.
      mlp_activations: one for a plain MLP, two for a gated one, as in `T5Config`.
      norm: "rms", or "layer", which also subtracts the mean and adds a bias.
      norm_plus_one: norms scale by 1 + their weight.
      post_norms: what attention and MLP return is normed too, before it is added.
      qk_norm: queries and keys are normed, each head by itself.
      qkv_bias, out_bias, mlp_bias: whether the kernels of attention and MLP have biases.
      joined_qkv: queries, keys and values come from one kernel.
      learned_positions: a table of `max_length` positions is added to the embedding.
      max_length: how long rows the model was made for.
      scale_embedding: tokens are embedded as rows of the table times sqrt(emb_dim).
      score_scale: what a query and a key's product is multiplied by.
      score_cap, logit_cap: x becomes cap * tanh(x / cap); None: x.
      logits_via_embedding: the output layer is the embedding table.
      pad_id: of padding. `vocab_size`, past the table, where padding has no id of its own in the
        model's files: whatever stands at it is embedded, and masked.
      start_id: the first of `decoder_input_tokens`. It is not read: its place stands for the last
        token of the text before the targets.
      bos_id: of the token that begins a text, where there is one.
      prompt_visibility: a prompt's rows see what is before them, whatever it is called. In front of
        a text that is nothing but the prompt, so there they are isolated, which no others can be.
      attention, attention_chunk: as in `T5Config`.
      scan_layers: layers' weights are stacked, [layers, ...], and one layer is compiled for all.
      remat_policy: as in `T5Config`.
    """

    architecture: str
    vocab_size: int
    emb_dim: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    layers: tuple[LayerKind, ...]
    mlp_activations: tuple[str, ...] = ("silu", "linear")
    norm: str = "rms"
    norm_plus_one: bool = False
    norm_epsilon: float = 1e-6
    post_norms: bool = False
    qk_norm: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    mlp_bias: bool = False
    joined_qkv: bool = False
    learned_positions: bool = False
    max_length: int = 2048
    scale_embedding: bool = False
    score_scale: float = 1.0
    score_cap: float | None = None
    logit_cap: float | None = None
    logits_via_embedding: bool = False
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    pad_id: int = 0
    eos_id: int = 1
    start_id: int = 0
    bos_id: int | None = None
    scan_layers: bool = False
    remat_policy: str = "none"
    prompt_visibility: str = "full"
    attention: str = "auto"
    attention_chunk: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        for name, known in (("norm", NORMS), ("remat_policy", REMAT_POLICIES)):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"CausalConfig.{name} is one of {known}, not {getattr(self, name)!r}."
                )
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"Unknown activation {name!r}: choose from {ACTIVATIONS}.")
        if not self.layers or self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise ValueError(
                "CausalConfig needs layers, num_kv_heads that divide num_heads, and an even "
                f"head_dim; these are {len(self.layers)}, {self.num_kv_heads}, {self.num_heads} "
                f"and {self.head_dim}."
            )
        if self.pad_id == self.eos_id:
            raise ValueError(
                f"CausalConfig.pad_id and eos_id are both {self.pad_id}: the end of a text would "
                "count as padding. Without a padding id of its own, pad with vocab_size."
            )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(
                f"CausalConfig.dropout_rate must be in [0, 1), not {self.dropout_rate}."
            )
        self._check_choices()

    @property
    def continues_inputs(self) -> bool:
        """Whether targets go on where the input ends, without a beginning of their own."""
        return True

    @property
    def bidirectional(self) -> bool:
        """Whether positions see what comes after them, too."""
        return False

    @property
    def length_limit(self) -> int | None:
        """The most positions a row may have; None where there is no end to them."""
        grows = any(layer.rotary and layer.rotary.kind == "dynamic" for layer in self.layers)
        return self.max_length if self.learned_positions or grows else None

    def _check_choices(self) -> None:
        """Refuses, by the names of the settings, what these models do not do."""
        check_form(self.attention, self.attention_chunk)
        if self.prompt_visibility not in VISIBILITIES:
            raise ValueError(
                f"{spelled('prompt_visibility', self.prompt_visibility)} is not for causal models, "
                "whose prompts see what stands before them: leave it at full."
            )

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What "visibility" is of prompts that stand so: isolated, wherever they all are in front.

        Raises:
          ValueError: prompts behind a text, of which they would have to see nothing.
        """
        if all(layout == "prefix" for layout in layouts):
            return "isolated"
        if visibility.startswith("isolated"):
            raise ValueError(
                f"{spelled('prompt_visibility', visibility)} is for prompts in front of their "
                f"text in a causal model ({spelled('prompt_layout', 'prefix')}); elsewhere they "
                "see what stands before them."
            )
        return visibility


@dataclasses.dataclass(frozen=True)
class BidirectionalConfig(CausalConfig):
    """The same blocks where positions see both ways: such a model embeds texts and writes none.

    A layer's window is how many positions a position sees to either side, itself included. Prompt
    and text see each other.
    """

    @property
    def continues_inputs(self) -> bool:
        """Whether targets go on where an input ends: there are none."""
        return False

    @property
    def bidirectional(self) -> bool:
        """Whether positions see what comes after them, too."""
        return True

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What a visibility of prompts is here, wherever they stand: full.

        Raises:
          ValueError: any other.
        """
        del layouts
        if visibility != "full":
            raise ValueError(
                f"{spelled('prompt_visibility', visibility)} is not for bidirectional models such "
                "as EmbeddingGemma, where prompt and text see each other: leave it at full."
            )
        return visibility
