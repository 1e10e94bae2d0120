"""The options of generation: those of a call, and all that a program is compiled for."""

from typing import NamedTuple, TypedDict

from prompt_tuning_jax.decoding.constraints import UNCONSTRAINED, Constraints
from prompt_tuning_jax.models.family import NetworkConfig

MAX_LENGTH = 64  # where nothing says how many tokens to generate


class DecodingOptions(TypedDict, total=False):
    """How text is generated: greedily, by beam search or by sampling.

    What is not given, or None, is as the model's own files say (`defaults.GenerationDefaults`), and
    else as is said here.

    Attributes:
      max_length: the most tokens to generate, EOS included; 64 where it is not given.
      beams: above 1, beam search with so many hypotheses; see `search.beam_search`.
      length_penalty: a sequence scores sum(log p) / length**length_penalty, EOS counted; 0.0.
      early_stopping: when beam search ends: False, True or "never", as in transformers; False.
      temperature: above 0, sample from softmax(logits / temperature).
      top_k: sample among the k likeliest tokens only; 0 means all, 1 is greedy.
      top_p: then among the likeliest tokens that together reach probability p.
      min_length: so many tokens come before EOS.
      no_repeat_ngram: no n-gram of this size comes twice; 0 for no limit.
      repetition_penalty: above 1.0, tokens that came before are less likely; as in transformers.
    """

    max_length: int | None
    beams: int | None
    length_penalty: float | None
    early_stopping: bool | str | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_length: int | None
    no_repeat_ngram: int | None
    repetition_penalty: float | None


class GenerationSettings(NamedTuple):
    """What a program that generates is compiled for, beside the network and the shapes.

    Attributes:
      max_length, beams, early_stopping, temperature, top_k, top_p: see `DecodingOptions`.
      late_finishers: which hypotheses may end: as in T5X, or (False) as in transformers.
      constraints: what the tokens must keep to.
      eos_ids: the tokens of which any ends a text; () for the config's `eos_id`.
      start_id: the decoder's first input; None for the config's.
    """

    max_length: int = MAX_LENGTH
    beams: int = 1
    early_stopping: bool | str = False
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    late_finishers: bool = False
    constraints: Constraints = UNCONSTRAINED
    eos_ids: tuple[int, ...] = ()
    start_id: int | None = None

    @property
    def samples(self) -> bool:
        return self.temperature > 0 and self.top_k != 1

    def of_model(self, config: NetworkConfig) -> "GenerationSettings":
        """With the config's ids where there are no others, and without what it does not use."""
        settings = self._replace(
            eos_ids=self.eos_ids or (config.eos_id,),
            start_id=config.start_id if self.start_id is None else self.start_id,
        )
        return settings if self.samples else settings._replace(temperature=0.0, top_k=0, top_p=1.0)

    def check(self) -> None:
        """ValueError where a setting is out of range, or settings contradict each other."""
        if self.max_length < 1 or self.beams < 1:
            raise ValueError(
                f"max_length ({self.max_length}) and beams ({self.beams}) must be at least 1."
            )
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ValueError(
                f"temperature ({self.temperature}) and top_k ({self.top_k}) must be 0 or more, "
                f"and top_p ({self.top_p}) above 0 and at most 1."
            )
        if self.samples and self.beams > 1:
            raise ValueError("Beam search does not sample: set beams=1 or temperature=0.")
        if self.early_stopping not in (False, True, "never"):
            raise ValueError(
                f'early_stopping is True, False or "never", not {self.early_stopping!r}.'
            )
        rules = self.constraints
        least = min(rules.min_length, rules.no_repeat_ngram, rules.encoder_no_repeat_ngram)
        if least < 0:
            raise ValueError(f"min_length and no_repeat_ngram must be 0 or more, not {least}.")
        penalty = min(rules.repetition_penalty, rules.encoder_repetition_penalty)
        if not penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0, not {penalty}.")
