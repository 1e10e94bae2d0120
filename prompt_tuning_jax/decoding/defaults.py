"""How a model's own files want text to be generated, and what a call makes of it."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from prompt_tuning_jax.decoding.constraints import UNCONSTRAINED, Constraints
from prompt_tuning_jax.decoding.options import MAX_LENGTH

# The options of a call that say how to search; the others are fields of `Constraints`.
SEARCH = (
    "max_length",
    "beams",
    "length_penalty",
    "early_stopping",
    "temperature",
    "top_k",
    "top_p",
)
# The values by which a file says nothing.
_UNSET = {"beams": 1, "early_stopping": False, "top_k": 0, "top_p": 1.0}


class Refusal(NamedTuple):
    """Something in a model's files that is not done here, so that text is not generated.

    Attributes:
      what: the key and its value.
      only: "beams" or "sampling", where it is about that alone.
    """

    what: str
    only: str | None = None


@dataclasses.dataclass(frozen=True)
class GenerationDefaults:
    """What holds where a call does not say otherwise; None is what holds without the files.

    Attributes:
      source: the file that says so.
      max_length, beams, length_penalty, early_stopping, temperature, top_k, top_p: see
        `DecodingOptions`.
      start_id: the decoder's first input; None for the config's.
      eos_ids: the tokens of which any ends a text; () for the config's.
      constraints: what the tokens must keep to.
      refused: what keeps text from being generated.
      stored: the file's fields as JSON, for where the model is saved again.
    """

    source: str = ""
    max_length: int | None = None
    beams: int | None = None
    length_penalty: float | None = None
    early_stopping: bool | str | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    start_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    constraints: Constraints = UNCONSTRAINED
    refused: tuple[Refusal, ...] = ()
    stored: str = "{}"

    def of_tokens(self) -> "GenerationDefaults":
        """Without all that is about how to search: which tokens begin and end a text."""
        forced = Constraints(forced_first=self.constraints.forced_first)
        return GenerationDefaults(
            self.source, start_id=self.start_id, eos_ids=self.eos_ids, constraints=forced
        )

    def taken(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """What a call with these options takes from the files."""
        given = {name for name, value in options.items() if value is not None}
        own = {name: getattr(self, name) for name in SEARCH}
        if (options.get("beams") or self.beams or 1) == 1:
            own |= {"length_penalty": None, "early_stopping": None}
        if (options.get("temperature") or self.temperature or 0) == 0:
            own |= {"top_k": None, "top_p": None}
        fields = dataclasses.fields(Constraints)
        own |= {field.name: getattr(self.constraints, field.name) for field in fields}
        unset = _UNSET | {field.name: field.default for field in fields}
        return {
            name: value
            for name, value in own.items()
            if name not in given and value is not None and value != unset.get(name)
        }

    def resolved(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The keywords of `generation.generate_tokens` for a call with these `DecodingOptions`.

        Raises:
          ValueError: the files ask for something that is not done here, or, with the options, for
            what cannot be.
        """
        given = {name: value for name, value in options.items() if value is not None}
        chosen = {"max_length": MAX_LENGTH} | self.taken(options) | given
        self._refuse(chosen)
        rules = {field.name for field in dataclasses.fields(Constraints)} & chosen.keys()
        constraints = Constraints(**{name: chosen[name] for name in rules})
        if constraints.min_length > chosen["max_length"]:
            raise ValueError(
                f"A text of at least {constraints.min_length} tokens (min_length{self._of_file()}) "
                f"cannot be one of at most {chosen['max_length']} (max_length)."
            )
        rest = {name: value for name, value in chosen.items() if name not in rules}
        return rest | {
            "constraints": constraints,
            "eos_ids": self.eos_ids,
            "start_id": self.start_id,
        }

    def _refuse(self, chosen: Mapping[str, Any]) -> None:
        in_use = {None}
        in_use |= {"beams"} if chosen.get("beams", 1) > 1 else set()
        in_use |= {"sampling"} if chosen.get("temperature", 0) > 0 else set()
        for what, only in self.refused:
            if only in in_use:
                where = f" in {'beam search' if only == 'beams' else only}" if only else ""
                raise ValueError(
                    f"{self.source} asks for {what}, which is not done here{where}: take it out of "
                    "the file, or, in Python, generate with "
                    "model.replace(generation=GenerationDefaults())."
                )

    def _of_file(self) -> str:
        return f", in {self.source}" if self.source else ""


NO_DEFAULTS = GenerationDefaults()
