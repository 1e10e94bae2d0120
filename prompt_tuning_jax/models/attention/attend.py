"""`attend`: softmax(q k' + bias) v, in the form that suits the hardware and the shapes.

B batch   H heads   L queries   S keys   K head dim
"""

from jaxtyping import Array, Float

from prompt_tuning_jax.models.attention import chunked, dense, fused
from prompt_tuning_jax.models.attention.bias import Bias
from prompt_tuning_jax.models.attention.choice import Shape, active_mesh, choose, platform_of


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxHxSxK: Float[Array, "B H S K"],
    v_BxHxSxK: Float[Array, "B H S K"],
    bias: Bias,
    *,
    form: str = "auto",
    chunk: int | None = None,
) -> Float[Array, "B H L K"]:
    """What each query gathers from the keys that it may attend to. All forms equal, to rounding.

    Args:
      form: one of `choice.FORMS`.
      chunk: how many queries attend at a time where the form is chunked.
    """
    (B, H, L, K), S = q_BxHxLxK.shape, k_BxHxSxK.shape[2]
    platform = platform_of(active_mesh())
    choice = choose(form, chunk, Shape(B, H, L, S, K), q_BxHxLxK.dtype, platform)
    # A bias of other numbers than one for each offset is none that a kernel can make.
    is_made = bias.distances is None or bias.by_offset is not None
    if choice.form == "fused" and is_made:
        return fused.attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias, platform)
    if choice.form == "chunked":
        return chunked.attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias, choice.at_once)
    return dense.attend(q_BxHxLxK, k_BxHxSxK, v_BxHxSxK, bias)
