"""What a method provides: leaves beside frozen weights, where they start, and which of them train.

A leaf is named for the weight or the folder that it stands in; what a network makes of it is said
in `models.adapters`. A method is a file here and a line in `choice.METHODS`.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax

from prompt_tuning_jax.initializers import Initializer, uniform
from prompt_tuning_jax.params import FlatParams

Shapes = Mapping[str, Any]
"""The flat name of a weight -> anything that has its shape."""
# A kernel within a layer: (its folder, what it is called there); wi_0 and wi_1 are two parts of wi.
_KERNEL = re.compile(r"(.+/layers_\d+/.+?)/((\w+?)(?:_\d)?)/kernel")


class Options(NamedTuple):
    """What a run's settings say of a method; each reads what is its own.

    Attributes:
      rank, alpha, rslora: of LoRA.
      targets: the products that LoRA changes, by the names of their folders; None: the usual ones.
      length: of a prefix, or a decoder's prompt.
      stack: where a prefix stands, one of `prefix.STACKS`.
      sample: rows of the vocabulary, from (key, shape).
    """

    rank: int = 8
    alpha: float = 16.0
    rslora: bool = False
    targets: Sequence[str] | None = None
    length: int = 100
    stack: str = "decoder"
    sample: Initializer = uniform()


class Method(Protocol):
    """A module with these names.

    Attributes:
      RATE, OPTIMIZER: where none is asked for.
    """

    RATE: float
    OPTIMIZER: str

    @property
    def TRAINABLE(self) -> tuple[str, ...]:
        """What its leaves are called in their folders."""

    @property
    def FROZEN(self) -> tuple[str, ...]:
        """Those that stay as they start."""

    def start(self, key: jax.Array, shapes: Shapes, options: Options) -> FlatParams:
        """The leaves of a network of these weights, by their flat names, float32; may be traced.

        Raises:
          ValueError: the network has nothing that the method changes.
        """


def kernels(shapes: Shapes, targets: Sequence[str] | None = None) -> dict[str, tuple[int, int]]:
    """Flat name -> [in, out] of the layers' kernels that `targets` name, in order; None: all."""
    found = {name: kernel[3] for name in sorted(shapes) if (kernel := _KERNEL.fullmatch(name))}
    wanted = found if targets is None else {n: t for n, t in found.items() if t in targets}
    if missing := sorted(set(targets or ()) - set(found.values())):
        raise ValueError(
            f"no layer of this network has a product {missing[0]!r}: choose among "
            f"{', '.join(dict.fromkeys(found.values()))}."
        )
    return {name: tuple(shapes[name].shape) for name in wanted}
