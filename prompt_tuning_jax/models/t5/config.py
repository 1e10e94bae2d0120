"""Sizes of a T5, and the published ones by name."""

import dataclasses
from typing import Any

import jax.numpy as jnp

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.layout import VISIBILITIES
from prompt_tuning_jax.models.attention.choice import check_form
from prompt_tuning_jax.models.encoder_decoder import EncoderDecoder

ACTIVATIONS = ("gelu", "gelu_exact", "linear", "relu", "silu")
ENCODER_ATTENTIONS = ("full", "local", "transient_global")
REMAT_POLICIES = ("none", "minimal", "full")
_TOKENS = ("pad_id", "eos_id", "start_id")


@dataclasses.dataclass(frozen=True)
class T5Config(EncoderDecoder):
    """Everything that defines a T5's shape and arithmetic; field names are T5X's where it has one.

    Attributes:
      vocab_size: rows of the embedding table (a multiple of 128 in the published models).
      num_encoder_layers: 0 in a decoder-only model.
      mlp_activations: one for a plain MLP (`("relu",)`), two for a gated one
        (`("gelu", "linear")`, where gelu is the tanh approximation; gelu_exact is none).
      logits_via_embedding: True in T5 1.0, whose output layer is the embedding table.
      scale_decoder_outputs: whether the decoder's output is multiplied by emb_dim**-0.5 on its way
        to the logits. None: it is where `logits_via_embedding` is True, as in the published models.
      relpos_buckets: how many different relative positions the attention bias tells apart.
      relpos_max_distance: the distance beyond which it takes all positions as equally far.
      layer_relpos_bias: whether each layer has a relative-position bias of its own, as in umT5,
        and not one for all layers of a stack.
      layer_norm_epsilon: what is added to the mean square in a norm.
      dropout_rate: used only where a call says `enable_dropout=True`.
      dtype: of the activations; weights may be stored in another and are cast at use.
      pad_id: the token id of padding, which stands at prompt positions too.
      eos_id: the id that ends a text.
      start_id: the id that the decoder starts from.
      scan_layers: the weights of a stack's layers are stacked, and one layer is compiled for all,
        so that a deep model compiles as fast as a shallow one. Each layer then has a
        relative-position bias of its own, whatever `layer_relpos_bias` says, as in T5X's scalable
        T5. `t5.scan` converts weights.
      scan_axis: where the stacked weights have the layer: 1 as T5X, or 0, which is faster.
      remat_policy: what the backward pass computes again instead of keeping it in memory: nothing
        ("none"), all but products with weights ("minimal"), or every layer from its input ("full").
      prompt_visibility: what a prompt's positions attend to in the encoder. "full": everything.
        "causal": the input, and of the prompt themselves and earlier rows. "self": the input, and
        of the prompt themselves. "isolated", "isolated_causal", "isolated_self": the same without
        the input, so that a prompt's encoding is the same for every input.
      encoder_attention: what the encoder's positions attend to: all others ("full") or, in LongT5,
        those near them ("local"), and summaries of all others ("transient_global"); see
        `t5.longt5.encoder`. LongT5 knows the prompt_visibility "full" only.
      local_radius: how far away is near.
      global_block_size: how many positions a summary is of.
      attention: the form that attention takes, "dense", "chunked" or "fused", or "auto" for that
        which suits hardware and shapes; see `attention.choice`.
      attention_chunk: the scores of how many queries are in memory at a time where attention is
        chunked, in the forward and in the backward pass (LongT5 takes whole blocks of
        local_radius + 1). A number makes "auto" chunked; None is 128.
    """

    vocab_size: int
    emb_dim: int
    num_heads: int
    head_dim: int
    mlp_dim: int
    num_encoder_layers: int
    num_decoder_layers: int
    mlp_activations: tuple[str, ...] = ("gelu", "linear")
    logits_via_embedding: bool = False
    scale_decoder_outputs: bool | None = None
    relpos_buckets: int = 32
    relpos_max_distance: int = 128
    layer_relpos_bias: bool = False
    layer_norm_epsilon: float = 1e-6
    dropout_rate: float = 0.0
    dtype: Any = jnp.float32
    pad_id: int = 0
    eos_id: int = 1
    start_id: int = 0
    scan_layers: bool = False
    scan_axis: int = 1
    remat_policy: str = "none"
    prompt_visibility: str = "full"
    encoder_attention: str = "full"
    local_radius: int = 127
    global_block_size: int = 16
    attention: str = "auto"
    attention_chunk: int | None = None

    def __post_init__(self):
        # Lists and strings come from JSON and gin; the config must stay hashable and comparable.
        object.__setattr__(self, "mlp_activations", tuple(self.mlp_activations))
        object.__setattr__(self, "dtype", jnp.dtype(self.dtype))
        for name in self.mlp_activations:
            if name not in ACTIVATIONS:
                raise ValueError(f"Unknown activation {name!r}: choose from {ACTIVATIONS}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("num_encoder_layers", "scan_axis", *_TOKENS) else 1
            if field.type is int and value < least:
                raise ValueError(f"T5Config.{field.name} must be {least} or more, not {value}.")
        for name in _TOKENS:
            if getattr(self, name) >= self.vocab_size:
                raise ValueError(
                    f"T5Config.{name} is {getattr(self, name)}, but there are only "
                    f"{self.vocab_size} token ids."
                )
        if self.pad_id == self.eos_id:
            raise ValueError(
                f"T5Config.pad_id and eos_id are both {self.pad_id}: the end of a text would count "
                "as padding. Give padding an id of its own, such as the tokenizer's <pad>."
            )
        if not self.layer_norm_epsilon > 0:
            raise ValueError(
                f"T5Config.layer_norm_epsilon must be above 0, not {self.layer_norm_epsilon}."
            )
        if not 0 <= self.dropout_rate < 1:
            raise ValueError(f"T5Config.dropout_rate must be in [0, 1), not {self.dropout_rate}.")
        if self.scan_axis not in (0, 1):
            raise ValueError(f"T5Config.scan_axis is 0 or 1, not {self.scan_axis}.")
        if self.remat_policy not in REMAT_POLICIES:
            raise ValueError(
                f"T5Config.remat_policy is one of {REMAT_POLICIES}, not {self.remat_policy!r}."
            )
        check_form(self.attention, self.attention_chunk)
        if self.prompt_visibility not in VISIBILITIES:
            raise ValueError(
                f"T5Config.prompt_visibility is one of {', '.join(VISIBILITIES)}, not "
                f"{self.prompt_visibility!r}."
            )

        if self.encoder_attention not in ENCODER_ATTENTIONS:
            raise ValueError(
                f"T5Config.encoder_attention is one of {ENCODER_ATTENTIONS}, not "
                f"{self.encoder_attention!r}."
            )
        if self.encoder_attention != "full" and self.prompt_visibility != "full":
            raise ValueError(
                f"{spelled('prompt_visibility', self.prompt_visibility)} is not for LongT5, whose "
                "prompts see what any position sees: leave it at full."
            )

    @property
    def each_layer_has_bias(self) -> bool:
        """Whether layers have relative-position biases of their own in the parameter tree."""
        return self.scan_layers or self.layer_relpos_bias

    @property
    def outputs_scaled(self) -> bool:
        """Whether the decoder's output is scaled by emb_dim**-0.5 on its way to the logits."""
        if self.scale_decoder_outputs is None:
            return self.logits_via_embedding
        return self.scale_decoder_outputs


# emb_dim, num_heads, head_dim, mlp_dim, layers in each stack.
_T5_1_1_SIZES = {
    "small": (512, 6, 64, 1024, 8),
    "base": (768, 12, 64, 2048, 12),
    "large": (1024, 16, 64, 2816, 24),
    "xl": (2048, 32, 64, 5120, 24),
    "xxl": (4096, 64, 64, 10240, 24),
}
# "xl" and "xxl" were published as 3B and 11B.
_T5_1_0_SIZES = {
    "small": (512, 8, 64, 2048, 6),
    "base": (768, 12, 64, 3072, 12),
    "large": (1024, 16, 64, 4096, 24),
    "xl": (1024, 32, 128, 16384, 24),
    "xxl": (1024, 128, 128, 65536, 24),
}


def _sized(sizes: dict[str, tuple[int, ...]], size: str, settings: dict[str, Any]) -> T5Config:
    if size not in sizes:
        raise ValueError(f"Unknown T5 size {size!r}: choose from {', '.join(sizes)}.")
    emb_dim, num_heads, head_dim, mlp_dim, layers = sizes[size]
    shape = {
        "emb_dim": emb_dim,
        "num_heads": num_heads,
        "head_dim": head_dim,
        "mlp_dim": mlp_dim,
        "num_encoder_layers": layers,
        "num_decoder_layers": layers,
    }
    return T5Config(**(shape | settings))


def t5_1_1(size: str, **overrides: Any) -> T5Config:
    """T5 1.1 (and the LM-adapted T5): gated gelu, separate output layer. `t5_1_1("small")`."""
    return _sized(_T5_1_1_SIZES, size, {"vocab_size": 32128} | overrides)


def t5_1_0(size: str, **overrides: Any) -> T5Config:
    """The original T5: relu, output layer tied to the embedding. `t5_1_0("base")`."""
    settings = {"vocab_size": 32128, "mlp_activations": ("relu",), "logits_via_embedding": True}
    return _sized(_T5_1_0_SIZES, size, settings | overrides)


def mt5(size: str, **overrides: Any) -> T5Config:
    """mT5: T5 1.1 with a multilingual vocabulary of 250,112 ids. `mt5("small")`."""
    return _sized(_T5_1_1_SIZES, size, {"vocab_size": 250112} | overrides)
