"""Many prompts and one frozen model: batches that mix prompts, and ensembles.

    bank = pt.load_bank({"sentiment": "runs/sentiment/best", "topic": "runs/topic/best"})
    names = ["topic", "sentiment", "topic"]
    model.generate(texts, prompt=bank.rows(names)).texts       # each text with its own prompt
    model.classify(texts, labels, prompt=bank.ensemble()).labels     # all prompts vote on each text

The prompts may differ in length and layout. A batch then carries its layout as data:
`prompt_positions` [B, S] and `prompt_ids` [B] beside `encoder_input_tokens` [B, S].
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from prompt_tuning_jax.layout import LAYOUTS, VISIBILITIES, place_prompts

# Facts of a prompt file that say which frozen model the prompt is for.
FINGERPRINT = "base_model_fingerprint"
VOCABULARY = "vocabulary_hash"


@dataclasses.dataclass(frozen=True, eq=False)
class TunedPrompt:
    """A prompt's values, how it is used, and what is known of its making.

    Attributes:
      values: [P, D] float32.
      layout: where its rows stand in the input, one of `layout.LAYOUTS`.
      visibility: what they may attend to, one of `layout.VISIBILITIES`.
      metadata: JSON values, such as `base_model`, `task`, `verbalizers`, `step`, `scores`.
    """

    values: Float[np.ndarray, "prompt embed"]
    layout: str = "prefix"
    metadata: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    visibility: str = "full"

    def __post_init__(self):
        object.__setattr__(self, "values", checked_values(self.values, "this prompt"))
        if self.layout not in LAYOUTS:
            raise ValueError(f"Unknown prompt layout {self.layout!r}; choose one of {LAYOUTS}.")
        if self.visibility not in VISIBILITIES:
            raise ValueError(
                f"Unknown prompt visibility {self.visibility!r}; choose one of {VISIBILITIES}."
            )

    def __repr__(self) -> str:
        use = f"{list(self.shape)}, {self.layout}, {self.visibility} visibility"
        known = [f", {k} {self.metadata[k]!r}" for k in ("task", "step") if k in self.metadata]
        return f"TunedPrompt({use}{''.join(known)})"

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    @property
    def shape(self) -> tuple[int, int]:
        return self.values.shape

    @property
    def base_fingerprint(self) -> str | None:
        """Fingerprint of the weights that it was tuned for; None where that is not known."""
        return self.metadata.get(FINGERPRINT)


def checked_values(values: Any, name: str) -> Float[np.ndarray, "prompt embed"]:
    values = np.asarray(values)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"A prompt is [length, width]; {name} is {list(values.shape)}.")
    if not jnp.issubdtype(values.dtype, jnp.floating):
        raise ValueError(f"A prompt is floating-point; {name} is {values.dtype}.")
    values = np.ascontiguousarray(values, np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"A prompt is finite; {name} holds NaN or infinite values.")
    return values


def check_compatible(
    prompt: TunedPrompt,
    *,
    fingerprint: str | None = None,
    vocabulary_hash: str | None = None,
    emb_dim: int | None = None,
    allow_mismatch: bool = False,
) -> None:
    """Refuses a prompt that was tuned for another frozen model or vocabulary.

    What the prompt does not say (a bare `.npy` says nothing) or the caller does not give is not
    compared.

    Raises:
      ValueError: width, model or vocabulary differ. `allow_mismatch` overrides the last two.
    """
    if emb_dim is not None and prompt.shape[1] != emb_dim:
        raise ValueError(
            f"This prompt is {prompt.shape[1]} wide, the model {emb_dim}: it was tuned for a model "
            "of another size and cannot be used with this one."
        )
    made_for = prompt.metadata.get("base_model", "another model")
    for what, key, ours in (
        ("weights", FINGERPRINT, fingerprint),
        ("vocabulary", VOCABULARY, vocabulary_hash),
    ):
        theirs = prompt.metadata.get(key)
        if not allow_mismatch and theirs and ours and theirs != ours:
            raise ValueError(
                f"This prompt was tuned for {made_for} ({what} {theirs[:12]}), which is not the "
                f"model given ({what} {ours[:12]}); elsewhere its numbers mean nothing. Load the "
                "model it was tuned for, or override with allow_mismatch=True "
                "(on the command line ALLOW_PROMPT_MISMATCH=True, or --allow_mismatch)."
            )


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
    def lengths(self) -> Int[np.ndarray, " bank"]:
        return np.array([len(prompt.values) for prompt in self.prompts.values()], np.int32)

    @functools.cached_property
    def layouts(self) -> np.ndarray:
        return np.array([prompt.layout for prompt in self.prompts.values()])

    @functools.cached_property
    def values(self) -> Float[np.ndarray, "bank prompt embed"]:
        """All prompts, the shorter ones filled with rows of 0 that no position refers to."""
        longest = self.lengths.max()
        rows = [(0, longest - length) for length in self.lengths]
        padded = [
            np.pad(prompt.values, (after, (0, 0)))
            for prompt, after in zip(self.prompts.values(), rows, strict=True)
        ]
        return np.stack(padded)

    @property
    def _stand_apart(self) -> bool:
        alike = len(set(self.lengths)) == 1 and set(self.layouts) == {"prefix"}
        return alike and self.visibility.startswith("isolated")

    def rows(self, names: Sequence[str]) -> "BankRows":
        """Input i uses the prompt called `names[i]`.

        Raises:
          ValueError: a name that is not in the bank.
        """
        ids = {name: number for number, name in enumerate(self.prompts)}
        for name in names:
            if name not in ids:
                raise ValueError(f"No prompt is called {name!r}; there are {', '.join(ids)}.")
        return BankRows(self, np.array([ids[name] for name in names], np.int32))

    def ensemble(self) -> "Ensemble":
        """All prompts answer every input together."""
        return Ensemble(self)

    def place(
        self, batch: Mapping[str, Any], ids_B: Int[np.ndarray, " batch"], eos_id: int
    ) -> dict[str, Any]:
        """`batch` with room for prompt `ids_B[b]` in row b, and its layout, as numpy arrays.

        Isolated prompts of one length before their inputs need no room; see `prompted.bind`.
        """
        if self._stand_apart:
            return {**batch, "prompt_ids": ids_B}
        tokens_BxS, positions_BxS = place_prompts(
            np.asarray(batch["encoder_input_tokens"]),
            self.lengths[ids_B],
            self.layouts[ids_B],
            int(self.lengths.max()),
            eos_id,
        )
        layout = {"prompt_positions": positions_BxS, "prompt_ids": ids_B}
        return {**batch, "encoder_input_tokens": tokens_BxS, **layout}


@dataclasses.dataclass(frozen=True, eq=False)
class BankRows:
    """A bank, and which of its prompts each input uses: `ids` [n]."""

    bank: TunedBank
    ids: Int[np.ndarray, " inputs"] = dataclasses.field(repr=False)

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, inputs: Sequence[int]) -> "BankRows":
        """The same for some of the inputs."""
        return BankRows(self.bank, self.ids[np.asarray(inputs, int)])

    def place(
        self, batch: Mapping[str, Any], rows: Int[np.ndarray, " rows"], eos_id: int
    ) -> dict[str, Any]:
        """`batch` with the layout of inputs `rows`; rows after these are empty."""
        empty = len(batch["encoder_input_tokens"]) - len(rows)
        return self.bank.place(batch, np.pad(self.ids[rows], (0, empty)), eos_id)


@dataclasses.dataclass(frozen=True, eq=False)
class Ensemble:
    """The prompts of a bank as members that answer together (the paper, section 6).

    Rank classification takes the majority of the members' labels, and among labels with equally
    many votes the one with the highest mean log-probability. Generation chooses every next token by
    the mean of the members' log-probabilities.
    """

    bank: TunedBank

    def __len__(self) -> int:
        return len(self.bank)

    def copies(self, inputs: Sequence[Any]) -> tuple[list[Any], BankRows]:
        """Every input once for each member, copies together, and the prompt of each copy."""
        ids = np.tile(np.arange(len(self), dtype=np.int32), len(inputs))
        return [one for one in inputs for _ in range(len(self))], BankRows(self.bank, ids)

    def place(
        self, batch: Mapping[str, Any], rows: Int[np.ndarray, " rows"], eos_id: int
    ) -> dict[str, Any]:
        """`batch` with every row once for each member, [B * N, S], copies together."""
        del rows
        ids = np.tile(np.arange(len(self), dtype=np.int32), len(batch["encoder_input_tokens"]))
        repeated = {name: np.repeat(x, len(self), axis=0) for name, x in batch.items()}
        return self.bank.place(repeated, ids, eos_id)


def vote(scores: Float[np.ndarray, "inputs members labels"]) -> Int[np.ndarray, " inputs"]:
    """The label of each input by majority; ties go to the highest mean score."""
    votes = np.eye(scores.shape[-1])[scores.argmax(axis=-1)].sum(axis=1)
    tied = votes == votes.max(axis=-1, keepdims=True)
    return np.where(tied, scores.mean(axis=1), -np.inf).argmax(axis=-1)
