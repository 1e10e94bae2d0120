"""Attention by a kernel: a custom call in a program's text, whose flops no compiler counts."""

import re
from collections.abc import Sequence

# A kernel of Pallas says what it costs; cuDNN's are known by the shapes of queries and keys.
_ESTIMATED = re.compile(r'custom_call_target="tpu_custom_call".*"cost_estimate":\{"flops":"(\d+)"')
_CUDNN = re.compile(r'custom_call_target="__cudnn\$fmha[A-Za-z]*?(Backward)?"')


def attention_flops(attributes: str, shapes: Sequence[Sequence[int]]) -> int:
    """The flops of one call; 0 for any other instruction.

    Args:
      attributes: of the instruction.
      shapes: of its operands; cuDNN's first two are [B, H, L, K] and [B, H, S, K].
    """
    if estimated := _ESTIMATED.search(attributes):
        return int(estimated[1])
    if found := _CUDNN.search(attributes):
        (B, H, L, K), (_, _, S, _) = shapes[:2]
        products = 5 if found[1] else 2
        return products * 2 * B * H * L * S * K
    return 0
