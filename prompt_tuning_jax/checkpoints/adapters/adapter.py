"""An adapter: leaves beside the weights of one frozen model, and what is known of their making."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.methods.adapters.choice import without_leaves
from prompt_tuning_jax.models.adapters import (
    BIAS,
    DECODER_PROMPT,
    IN_SCALE,
    LORA_A,
    LORA_B,
    LORA_SCALE,
    OUT_SCALE,
    PREFIX_KEY,
    PREFIX_VALUE,
)
from prompt_tuning_jax.models.products import SCALE
from prompt_tuning_jax.params import PROMPT_NAME, flatten, unflatten
from prompt_tuning_jax.tuned_prompt import FINGERPRINT, VOCABULARY

# Of the axes of a leaf beside a kernel [in, out], the kernel's that are as long; a rank is any.
_AXES: Mapping[str, tuple[int | None, ...]] = {
    IN_SCALE: (0,),
    LORA_A: (0, None),
    LORA_B: (None, 1),
    LORA_SCALE: (),
    BIAS: (1,),
    OUT_SCALE: (1,),
}
WHOLE = "model"  # the method whose leaves are a query side's own weights, instead of the model's


@dataclasses.dataclass(frozen=True, eq=False)
class Adapter:
    """What a method trained in a frozen network.

    Attributes:
      method: one of `methods.adapters.choice.NAMES`, or `WHOLE`.
      leaves: flat name in the parameter tree -> values, float32.
      metadata: JSON values, such as `base_model`, `task`, `verbalizers`, `step`, `scores`.
    """

    method: str
    leaves: Mapping[str, np.ndarray]
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        size = sum(x.size for x in self.leaves.values())
        known = [f", {k} {self.metadata[k]!r}" for k in ("task", "step") if k in self.metadata]
        return f"Adapter({self.method}, {size:,} numbers{''.join(known)})"

    def within(self, params: Mapping[str, Any], mesh: Mesh | None) -> dict[str, Any]:
        """A model's weights, nested, with the leaves among them and no other adapter's."""
        leaves = {name: jnp.asarray(x) for name, x in self.leaves.items()}
        if mesh is not None:
            leaves = sharding.put(leaves, sharding.replicated(mesh))
        kept = without_leaves(flatten(params))
        for name in self.leaves:  # a weight that another takes the place of has no scale of int8
            kept.pop(name + SCALE, None)
        return unflatten({**kept, **leaves})

    def check(
        self,
        params: Mapping[str, Any],
        identity: Callable[[], Mapping[str, str | None]],
        allow_prompt_mismatch: bool = False,
    ) -> None:
        """Refuses a model that it does not fit.

        Args:
          params: the model's.
          identity: its fingerprint and vocabulary_hash; asked for only where they are compared.

        Raises:
          ValueError: the model has no such weights, or others than those it was trained with.
        """
        check_leaves(self.leaves, flatten(params))
        if allow_prompt_mismatch or FINGERPRINT not in self.metadata:
            return
        known = identity()
        made_for = self.metadata.get("base_model", "another model")
        for what, key, ours in (
            ("weights", FINGERPRINT, known["fingerprint"]),
            ("vocabulary", VOCABULARY, known["vocabulary_hash"]),
        ):
            theirs = self.metadata.get(key)
            if theirs and ours and theirs != ours:
                raise ValueError(
                    f"This adapter was trained for {made_for} ({what} {theirs[:12]}), which is not "
                    f"the model given ({what} {ours[:12]}); elsewhere its numbers mean nothing. "
                    "Load the model it was trained for, or override with "
                    f"{spelled('allow_prompt_mismatch', True)}."
                )


def check_leaves(leaves: Mapping[str, Any], weights: Mapping[str, Any]) -> None:
    """Refuses leaves that do not belong to these weights, or not to one another.

    Raises:
      ValueError: there is no weight that a leaf stands beside, or one of another size; or half of a
        LoRA is missing, or has another rank than the other half.
    """
    for name, values in leaves.items():
        if name in weights:
            _check_weight(name, values, weights[name])
            continue
        folder, _, leaf = name.rpartition("/")
        expected = _shape_beside(folder, leaf, weights)
        if expected is None:
            raise ValueError(
                f"This adapter changes {folder}, which the model given does not have: load the "
                "model that it was trained for."
            )
        if not _is_shaped(values.shape, expected):
            told = ", ".join("any" if size is None else str(size) for size in expected)
            raise ValueError(
                f"This adapter's {name} is {list(values.shape)}, but beside the weight there it is "
                f"[{told}]: load the model that it was trained for."
            )
        if LORA_A in leaf or LORA_B in leaf:
            _check_pair(name.removesuffix(LORA_A).removesuffix(LORA_B), leaves)


def _check_pair(kernel: str, leaves: Mapping[str, Any]) -> None:
    """ValueError where not both matrices of a LoRA are there, of one rank, and their scale."""
    a, b, scale = (leaves.get(kernel + ending) for ending in (LORA_A, LORA_B, LORA_SCALE))
    if a is None or b is None or scale is None or a.shape[1] != b.shape[0]:
        ranks = ("none" if a is None else a.shape[1]), ("none" if b is None else b.shape[0])
        raise ValueError(
            f"This adapter's LoRA beside {kernel} is not whole: A has the rank {ranks[0]}, and B "
            f"{ranks[1]}. Fetch it again."
        )


def _check_weight(name: str, values: Any, weight: Any) -> None:
    """ValueError where a weight has another shape than the one that it takes the place of."""
    if values.shape != weight.shape:
        raise ValueError(
            f"This adapter's {name} is {list(values.shape)}, but the model given has "
            f"{list(weight.shape)} there: load the model that it was trained for."
        )


def _shape_beside(
    folder: str, leaf: str, weights: Mapping[str, Any]
) -> tuple[int | None, ...] | None:
    """The shape that a leaf has beside its weight, None for any size; None without a weight."""
    if leaf in (PREFIX_KEY, PREFIX_VALUE):
        if (key := weights.get(f"{folder}/key/kernel")) is not None:
            return None, key.shape[1]
        joined = weights.get(f"{folder}/qkv/kernel")
        return None if joined is None else (None, joined.shape[1] // 3)
    if leaf == DECODER_PROMPT or f"{folder}/{leaf}" == PROMPT_NAME:
        cross = [
            name for name in weights if name.endswith("encoder_decoder_attention/query/kernel")
        ]
        return (None, weights[cross[0]].shape[0]) if cross else None
    kernel, ending = weights.get(f"{folder}/kernel"), leaf.removeprefix("kernel")
    if kernel is None or ending not in _AXES:
        return None
    return tuple(None if axis is None else kernel.shape[axis] for axis in _AXES[ending])


def _is_shaped(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        wanted in (None, size) for size, wanted in zip(shape, expected, strict=True)
    )
