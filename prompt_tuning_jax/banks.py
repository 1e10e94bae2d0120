"""Many prompts and one frozen model: batches that mix prompts, and ensembles.

    bank = pt.load_bank({"sentiment": "runs/sentiment/best", "topic": "runs/topic/best"})
    names = ["topic", "sentiment", "topic"]
    model.generate(texts, prompt=bank.rows(names)).texts       # each text with its own prompt
    model.classify(texts, labels, prompt=bank.ensemble()).labels     # all prompts vote on each text

The prompts may differ in length and layout. A batch then carries its layout as data:
`prompt_positions` [B, S] and `prompt_ids` [B] beside `encoder_input_tokens` [B, S]. What a call
uses, one prompt, rows of a bank, an ensemble or none, is a `PromptSet`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int

from prompt_tuning_jax.arguments import check_is_values
from prompt_tuning_jax.layout import needs_no_room, place_prompts
from prompt_tuning_jax.tuned_prompt import TunedPrompt, checked_values, shape_error


@dataclasses.dataclass(frozen=True, eq=False)
class TunedBank:
    """Tuned prompts by name, all of one width and visibility.

    Raises:
      ValueError: no prompts, or prompts that differ in width or visibility.
    """

    prompts: Mapping[str, TunedPrompt]

    def __post_init__(self):
        widths = {name: prompt.shape[1] for name, prompt in self.prompts.items()}
        if not widths:
            raise ValueError("A bank needs at least one prompt.")
        if len(set(widths.values())) > 1:
            raise ValueError(f"These prompts belong to models of different widths: {widths}.")

        kinds = {name: prompt.visibility for name, prompt in self.prompts.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"The prompts of one batch must see alike; these see {kinds}.")

    def __repr__(self) -> str:
        first, others = ", ".join(self.names[:3]), len(self) - 3
        return f"TunedBank({first}{f' and {others} others' if others > 0 else ''})"

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def visibility(self) -> str:
        """What all of the prompts may attend to."""
        return next(iter(self.prompts.values())).visibility

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.prompts)

    @functools.cached_property
    def lengths(self) -> Int[np.ndarray, " N"]:
        return np.array([len(prompt.values) for prompt in self.prompts.values()], np.int32)

    @functools.cached_property
    def layouts(self) -> np.ndarray:
        return np.array([prompt.layout for prompt in self.prompts.values()])

    @functools.cached_property
    def values(self) -> Float[np.ndarray, "N P D"]:
        """All prompts, the shorter ones filled with rows of 0 that no position refers to."""
        longest = self.lengths.max()
        rows = [(0, longest - length) for length in self.lengths]
        padded = [
            np.pad(prompt.values, (after, (0, 0)))
            for prompt, after in zip(self.prompts.values(), rows, strict=True)
        ]
        return np.stack(padded)

    def rows(self, names: Sequence[str]) -> "PromptSet":
        """Input i uses the prompt called `names[i]`.

        Raises:
          ValueError: a name that is not in the bank.
        """
        ids = {name: number for number, name in enumerate(self.prompts)}
        for name in names:
            if name not in ids:
                raise ValueError(f"No prompt is called {name!r}; there are {', '.join(ids)}.")
        return self._set(ids=np.array([ids[name] for name in names], np.int32))

    def ensemble(self) -> "PromptSet":
        """The prompts as members that answer every input together (the paper, section 6).

        Rank classification takes the majority of the members' labels, and among labels with equally
        many votes the one with the highest mean log-probability. Generation chooses every next
        token by the mean of the members' log-probabilities.
        """
        return self._set(copies=len(self))

    def _set(self, **use: Any) -> "PromptSet":
        prompts = tuple(self.prompts.values())
        return PromptSet(
            self.values, self.lengths, self.layouts, self.visibility, tuned=prompts, **use
        )


@dataclasses.dataclass(frozen=True, eq=False)
class PromptSet:
    """The prompts of one call; `FrozenModel.prompted` makes one of whatever a prompt was given as.

    Attributes:
      values: one prompt [P, D], or several [N, P, D]; None for the model alone.
      lengths: [N], of each prompt; what it leaves of P is never referred to.
      layouts: [N], where each stands in its input, of `layout.LAYOUTS`.
      visibility: what all of them may attend to, of `layout.VISIBILITIES`; None: what the model's
        config says.
      ids: [n], which prompt each of n inputs uses; None: the same for all inputs.
      copies: how often every input goes through the model, each time with another prompt.
      tuned: the prompts as they were given, where these say more than their values.
    """

    values: Float[Array, "*N P D"] | Float[np.ndarray, "*N P D"] | None
    lengths: Int[np.ndarray, " N"]
    layouts: np.ndarray
    visibility: str | None
    ids: Int[np.ndarray, " n"] | None = None
    copies: int = 1
    tuned: tuple[TunedPrompt, ...] = ()

    @classmethod
    def of(cls, prompt: "PromptLike") -> "PromptSet":
        """`prompt` in whichever form: None, an array, a `TunedPrompt`, or a set already.

        An array stands before its inputs; it may be traced, as under `jax.grad`.

        Raises:
          ValueError: a prompt's name, a bank that does not say which input uses what, or values
            that are no prompt's.
        """
        if isinstance(prompt, PromptSet):
            return prompt
        check_is_values(prompt)
        if isinstance(prompt, TunedBank):
            raise ValueError(
                "Expected a prompt, got a bank: pass bank.rows(names), each input's own prompt, or "
                "bank.ensemble(), all of them together."
            )
        if prompt is None:
            return cls(None, np.zeros(1, np.int32), np.array(["prefix"]), None)
        layout, visibility, values, tuned = "prefix", None, prompt, ()
        if isinstance(prompt, TunedPrompt):
            layout, visibility, values = prompt.layout, prompt.visibility, prompt.values
            tuned = (prompt,)
        elif not isinstance(prompt, jax.core.Tracer):
            values = checked_values(prompt, "this prompt")
        elif prompt.ndim != 2:
            raise ValueError(shape_error(prompt, "this prompt"))
        lengths, layouts = np.array([len(values)], np.int32), np.array([layout])
        return cls(values, lengths, layouts, visibility, tuned=tuned)

    def __repr__(self) -> str:
        if self.values is None:
            return "PromptSet(no prompt)"
        size = f"{list(self.values.shape)}, {self.visibility or 'model'} visibility"
        use = "" if self.ids is None else f", {len(self.ids)} inputs"
        return f"PromptSet({size}{use}, {self.copies} at a time)"

    @property
    def layout(self) -> str:
        """Where the first prompt stands: for a batch that `place` leaves to the network."""
        return str(self.layouts[0])

    @property
    def _is_bank(self) -> bool:
        return self.values is not None and self.values.ndim == 3

    @property
    def _need_no_room(self) -> bool:
        """Isolated prompts of one length before their inputs: the network keeps them apart."""
        alike = len(set(self.lengths)) == len(set(self.layouts)) == 1
        return alike and needs_no_room(self.layout, str(self.visibility))

    def check_inputs(self, count: int) -> None:
        """Refuses, with a ValueError, another number of inputs than there are prompts for."""
        if self.ids is not None and len(self.ids) != count:
            raise ValueError(f"{count} inputs, but rows of {len(self.ids)} prompts.")

    def take(self, inputs: Sequence[int]) -> "PromptSet":
        """The same for some of the inputs."""
        if self.ids is None:
            return self
        return dataclasses.replace(self, ids=self.ids[np.asarray(inputs, int)])

    def expanded(self, inputs: Sequence[Any]) -> tuple[Sequence[Any], "PromptSet"]:
        """Every input once for each of its copies, which stand together, and their prompts."""
        if self.copies == 1:
            return inputs, self
        ids = np.tile(np.arange(self.copies, dtype=np.int32), len(inputs))
        repeated = [one for one in inputs for _ in range(self.copies)]
        return repeated, dataclasses.replace(self, ids=ids, copies=1)

    def place(
        self,
        batch: Mapping[str, Any],
        eos_id: int,
        pad_id: int,
        rows: Int[np.ndarray, " rows"] | None = None,
    ) -> dict[str, Any]:
        """Lays the prompts out in `batch`: a row for each copy of an input, with room for a prompt.

        One prompt among tokens that are no numpy array is left to the network to place, inside the
        compiled function: outside it, JAX compiles each operation.

        Args:
          rows: row i of the batch is input rows[i], later ones are empty. None: all in order.
        """
        tokens = batch["encoder_input_tokens"]
        if self.values is None or not (self._is_bank or isinstance(tokens, np.ndarray)):
            return dict(batch)
        if self.copies > 1:
            batch = {name: np.repeat(x, self.copies, axis=0) for name, x in batch.items()}
        ids_B, tokens = self._ids_of(len(tokens), rows), batch["encoder_input_tokens"]
        placed = {"prompt_ids": ids_B} if self._is_bank else {}
        if not self._need_no_room:
            room = int(self.lengths.max())
            placed["encoder_input_tokens"], placed["prompt_positions"] = place_prompts(
                np.asarray(tokens), self.lengths[ids_B], self.layouts[ids_B], room, eos_id, pad_id
            )
        return {**batch, **placed}

    def _ids_of(self, count: int, rows: Int[np.ndarray, " rows"] | None) -> Int[np.ndarray, " B"]:
        """The prompt of each row of a batch of `count` inputs, copies together."""
        if self.ids is None:
            return np.tile(np.arange(self.copies, dtype=np.int32), count)
        if rows is None:
            self.check_inputs(count)
            return self.ids
        return np.pad(self.ids[rows], (0, count - len(rows)))


# What is taken where a prompt is asked for.
Values = Float[Array, "P D"] | np.ndarray | Sequence[Sequence[float]]
PromptLike = TunedPrompt | PromptSet | Values | None


def vote(scores: Float[np.ndarray, "n N C"]) -> Int[np.ndarray, " n"]:
    """The label of each input by majority; ties go to the highest mean score."""
    votes = np.eye(scores.shape[-1])[scores.argmax(axis=-1)].sum(axis=1)
    tied = votes == votes.max(axis=-1, keepdims=True)
    return np.where(tied, scores.mean(axis=1), -np.inf).argmax(axis=-1)
