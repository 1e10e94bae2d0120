"""Everything that defines an embedding model beside its weights."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from prompt_tuning_jax.layout import NO_TOKEN

POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
STEPS = ("dense", "normalize", "truncate")
SIDES = QUERY, BOTH = ("query", "both")  # of a search that a prompt tunes
ACTIVATIONS = ("linear", "tanh", "relu", "gelu_exact", "silu", "sigmoid")


class Step(NamedTuple):
    """What is done to a pooled vector.

    Attributes:
      kind: "dense", a kernel and an activation; "normalize", to length 1; or "truncate", to the
        first numbers (Matryoshka embeddings, arXiv:2205.13147).
      outputs: how long a dense step's vector is, or at most is after "truncate".
      bias: whether a dense step has one.
      activation: of a dense step, one of `ACTIVATIONS`.
    """

    kind: str
    outputs: int | None = None
    bias: bool = False
    activation: str = "linear"


@dataclasses.dataclass(frozen=True)
class EmbeddingConfig:
    """An encoder, its pooling, and what follows.

    Attributes:
      network: the encoder's own config.
      pooling: of `POOLINGS`; of several the vectors are put one after another.
      steps: what follows the pooling, in order.
      max_seq_length: tokens of a text, special ones included; what is more is cut off.
      include_prompt: whether the tokens of a text prompt count in the pooling.
    """

    network: Any
    pooling: tuple[str, ...] = ("mean",)
    steps: tuple[Step, ...] = ()
    max_seq_length: int = 512
    include_prompt: bool = True

    def __post_init__(self):
        object.__setattr__(self, "pooling", tuple(self.pooling))
        object.__setattr__(self, "steps", tuple(Step(*step) for step in self.steps))
        for what, given, known in (
            ("pooling", self.pooling, POOLINGS),
            ("steps", [step.kind for step in self.steps], STEPS),
            ("activation", [step.activation for step in self.steps], ACTIVATIONS),
        ):
            if unknown := [name for name in given if name not in known]:
                raise ValueError(
                    f"EmbeddingConfig.{what}: {unknown[0]!r} is not one of {', '.join(known)}."
                )
        if not self.pooling:
            raise ValueError("EmbeddingConfig.pooling is empty: give one of " + ", ".join(POOLINGS))

    @property
    def emb_dim(self) -> int:
        """D, how wide a prompt is."""
        return self.network.emb_dim

    @property
    def pad_id(self) -> int:
        """What stands in rows of tokens where there is none."""
        return NO_TOKEN

    @property
    def outputs(self) -> int:
        """E, how long a vector is."""
        width = len(self.pooling) * self.emb_dim
        for step in self.steps:
            if step.outputs is not None:
                width = min(width, step.outputs) if step.kind == "truncate" else step.outputs
        return width

    @property
    def normalizes(self) -> bool:
        """Whether vectors have length 1."""
        return bool(self.steps) and self.steps[-1].kind == "normalize"

    def changed(
        self, pooling: Sequence[str] | None, normalize: bool | None, max_seq_length: int | None
    ) -> "EmbeddingConfig":
        """The config with what is not None instead of its own.

        Raises:
          ValueError: dense layers that take another number of poolings.
        """
        changes: dict[str, Any] = {}
        if pooling is not None:
            changes["pooling"] = tuple(pooling)
            if self.shapes() and len(changes["pooling"]) != len(self.pooling):
                raise ValueError(f"This model has dense layers for {len(self.pooling)} pooling(s).")
        if max_seq_length is not None:
            changes["max_seq_length"] = max_seq_length
        if normalize is not None and normalize != self.normalizes:
            last = (Step("normalize"),)
            changes["steps"] = self.steps + last if normalize else self.steps[:-1]
        return dataclasses.replace(self, **changes)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Name -> shape of the dense steps' weights."""
        found: dict[str, tuple[int, ...]] = {}
        width = len(self.pooling) * self.emb_dim
        for number, step in enumerate(self.steps):
            if step.kind == "dense" and step.outputs is not None:
                found[f"step_{number}/kernel"] = (width, step.outputs)
                if step.bias:
                    found[f"step_{number}/bias"] = (step.outputs,)
                width = step.outputs
        return found
