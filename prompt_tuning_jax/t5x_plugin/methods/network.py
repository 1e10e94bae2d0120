"""A network with leaves beside its own weights, called as T5X calls its module."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
from flax import linen as nn
from flax.core import unfreeze
from flax.linen.partitioning import AxisMetadata

from prompt_tuning_jax.params import FlatParams, flatten, unflatten

Arguments = Mapping[str, Any]


def as_they_are(params: Any, arguments: Arguments) -> tuple[Any, Arguments]:
    return params, arguments


class Network(NamedTuple):
    """What T5X calls of its module: `init`, and `apply` of the whole, of `encode` or of `decode`.

    Attributes:
      network: the module that computes.
      whole: the module whose parameters, changed by `leaves`, T5X is to hold.
      leaves: (key, flat parameters of `whole`) -> T5X's, flat; may be traced. Those that `whole`
        has not are on every device.
      bound: (T5X's parameters, the arguments of a call by name) -> the network's.
    """

    network: nn.Module
    whole: nn.Module
    leaves: Callable[[jax.Array, FlatParams], FlatParams]
    bound: Callable[[Any, Arguments], tuple[Any, Arguments]] = as_they_are

    @property
    def scan_layers(self) -> bool:
        return self.network.scan_layers

    @property
    def encode(self) -> Callable[..., Any]:
        return self.network.encode

    @property
    def decode(self) -> Callable[..., Any]:
        return self.network.decode

    def init(self, rng: jax.Array, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The parameters, and the logical axes of each."""
        variables = unfreeze(self.whole.init(rng, *args, **kwargs))
        axes = flatten(variables["params_axes"])
        params = self.leaves(rng, flatten(variables["params"]))
        axes = {f"{name}_axes": axes.get(f"{name}_axes", _whole(x)) for name, x in params.items()}
        return {"params": unflatten(params), "params_axes": unflatten(axes)}

    def apply(
        self,
        variables: Mapping[str, Any],
        *args: Any,
        method: Callable[..., Any] | None = None,
        rngs: Any = None,
        mutable: Any = False,
        **kwargs: Any,
    ) -> Any:
        """As Flax's `apply`."""
        method = method or self.network.__call__
        arguments = inspect.signature(method).bind(*args, **kwargs).arguments
        params, arguments = self.bound(variables["params"], arguments)
        variables = {**variables, "params": params}
        return self.network.apply(variables, method=method, rngs=rngs, mutable=mutable, **arguments)


def _whole(x: jax.Array) -> AxisMetadata:
    """Axes that no rule splits; their names must differ."""
    return AxisMetadata(tuple(f"tuned_{axis}" for axis in range(x.ndim)))
