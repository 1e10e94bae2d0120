"""Embedding, norm, MLP and output layer: functions of a config and of a folder of weights.

B batch   L positions   D embed   F mlp   V vocabulary
"""

import functools
import math
import operator
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.activations import ACTIVATIONS
from prompt_tuning_jax.models.adapters import change_beside
from prompt_tuning_jax.models.attention.bias import capped
from prompt_tuning_jax.models.causal.config import CausalConfig
from prompt_tuning_jax.models.causal.weights import mlp_names
from prompt_tuning_jax.models.products import SCALE, Weight, dense, product, scaled

Weights = Mapping[str, Any]


def project(
    config: CausalConfig, x: Float[Array, "*shape inputs"], weights: Weights
) -> Float[Array, "*shape outputs"]:
    """x times a kernel, plus its bias if it has one."""
    weight = _weight(weights)
    if weight.values.dtype != jnp.int8:
        weight = weight._replace(values=weight.values.astype(config.dtype))
    return dense(x, weight, weights.get("bias"))


def norm(
    config: CausalConfig, x: Float[Array, "*shape D"], weights: Weights
) -> Float[Array, "*shape D"]:
    """Root-mean-square norm, or layer norm; computed in float32."""
    y = x.astype(jnp.float32)
    if config.norm == "layer":
        y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + config.norm_epsilon)
    scale = weights["scale"].astype(jnp.float32)
    y = y * _broadcast(1 + scale if config.norm_plus_one else scale, y)
    if "bias" in weights:
        y = y + _broadcast(weights["bias"], y)
    return y.astype(x.dtype)


def mlp(
    config: CausalConfig, x_BxLxD: Float[Array, "B L D"], weights: Weights
) -> Float[Array, "B L D"]:
    """The product of each activation's share, through the outward kernel."""
    factors_BxLxF = [
        ACTIVATIONS[name](project(config, x_BxLxD, weights[kernel]))
        for name, kernel in zip(config.mlp_activations, mlp_names(config), strict=True)
    ]
    hidden_BxLxF = functools.reduce(operator.mul, factors_BxLxF)
    hidden_BxLxF = with_sharding_constraint(hidden_BxLxF, ("batch", "length", "mlp"))
    return project(config, hidden_BxLxF, weights["wo"])


def embed(
    config: CausalConfig, weights: Weights, tokens_BxL: Int[Array, "B L"]
) -> Float[Array, "B L D"]:
    """The tokens as they stand in the embedded input; padding past the table as any token."""
    tokens_BxL = jnp.minimum(tokens_BxL, config.vocab_size - 1)
    rows = weights["embedding"][tokens_BxL].astype(config.dtype)
    scale_Vx1 = weights.get("embedding" + SCALE)
    rows = scaled(rows, None if scale_Vx1 is None else scale_Vx1[tokens_BxL])
    return rows * jnp.asarray(embedding_scale(config), config.dtype)


def embedding_scale(config: CausalConfig) -> float:
    """What the table's rows are multiplied by."""
    return math.sqrt(config.emb_dim) if config.scale_embedding else 1.0


def logits(
    config: CausalConfig, params: Weights, y_BxLxD: Float[Array, "B L D"]
) -> Float[Array, "B L V"]:
    """The output layer, float32: a kernel of its own, or the embedding table again."""
    y_BxLxD = y_BxLxD.astype(jnp.float32)
    if config.logits_via_embedding:
        weights = params["token_embedder"]
        scale_Vx1 = weights.get("embedding" + SCALE)
        y_BxLxV = product("bld,vd->blv", y_BxLxD, weights["embedding"])
        y_BxLxV = scaled(y_BxLxV, None if scale_Vx1 is None else scale_Vx1.T)
    else:
        y_BxLxV = dense(y_BxLxD, _weight(params["decoder"]["logits_dense"]))
    return capped(y_BxLxV, config.logit_cap)


def _weight(weights: Weights) -> Weight:
    """A kernel, with its scale and an adapter's change if it has them."""
    change = change_beside(lambda ending: weights.get("kernel" + ending))
    return Weight(weights["kernel"], weights.get("kernel" + SCALE), change)


def _broadcast(vector: Array, x: Array) -> Array:
    """A vector of x's last dimension, in x's dtype and rank."""
    return vector.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,))
