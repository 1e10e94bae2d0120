"""What an adapter changes in a network: leaves beside its frozen weights.

Of a product with a weight W [in, out]:

    kernel_in_scale    [in]       (in * x) W               IA3 (Liu et al. 2022)
    kernel_lora_a      [in, r]    x W + (x A) B * scale    LoRA (Hu et al. 2022)
    kernel_lora_b      [r, out]
    kernel_lora_scale  []         alpha / r, or alpha / sqrt(r); it does not train
    kernel_bias        [out]      x W + bias               BitFit (Ben Zaken et al. 2022)
    kernel_out_scale   [out]      out * (x W + bias)       IA3

Of an attention, keys and values that stand before all others, and that every query sees:

    prefix_key         [P, J]     P-tuning v2 (Liu et al. 2022), prefix tuning (Li & Liang 2021)
    prefix_value       [P, J]

And of a T5's decoder, rows that stand before its embedded tokens:

    decoder_prompt     [P, D]

Leaves that are not there change nothing. W takes part as it is stored, in any dtype, and no array
of its shape is made for it: A and B meet the activations, not one another.

R rows, batch and length in one   r rank   P prefix length   D embed
J heads of keys * head dim
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

IN_SCALE, OUT_SCALE, BIAS = "_in_scale", "_out_scale", "_bias"
LORA_A, LORA_B, LORA_SCALE = "_lora_a", "_lora_b", "_lora_scale"
DECODER_PROMPT = "decoder_prompt"
PREFIX_KEY, PREFIX_VALUE = "prefix_key", "prefix_value"


class Change(NamedTuple):
    """An adapter's part in one product, each as at the top of this file or None."""

    in_scale: Float[Array, " inputs"] | None
    lora_a: Float[Array, "inputs r"] | None
    lora_b: Float[Array, "r outputs"] | None
    lora_scale: Float[Array, ""] | None
    bias: Float[Array, " outputs"] | None
    out_scale: Float[Array, " outputs"] | None

    def before(self, x_RxI: Float[Array, "R inputs"]) -> Float[Array, "R inputs"]:
        """What W is multiplied by."""
        return _times(x_RxI, self.in_scale)

    def beside(
        self, y_RxO: Float[Array, "R outputs"], x_RxI: Float[Array, "R inputs"]
    ) -> Float[Array, "R outputs"]:
        """y, the product of W and x, and what stands beside it."""
        if self.lora_a is None:
            return y_RxO
        a, b, scale = (x.astype(y_RxO.dtype) for x in (self.lora_a, self.lora_b, self.lora_scale))
        return y_RxO + (x_RxI @ a) @ b * scale

    def after(self, y_RxO: Float[Array, "R outputs"]) -> Float[Array, "R outputs"]:
        """y, the weight's own bias added where it has one, as it leaves."""
        if self.bias is not None:
            y_RxO = y_RxO + self.bias.astype(y_RxO.dtype)[None, :]
        return _times(y_RxO, self.out_scale)


def change_beside(leaf: Callable[[str], Any]) -> Change | None:
    """The change of a weight, if there is any.

    Args:
      leaf: what stands under the weight's name with an ending; None where nothing does.
    """
    endings = IN_SCALE, LORA_A, LORA_B, LORA_SCALE, BIAS, OUT_SCALE
    found = Change(*map(leaf, endings))
    return None if all(each is None for each in found) else found


def prefix_heads(leaf: Any, heads: int, dtype: Any) -> Float[Array, "1 H P K"]:
    """A prefix's keys or values, by head, for all rows."""
    return jnp.swapaxes(leaf.astype(dtype).reshape(len(leaf), heads, -1), 0, 1)[None]


def _times(x: Array, scale: Array | None) -> Array:
    return x if scale is None else x * scale.astype(x.dtype)[None, :]
