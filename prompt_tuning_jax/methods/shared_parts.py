"""Prompts of several tasks [N, P, D] that have a part in common, and each a part of its own.

    add           prompt[n] = common + own[n]
    concatenate   prompt[n] = [common; own[n]]
    product       prompt[n] = common * (columns[n] @ rows[n])   (MPT, Wang et al. 2023, section 3.1)
    project       prompt[n] = common @ (identity + kernel[n] / D) + bias[n]

A projection is an affine map for each task, as `ProjectMultiTaskPrompt` in the reference
implementation (google-research/prompt-tuning) has it. An element of a row there sums D of the
kernel's, and would move D times as far as a prompt's own; hence the division.

Parts begin at N prompts: a sum folds into these, a product and a projection into their mean. Of a
concatenation own rows begin at a prompt's first ones, where labels stand, and the common ones at
the last of the first prompt. The gradient of what is common is the sum over tasks.

N tasks   P prompt length   r rank   D embed
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

FORMS = ("add", "concatenate", "product", "project")
COMMON = "common"
Parts = Mapping[str, Array]
"""COMMON, which all tasks share, and leaves [N, ...] of their own."""


class Sharing(NamedTuple):
    """How prompts share.

    Attributes:
      form: one of `FORMS`.
      rows: in common, at the beginning of a prompt that is concatenated.
      rank: r of a product.
    """

    form: str
    rows: int = 0
    rank: int = 1


def start(sharing: Sharing, key: jax.Array, prompts_NxPxD: Float[Array, "N P D"]) -> Parts:
    """The parts of prompts that begin at `prompts`, as far as the form allows.

    Args:
      key: of what is random in a product's ranks after the first.
    """
    N, P, D = prompts_NxPxD.shape
    mean_PxD = prompts_NxPxD.mean(axis=0)
    if sharing.form == "add":
        return {COMMON: mean_PxD, "own": prompts_NxPxD - mean_PxD[None]}
    if sharing.form == "concatenate":
        own = P - sharing.rows
        return {COMMON: prompts_NxPxD[0, own:], "own": prompts_NxPxD[:, :own]}
    if sharing.form == "project":
        return {COMMON: mean_PxD, "kernel": jnp.zeros((N, D, D)), "bias": jnp.zeros((N, D))}
    # The product begins at 1: its first rank is all ones, and others have columns but no rows yet.
    first, others = jnp.ones((N, P, 1)), (N, P, sharing.rank - 1)
    columns = jnp.concatenate([first, jax.random.normal(key, others)], axis=2)
    rows = jnp.concatenate([jnp.ones((N, 1, D)), jnp.zeros((N, sharing.rank - 1, D))], axis=1)
    return {COMMON: mean_PxD, "columns": columns, "rows": rows}


def fold(form: str, parts: Parts) -> Float[Array, "N P D"]:
    """The prompts, which may be traced."""
    common = parts[COMMON][None]
    if form == "add":
        return common + parts["own"]
    if form == "concatenate":
        repeated = jnp.broadcast_to(common, (len(parts["own"]), *common.shape[1:]))
        return jnp.concatenate([repeated, parts["own"]], axis=1)
    if form == "project":
        kernel, bias = parts["kernel"] / common.shape[-1], parts["bias"][:, None]
        added = jnp.einsum("pd,nde->npe", parts[COMMON], kernel, precision="highest")
        return common + added + bias
    factors = jnp.einsum("npr,nrd->npd", parts["columns"], parts["rows"], precision="highest")
    return common * factors
