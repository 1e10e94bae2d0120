"""Kernels, embedding, norm and MLP. Names, shapes, initialisers and axes are T5X's.

B batch   L length, of inputs or targets   D embed   F mlp   V vocabulary
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.partitioning import with_sharding_constraint
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.models.activations import ACTIVATIONS
from prompt_tuning_jax.models.adapters import change_beside
from prompt_tuning_jax.models.products import SCALE, Weight, dense, product, scaled
from prompt_tuning_jax.models.t5.config import T5Config
from prompt_tuning_jax.params import parameter

_dense_init = nn.initializers.variance_scaling(1.0, "fan_in", "truncated_normal")


class Kernel(nn.Module):
    """A weight matrix [in, out], stored in any dtype and cast to `dtype` at use.

    int8 values stay int8 here, as `product` casts them. `stored_shape` is the shape in the
    parameter tree, where that splits one of the two dimensions.
    """

    shape: tuple[int, int]
    axes: tuple[str, ...]
    initializer: Callable[..., Any] = _dense_init
    dtype: Any = jnp.float32
    stored_shape: tuple[int, ...] | None = None

    @nn.compact
    def __call__(self) -> Weight:
        shape = self.stored_shape or self.shape
        kernel = parameter(self, "kernel", self._init, shape, jnp.float32, axes=self.axes)
        kernel = kernel.reshape(self.shape)
        change = change_beside(lambda ending: self.get_variable("params", "kernel" + ending))
        if kernel.dtype == jnp.int8:
            scale = self.get_variable("params", "kernel" + SCALE)
            return Weight(kernel, scale.reshape(1, self.shape[1]), change)
        return Weight(kernel.astype(self.dtype), change=change)

    def _init(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return self.initializer(key, self.shape, dtype).reshape(shape)


class Embed(nn.Module):
    """The vocabulary's embedding table [V, D]."""

    config: T5Config

    def setup(self):
        shape = (self.config.vocab_size, self.config.emb_dim)
        init = nn.initializers.normal(stddev=1.0)
        self.embedding = parameter(
            self, "embedding", init, shape, jnp.float32, axes=("vocab", "embed")
        )
        self.scale_Vx1 = self.get_variable("params", "embedding" + SCALE)

    def __call__(self, tokens: Int[Array, "B L"]) -> Float[Array, "B L D"]:
        """The tokens' rows of the table."""
        # Rows first, cast second: a cast of the whole table would copy it.
        rows = self.embedding[tokens].astype(self.config.dtype)
        return scaled(rows, None if self.scale_Vx1 is None else self.scale_Vx1[tokens])

    def logits(self, y_BxLxD: Float[Array, "B L D"]) -> Float[Array, "B L V"]:
        """T5 1.0's output layer: the table again; float32 activations in, float32 logits out."""
        logits = product("bld,vd->blv", y_BxLxD, self.embedding)
        return scaled(logits, None if self.scale_Vx1 is None else self.scale_Vx1.T)


class LayerNorm(nn.Module):
    """Root-mean-square norm: no mean is subtracted and no bias added; computed in float32."""

    config: T5Config

    @nn.compact
    def __call__(self, x: Float[Array, "*shape D"]) -> Float[Array, "*shape D"]:
        shape, dtype = (self.config.emb_dim,), self.config.dtype
        scale_D = parameter(
            self, "scale", nn.initializers.ones, shape, jnp.float32, axes=("embed",)
        )
        x = x.astype(jnp.float32)
        mean_square = jnp.mean(jnp.square(x), axis=-1, keepdims=True)
        normed = x * jax.lax.rsqrt(mean_square + self.config.layer_norm_epsilon)
        scale_D = jnp.reshape(scale_D.astype(dtype), (1,) * (x.ndim - 1) + shape)
        return normed.astype(dtype) * scale_D


def dropout(config: T5Config) -> nn.Dropout:
    """T5's dropout: all positions of a row drop the same features."""
    return nn.Dropout(config.dropout_rate, broadcast_dims=(-2,))


class Mlp(nn.Module):
    """The feed-forward block: `wi` for one activation, the product of `wi_0`, `wi_1` for two."""

    config: T5Config

    def setup(self):
        cfg = self.config
        names = [f"wi_{i}" for i in range(len(cfg.mlp_activations))]
        inwards = functools.partial(
            Kernel, (cfg.emb_dim, cfg.mlp_dim), ("embed", "mlp"), dtype=cfg.dtype
        )
        self.inner = [inwards(name=name) for name in (names if len(names) > 1 else ["wi"])]
        self.wo = Kernel((cfg.mlp_dim, cfg.emb_dim), ("mlp", "embed"), dtype=cfg.dtype)
        self.dropout = dropout(cfg)

    def __call__(
        self, x_BxLxD: Float[Array, "B L D"], *, deterministic: bool
    ) -> Float[Array, "B L D"]:
        factors_BxLxF = [
            ACTIVATIONS[name](dense(x_BxLxD, kernel()))
            for name, kernel in zip(self.config.mlp_activations, self.inner, strict=True)
        ]
        hidden_BxLxF = functools.reduce(operator.mul, factors_BxLxF)
        hidden_BxLxF = self.dropout(hidden_BxLxF, deterministic=deterministic)
        hidden_BxLxF = with_sharding_constraint(hidden_BxLxF, ("batch", "length", "mlp"))
        return dense(hidden_BxLxF, self.wo())
