"""Distillation (MPT, Wang et al. 2023, section 3.2): prompts that answer as their teachers do.

To a task's loss comes, times a weight, the divergence of the model's answers from those that it
gives behind the task's own, finished prompt. The teacher's rows stand, frozen, in a leaf beside the
prompt. (The paper also draws hidden states together, which is not done here.)
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from prompt_tuning_jax.params import PROMPT_FOLDER, with_prompt

NAME = f"{PROMPT_FOLDER}teacher"


def taught_by(params: Mapping[str, Any]) -> dict[str, Any] | None:
    """The parameters with the teacher as their prompt; None without a teacher.

    Args:
      params: nested, with the prompt itself in them.
    """
    stack, folder, leaf = NAME.split("/")
    teacher = params.get(stack, {}).get(folder, {}).get(leaf)
    return None if teacher is None else with_prompt(params, teacher)


def divergence(
    teacher_BxLxV: Float[Array, "B L V"], student_BxLxV: Float[Array, "B L V"]
) -> Float[Array, "B L"]:
    """KL(teacher || student) of the next token's distributions, in nats, from logits."""
    teacher_BxLxV, student_BxLxV = (
        jax.nn.log_softmax(x.astype(jnp.float32)) for x in (teacher_BxLxV, student_BxLxV)
    )
    return jnp.sum(jnp.exp(teacher_BxLxV) * (teacher_BxLxV - student_BxLxV), axis=-1)
