"""Token cross-entropy with T5's z-loss."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def token_cross_entropy(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    z_loss: float = 0.0,
) -> Float[Array, "B L"]:
    """Cross-entropy of each target token in nats, plus `z_loss * log(Z)**2`.

    The z-loss keeps the softmax normaliser Z near 1 (Mesh TensorFlow; T5X runs it at 1e-4).
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return log_z - target_logits + z_loss * jnp.square(log_z)


def weighted_loss(
    logits: Float[Array, "B L V"],
    targets: Int[Array, "B L"],
    weights: Float[Array, "B L"],
    z_loss: float = 1e-4,
) -> Float[Array, ""]:
    """Loss summed over target tokens, each times its weight, as T5X sums it."""
    return jnp.sum(token_cross_entropy(logits, targets, z_loss) * weights)
