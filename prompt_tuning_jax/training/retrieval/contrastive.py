"""The loss that draws a query to its document: one among those of the batch."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def contrastive_losses(
    queries_BxE: Float[Array, "B E"],
    documents_CxE: Float[Array, "C E"],
    allowed_BxC: Bool[Array, "B C"],
    temperature: float,
) -> Float[Array, " B"]:
    """Cross-entropy of each query's own document among all candidates (van den Oord et al. 2018).

    Args:
      documents: candidate i of the first B is that of query i; then come hard negatives.
      allowed: False where a candidate answers a query that it does not stand for, or is missing:
        it counts neither for nor against that query. Its own must be allowed.
      temperature: what inner products are divided by.
    """
    scores_BxC = jnp.einsum("be,ce->bc", queries_BxE, documents_CxE, precision="highest")
    scores_BxC = scores_BxC / temperature
    scores_BxC = jnp.where(allowed_BxC, scores_BxC, -jnp.inf)
    own_B = jnp.diagonal(scores_BxC)
    return jax.nn.logsumexp(scores_BxC, axis=1) - own_B
