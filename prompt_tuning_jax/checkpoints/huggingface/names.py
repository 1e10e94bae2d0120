"""Every weight of a T5: its Hugging Face name, its T5X name and its dimensions, in one table."""

import re
from collections.abc import Collection

from prompt_tuning_jax.checkpoints.stored_array import ALONE, Shape, add_once
from prompt_tuning_jax.models.t5.config import T5Config

# Hugging Face's name less ".weight", T5X's name, the dimensions of T5X's array:
# V vocabulary, D embed, J num_heads * head_dim, F mlp, H heads, R relative-position buckets.
_MODEL = (
    ("shared", "token_embedder/embedding", "VD"),
    ("encoder.final_layer_norm", "encoder/encoder_norm/scale", "D"),
    ("decoder.final_layer_norm", "decoder/decoder_norm/scale", "D"),
)
# Of all layers in a stack or of each one; where all share them, they are stored in block 0 there.
_RELATIVE = ("layer.0.SelfAttention.relative_attention_bias", "relpos_bias/rel_embedding", "HR")
_SIDE = (  # LongT5, transient-global
    "layer.0.SelfAttention.global_relative_attention_bias",
    "side_relpos_bias/rel_embedding",
    "HR",
)
_SIDE_NORM = (
    "layer.0.SelfAttention.global_input_layer_norm",
    "attention/T5LayerNorm_0/scale",
    "D",
)
# What the encoder's attention is called, by `T5Config.encoder_attention`.
_ENCODER_ATTENTION = {
    "full": "SelfAttention",
    "local": "LocalSelfAttention",
    "transient_global": "TransientGlobalSelfAttention",
}
_UNTIED = (("lm_head", "decoder/logits_dense/kernel", "DV"),)
_ENCODER_LAYER = (  # encoder.block.{i}.* -> encoder/layers_{i}/*
    ("layer.0.layer_norm", "pre_attention_layer_norm/scale", "D"),
    ("layer.0.SelfAttention.q", "attention/query/kernel", "DJ"),
    ("layer.0.SelfAttention.k", "attention/key/kernel", "DJ"),
    ("layer.0.SelfAttention.v", "attention/value/kernel", "DJ"),
    ("layer.0.SelfAttention.o", "attention/out/kernel", "JD"),
    ("layer.1.layer_norm", "pre_mlp_layer_norm/scale", "D"),
)
_DECODER_LAYER = (  # decoder.block.{i}.* -> decoder/layers_{i}/*
    ("layer.0.layer_norm", "pre_self_attention_layer_norm/scale", "D"),
    ("layer.0.SelfAttention.q", "self_attention/query/kernel", "DJ"),
    ("layer.0.SelfAttention.k", "self_attention/key/kernel", "DJ"),
    ("layer.0.SelfAttention.v", "self_attention/value/kernel", "DJ"),
    ("layer.0.SelfAttention.o", "self_attention/out/kernel", "JD"),
    ("layer.1.layer_norm", "pre_cross_attention_layer_norm/scale", "D"),
    ("layer.1.EncDecAttention.q", "encoder_decoder_attention/query/kernel", "DJ"),
    ("layer.1.EncDecAttention.k", "encoder_decoder_attention/key/kernel", "DJ"),
    ("layer.1.EncDecAttention.v", "encoder_decoder_attention/value/kernel", "DJ"),
    ("layer.1.EncDecAttention.o", "encoder_decoder_attention/out/kernel", "JD"),
    ("layer.2.layer_norm", "pre_mlp_layer_norm/scale", "D"),
)
_PLAIN_MLP = (  # {last sub-layer}.DenseReluDense.* -> mlp/*
    ("wi", "wi/kernel", "DF"),
    ("wo", "wo/kernel", "FD"),
)
_GATED_MLP = (
    ("wi_0", "wi_0/kernel", "DF"),
    ("wi_1", "wi_1/kernel", "DF"),
    ("wo", "wo/kernel", "FD"),
)

# Copies of shared.weight that some tools write beside it, or in its place.
EMBEDDING_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
# Written by T5's first conversions and without effect: cross-attention has no relative positions.
NO_EFFECT = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"


# Ends the name of one weight that every T5 has, whatever stands before it.
_ANCHOR = "encoder.final_layer_norm.weight"
_COMPILED = "_orig_mod."  # torch.compile's mark, anywhere in a name


def without_wrappers(place: object, names: Collection[str]) -> dict[str, str]:
    """Name in a T5 -> name in a file, where what wraps a model may have put something before it.

    Raises:
      ValueError: there are two models, or a weight is there twice.
    """
    anchors = [name for name in names if name.endswith(_ANCHOR)]
    if len(anchors) > 1:
        raise ValueError(f"{place} holds several models: {' and '.join(anchors)}. {ALONE}")
    wrapper = "".join(anchors).removesuffix(_ANCHOR).replace(_COMPILED, "")
    words = [re.escape(word) for word in wrapper.split(".")[:-1]]
    before = re.compile(rf"^(?:(?:{'|'.join(words)})\.)*" if words else "")
    found: dict[str, str] = {}
    for name in names:
        plain = before.sub("", name.replace(_COMPILED, ""), count=1)
        add_once(found, plain, name, place)
    return found


def weight_names(config: T5Config) -> dict[str, tuple[str, Shape]]:
    """Hugging Face name -> (T5X name, shape there) of every weight the config's model has."""
    rows = list(_MODEL) + ([] if config.logits_via_embedding else list(_UNTIED))
    has_side_keys = config.encoder_attention == "transient_global"
    biases = (_RELATIVE, _SIDE) if has_side_keys else (_RELATIVE,)
    encoder_layer = _ENCODER_LAYER + ((_SIDE_NORM,) if has_side_keys else ())
    rows += _stack("encoder", config.num_encoder_layers, biases, encoder_layer, "layer.1", config)
    rows += _stack(
        "decoder", config.num_decoder_layers, (_RELATIVE,), _DECODER_LAYER, "layer.2", config
    )
    sizes = {
        "V": config.vocab_size,
        "D": config.emb_dim,
        "J": config.num_heads * config.head_dim,
        "F": config.mlp_dim,
        "H": config.num_heads,
        "R": config.relpos_buckets,
    }
    names = {}
    for theirs, ours, dimensions in rows:
        if ours.startswith("encoder/"):
            attention = _ENCODER_ATTENTION[config.encoder_attention]
            theirs = theirs.replace(".SelfAttention.", f".{attention}.")
        stored = reversed(dimensions) if is_transposed(ours) else dimensions
        names[f"{theirs}.weight"] = (ours, tuple(sizes[d] for d in stored))
    return names


def t5x_shapes(config: T5Config) -> dict[str, Shape]:
    """T5X name -> shape of every weight the config's model has."""
    return {
        ours: shape[::-1] if is_transposed(ours) else shape
        for ours, shape in weight_names(config).values()
    }


def is_transposed(name: str) -> bool:
    """Whether the weight of this T5X name is stored transposed by Hugging Face."""
    return name.endswith(("/kernel", "/rel_embedding"))


def _stack(
    stack: str, layers: int, biases: tuple, layer: tuple, mlp_layer: str, config: T5Config
) -> list[tuple[str, str, str]]:
    mlp = _GATED_MLP if len(config.mlp_activations) > 1 else _PLAIN_MLP
    layer += tuple((f"{mlp_layer}.DenseReluDense.{t}", f"mlp/{o}", d) for t, o, d in mlp)
    layer += biases if config.layer_relpos_bias else ()
    shared = () if config.layer_relpos_bias else biases
    return [(f"{stack}.block.0.{t}", f"{stack}/{ours}", d) for t, ours, d in shared] + [
        (f"{stack}.block.{i}.{theirs}", f"{stack}/layers_{i}/{ours}", dimensions)
        for i in range(layers)
        for theirs, ours, dimensions in layer
    ]
