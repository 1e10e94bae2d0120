"""Every weight of a causal language model: its name, its shape and its logical axes, in one table.

    token_embedder/embedding                       [V, D]
    position_embedder/embedding                    [M, D]
    decoder/layers_0/attention/query/kernel        [D, J]     /bias [J]
    decoder/layers_0/attention/key/kernel          [D, I]     and value
    decoder/layers_0/attention/out/kernel          [J, D]
    decoder/layers_0/mlp/wi_0/kernel               [D, F]     the activation's; wi_1 what it gates
    decoder/layers_0/mlp/wo/kernel                 [F, D]
    decoder/decoder_norm/scale                     [D]
    decoder/logits_dense/kernel                    [D, V]

With scanned layers, decoder/layers/... [layers, ...] stands for all of decoder/layers_0, 1, ...

D embed   V vocabulary   M positions   F mlp   K head dim
J heads * K   I heads of keys * K   Q = J + 2 I
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.linen.partitioning import AxisMetadata

from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.params import PROMPT_NAME, flatten, unflatten

_AXES = {
    "V": "vocab",
    "D": "embed",
    "M": "positions",
    "J": "joined_kv",
    "I": "joined_kv",
    "Q": "joined_kv",
    "F": "mlp",
    "K": "kv",
}
EMBEDDING_NAME = "token_embedder/embedding"
POSITIONS = "position_embedder/embedding"
OUTPUT = "decoder/logits_dense/kernel"
Shape = tuple[int, ...]


def shapes(config: CausalConfig) -> dict[str, Shape]:
    """Name -> shape of every weight, layers each by itself or scanned as the config says."""
    sizes = _sizes(config)
    return {name: tuple(sizes[x] for x in letters) for name, letters in dimensions(config).items()}


def axes(config: CausalConfig) -> dict[str, tuple[str, ...]]:
    """Name -> the logical axes of every weight."""
    names = _AXES | {"N": "layers"}
    return {name: tuple(names[x] for x in word) for name, word in dimensions(config).items()}


def dimensions(config: CausalConfig) -> dict[str, str]:
    """Name -> the letters of the weight's dimensions; N, of stacked weights, is the layer."""
    found = {EMBEDDING_NAME: "VD"}
    if config.learned_positions:
        found[POSITIONS] = "MD"
    layer = of_layer(config)
    if config.scan_layers:
        found |= {f"decoder/layers/{name}": "N" + letters for name, letters in layer.items()}
    else:
        for i in range(len(config.layers)):
            found |= {f"decoder/layers_{i}/{name}": letters for name, letters in layer.items()}
    found |= _norm("decoder/decoder_norm", config)
    return found if config.logits_via_embedding else found | {OUTPUT: "DV"}


def of_layer(config: CausalConfig) -> dict[str, str]:
    """Name within a layer -> the letters of the weight's dimensions."""
    inward = {"qkv": "Q"} if config.joined_qkv else {"query": "J", "key": "I", "value": "I"}
    found = _norm("pre_attention_norm", config)
    for name, letter in inward.items():
        found |= _kernel(f"attention/{name}", "D" + letter, config.qkv_bias)
    if config.qk_norm:
        found |= {"attention/query_norm/scale": "K", "attention/key_norm/scale": "K"}
    found |= _kernel("attention/out", "JD", config.out_bias)
    found |= _norm("pre_mlp_norm", config)
    for name in mlp_names(config):
        found |= _kernel(f"mlp/{name}", "DF", config.mlp_bias)
    found |= _kernel("mlp/wo", "FD", config.mlp_bias)
    if config.post_norms:
        found |= _norm("post_attention_norm", config) | _norm("post_mlp_norm", config)
    return found


def mlp_names(config: CausalConfig) -> list[str]:
    """The kernels into the MLP, one for each activation; a plain MLP's is `wi`, as in T5."""
    count = len(config.mlp_activations)
    return ["wi"] if count == 1 else [f"wi_{i}" for i in range(count)]


def abstract_variables(
    config: CausalConfig, prompt_shape: Shape | None
) -> Mapping[str, Mapping[str, Any]]:
    """Shapes and logical axes, as `models.family` wants them."""
    return variables(shapes(config), axes(config), prompt_shape)


def variables(
    shapes: Mapping[str, Shape], axes: Mapping[str, tuple[str, ...]], prompt_shape: Shape | None
) -> Mapping[str, Mapping[str, Any]]:
    """The weights of these shapes and logical axes, and a prompt, as `abstract_variables`."""
    found, names = dict(shapes), dict(axes)
    if prompt_shape is not None:
        found[PROMPT_NAME] = tuple(prompt_shape)
        names[PROMPT_NAME] = ("prompt_bank", "prompt", "embed")[-len(prompt_shape) :]
    params = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in found.items()}
    metadata = {f"{name}_axes": AxisMetadata(names=names[name]) for name in found}
    return {"params": unflatten(params), "params_axes": unflatten(metadata)}


def stack_layers(config: CausalConfig, params: Mapping[str, Any]) -> dict[str, Any]:
    """Weights with layers each by itself, in the form that `scan_layers=True` needs."""
    flat, count = flatten(params), len(config.layers)
    for name in _names_in(flat, "decoder/layers_0/"):
        values = [flat.pop(f"decoder/layers_{i}/{name}") for i in range(count)]
        numpy = jnp if isinstance(values[0], jax.Array) else np
        flat[f"decoder/layers/{name}"] = numpy.stack(values)
    return unflatten(flat)


def _names_in(flat: Mapping[str, Any], folder: str) -> list[str]:
    return [name.removeprefix(folder) for name in flat if name.startswith(folder)]


def _kernel(name: str, letters: str, bias: bool) -> dict[str, str]:
    return {f"{name}/kernel": letters} | ({f"{name}/bias": letters[-1]} if bias else {})


def _norm(name: str, config: CausalConfig) -> dict[str, str]:
    return {f"{name}/scale": "D"} | ({f"{name}/bias": "D"} if config.norm == "layer" else {})


def _sizes(config: CausalConfig) -> dict[str, int]:
    queries, keys = (n * config.head_dim for n in (config.num_heads, config.num_kv_heads))
    return {
        "N": len(config.layers),
        "V": config.vocab_size,
        "D": config.emb_dim,
        "M": config.max_length,
        "J": queries,
        "I": keys,
        "Q": queries + 2 * keys,
        "F": config.mlp_dim,
        "K": config.head_dim,
    }
