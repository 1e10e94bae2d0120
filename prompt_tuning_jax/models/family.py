"""What a family of models provides: the model, training and decoding ask no more of one than this.

A family is a module, which `family_of(config)` finds by the type of the config. A new family is

- a folder here, with the functions of `Family`, and a line in FAMILIES;
- in `checkpoints`, its files' readers: a `Format` in `huggingface/formats.py`; the weights that
  become int8 are named in `quantize.py`.

`planning` asks no more of it either; sizes that it is to know by name are in `planning.models`.
"""

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.attention.choice import Shape
from prompt_tuning_jax.models.causal import CausalConfig
from prompt_tuning_jax.models.causal import apply as causal
from prompt_tuning_jax.models.t5 import T5Config
from prompt_tuning_jax.models.t5 import apply as t5
from prompt_tuning_jax.models.t5gemma import T5GemmaConfig
from prompt_tuning_jax.models.t5gemma import apply as t5gemma


class NetworkConfig(Protocol):
    """What is read of the config of any family, a frozen dataclass that can be hashed.

    The training step replaces the last five attributes in a copy of it. `continues_inputs`: whether
    targets go on where an input ends, and have no beginning of their own.
    """

    emb_dim: int
    num_heads: int
    pad_id: int
    eos_id: int
    start_id: int
    dtype: Any
    scan_layers: bool
    prompt_visibility: str
    dropout_rate: float
    remat_policy: str
    attention: str
    attention_chunk: int | None

    @property
    def continues_inputs(self) -> bool: ...

    def visibility_in(self, layouts: Iterable[str], visibility: str) -> str:
        """What a visibility of prompts that stand so (`layout.LAYOUTS`) is in this model.

        Raises:
          ValueError: there is no such thing in it.
        """


@runtime_checkable
class Family(Protocol):
    """The functions of a family, which may be traced.

    `params` are nested dicts; a prompt among them is where `params.with_prompt` puts it.

    Attributes:
      EMBEDDING_NAME: the flat name of the input embedding table [V, D].
    """

    EMBEDDING_NAME: str

    def abstract_variables(
        self, config: NetworkConfig, prompt_shape: tuple[int, ...] | None
    ) -> Mapping[str, Any]:
        """The shapes of `params`, and their logical axes as flax's `params_axes`.

        Args:
          prompt_shape: [P, D], [N, P, D] for a bank, or None.
        """

    def embedding_scale(self, config: NetworkConfig) -> float:
        """What rows of the embedding table are multiplied by as they join the input."""

    def apply(
        self,
        config: NetworkConfig,
        params: Mapping[str, Any],
        batch: Mapping[str, Any],
        layout: str = "prefix",
        dropout_rng: Array | None = None,
    ) -> Float[Array, "B L V"]:
        """Logits for a batch with T5X's keys, packed or not.

        A shared prompt in `params` stands before the trained one: `params.join_shared`.

        Args:
          layout: where the prompt stands if the batch does not say so itself.
          dropout_rng: None for no dropout.
        """

    def bind(
        self,
        config: NetworkConfig,
        params: Mapping[str, Any],
        batch: Mapping[str, Any],
        layout: str,
    ) -> tuple[Any, Int[Array, "B S"] | Int[np.ndarray, "B S"], dict[str, Any]]:
        """The network, its tokens, and, as keywords, where the prompt's rows are in them."""

    def read(
        self,
        network: Any,
        params: Mapping[str, Any],
        tokens: Int[Array, "B S"],
        places: Mapping[str, Any],
    ) -> Any:
        """Reads the inputs once, for whatever is then generated or ranked: arrays for `decode`.

        Rows are along one axis of each array, and positions, where there are any, along another.
        Arrays of integers or booleans say what is padding: floats there count for nothing, but
        must be finite. A row of padding alone shows what padding is.
        """

    def decode(
        self,
        network: Any,
        params: Mapping[str, Any],
        inputs: Any,
        tokens: Int[Array, "B L"],
        cache: Any = None,
        max_decode_length: int | None = None,
    ) -> tuple[Float[Array, "B L V"], Any]:
        """Logits of what follows `tokens` after inputs that were `read`, and the new cache.

        With a length it makes or fills a cache; without, the tokens are all there are. Integers in
        a cache say how many tokens it holds: floats beyond count for nothing.
        """

    def depth(self, config: NetworkConfig) -> int:
        """How many layers the stack has that a prompt goes into."""

    def attention_shape(
        self,
        config: NetworkConfig,
        *,
        rows: int,
        inputs: int,
        targets: int,
        prompt: int,
        layout: str,
    ) -> Shape | None:
        """The scores of a layer of the stack that a prompt goes into, for `attention.choice`.

        Args:
          inputs, targets, prompt: their lengths.

        Returns:
          None where attention has no forms to choose from.
        """

    def cache_axis(self, config: NetworkConfig) -> int:
        """Which axis of a cache's leaves is the batch."""

    def scanned(
        self, config: NetworkConfig, params: Mapping[str, Any]
    ) -> tuple[NetworkConfig, dict[str, Any]]:
        """The same model with `scan_layers=True`: its config, and its parameters so stacked.

        Args:
          params: with each layer by itself, whatever the config says.
        """


@runtime_checkable
class FrontFamily(Family, Protocol):
    """A family in which prompts may stand in front of texts of which they see nothing.

    What its `read` takes among `places` as "front" stands for a prompt in `params`: what `in_front`
    gave of N prompts, which of these each row has [B], and how long that is [B], 0 for none.
    """

    def has_front(self, config: NetworkConfig) -> bool:
        """Whether this is so in a model of that config."""

    def in_front(
        self,
        config: NetworkConfig,
        params: Mapping[str, Any],
        prompts: Float[Array, "N P D"],
        lengths: Int[Array, " N"],
    ) -> Any:
        """What any text behind each prompt sees of it: arrays, with the prompts along one axis.

        Args:
          prompts: isolated ones; those that are shorter than P have anything finite as last rows.
        """


FAMILIES: Mapping[type, Family] = {
    T5Config: t5,
    CausalConfig: causal,
    T5GemmaConfig: t5gemma,
}


def family_of(config: NetworkConfig) -> Family:
    """The family that a config is of.

    Raises:
      ValueError: it is of none.
    """
    if type(config) not in FAMILIES:
        known = ", ".join(kind.__name__ for kind in FAMILIES)
        raise ValueError(
            f"A {type(config).__name__} is no model's config here: pass one of {known}, or add its "
            "family to models.family.FAMILIES."
        )
    return FAMILIES[type(config)]


def front_family_of(config: NetworkConfig) -> FrontFamily | None:
    """The family that a config is of, if what it makes of prompts in front can be kept."""
    family = family_of(config)
    return family if isinstance(family, FrontFamily) and family.has_front(config) else None


def start_decoding(
    network: Any,
    params: Mapping[str, Any],
    tokens: Int[Array, "B S"],
    places: Mapping[str, Any],
) -> Callable[..., tuple[Float[Array, "B L V"], Any]]:
    """Reads the inputs; returns decode(tokens, cache=None, max_decode_length=None) for them."""
    family = family_of(network.config)
    inputs = family.read(network, params, tokens, places)
    return functools.partial(family.decode, network, params, inputs)
