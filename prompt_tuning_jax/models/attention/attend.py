"""`attend`: softmax(cap(q k') + bias) v, in the form that suits the hardware and the shapes.

B batch   H heads   G heads of keys, which divide H   L queries   S keys   K head dim
"""

from jaxtyping import Array, Float

from prompt_tuning_jax.models.attention import chunked, dense, fused
from prompt_tuning_jax.models.attention.bias import Bias
from prompt_tuning_jax.models.attention.choice import Shape, active_mesh, choose, platform_of


def attend(
    q_BxHxLxK: Float[Array, "B H L K"],
    k_BxGxSxK: Float[Array, "B G S K"],
    v_BxGxSxK: Float[Array, "B G S K"],
    bias: Bias,
    *,
    cap: float | None = None,
    form: str = "auto",
    chunk: int | None = None,
) -> Float[Array, "B H L K"]:
    """What each query gathers from the keys that it may attend to. All forms equal, to rounding.

    Args:
      cap: scores are kept between -cap and cap: cap * tanh(score / cap).
      form: one of `choice.FORMS`.
      chunk: how many queries attend at a time where the form is chunked.
    """
    (B, H, L, K), S = q_BxHxLxK.shape, k_BxGxSxK.shape[2]
    platform = platform_of(active_mesh())
    shape = Shape(B, H, L, S, K, is_capped=cap is not None)
    choice = choose(form, chunk, shape, q_BxHxLxK.dtype, platform)
    # A bias of other numbers than one for each offset is none that a kernel can make.
    is_made = bias.distances is None or bias.by_offset is not None
    if choice.form == "fused" and is_made:
        return fused.attend(q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, bias, platform, cap)
    if choice.form == "chunked":
        return chunked.attend(q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, bias, choice.at_once, cap)
    return dense.attend(q_BxHxLxK, k_BxGxSxK, v_BxGxSxK, bias, cap)
