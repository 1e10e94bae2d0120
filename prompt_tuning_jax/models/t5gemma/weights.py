"""Every weight of a T5Gemma: its name, its shape and its logical axes.

    token_embedder/embedding                             [V, D]
    encoder/layers_0/...                                 as a causal model's
    encoder/encoder_norm/scale                           [D]
    decoder/token_embedder/embedding                     [V, E]
    decoder/layers_0/...                                 as a causal model's, and
    decoder/layers_0/pre_cross_attention_norm/scale      [E]       and post_cross_attention_norm
    decoder/layers_0/cross_attention/query/kernel        [E, J]    /bias [J], where others have one
    decoder/layers_0/cross_attention/key/kernel          [D, I]    and value
    decoder/layers_0/cross_attention/out/kernel          [J, E]
    decoder/decoder_norm/scale                           [E]
    decoder/logits_dense/kernel                          [E, V]

V vocabulary   D the encoder's width   E the decoder's
J heads * head dim, I heads of keys * head dim, of the decoder
"""

from collections.abc import Mapping
from typing import Any

from prompt_tuning_jax.models.causal import weights as causal
from prompt_tuning_jax.models.causal.weights import EMBEDDING_NAME, Shape
from prompt_tuning_jax.models.t5gemma.config import T5GemmaConfig

_NORM = "decoder/decoder_norm/"


def shapes(config: T5GemmaConfig) -> dict[str, Shape]:
    """Name -> shape of every weight, layers each by itself or scanned as the config says."""
    return {name: shape for name, (shape, _) in _table(config).items()}


def axes(config: T5GemmaConfig) -> dict[str, tuple[str, ...]]:
    """Name -> the logical axes of every weight."""
    return {name: names for name, (_, names) in _table(config).items()}


def abstract_variables(
    config: T5GemmaConfig, prompt_shape: Shape | None
) -> Mapping[str, Mapping[str, Any]]:
    """Shapes and logical axes, as `models.family` wants them."""
    return causal.variables(shapes(config), axes(config), prompt_shape)


def stack_layers(config: T5GemmaConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Weights with layers each by itself, in the form that `scan_layers=True` needs."""
    stacks = {
        name: causal.stack_layers(stack, {"decoder": params[name]})["decoder"]
        for name, stack in (("encoder", config.encoder), ("decoder", config.decoder))
    }
    return {**params, **stacks}


def _table(config: T5GemmaConfig) -> dict[str, tuple[Shape, tuple[str, ...]]]:
    """Name -> (shape, logical axes)."""
    found = {_in_encoder(name): row for name, row in _of_stack(config.encoder).items()}
    found |= {_in_decoder(name): row for name, row in _of_stack(config.decoder).items()}
    layers, cross = len(config.decoder.layers), _cross_attention(config)
    if config.scan_layers:
        stacked = {name: ((layers, *s), ("layers", *names)) for name, (s, names) in cross.items()}
        return found | {f"decoder/layers/{name}": row for name, row in stacked.items()}
    for i in range(layers):
        found |= {f"decoder/layers_{i}/{name}": row for name, row in cross.items()}
    return found


def _cross_attention(config: T5GemmaConfig) -> dict[str, tuple[Shape, tuple[str, ...]]]:
    """What a decoder's layer has beside a causal model's."""
    of = config.decoder
    J, I, E = of.num_heads * of.head_dim, of.num_kv_heads * of.head_dim, of.emb_dim  # noqa: E741
    of_width = (E,), ("embed",)
    norms = "pre_cross_attention_norm", "post_cross_attention_norm"
    found: dict[str, tuple[Shape, tuple[str, ...]]]
    found = {f"{norm}/scale": of_width for norm in norms}
    for name, inputs, outputs in (
        ("query", E, J),
        ("key", config.emb_dim, I),
        ("value", config.emb_dim, I),
    ):
        found[f"cross_attention/{name}/kernel"] = (inputs, outputs), ("embed", "joined_kv")
        if of.qkv_bias:
            found[f"cross_attention/{name}/bias"] = (outputs,), ("joined_kv",)
    found["cross_attention/out/kernel"] = (J, E), ("joined_kv", "embed")
    if of.out_bias:
        found["cross_attention/out/bias"] = of_width
    return found


def _of_stack(config: Any) -> dict[str, tuple[Shape, tuple[str, ...]]]:
    names = causal.axes(config)
    return {name: (shape, names[name]) for name, shape in causal.shapes(config).items()}


def _in_encoder(name: str) -> str:
    if name.startswith(_NORM):
        return name.replace(_NORM, "encoder/encoder_norm/")
    return name.replace("decoder/", "encoder/", 1)


def _in_decoder(name: str) -> str:
    return f"decoder/{name}" if name == EMBEDDING_NAME else name
