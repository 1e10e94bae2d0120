"""How a model's files want text to be generated: `generation_config.json`, or `config.json`.

transformers obeys these fields; here each is obeyed, or refused by its name once text is generated
(a model that cannot generate as its files ask can still be trained and can rank). Fields that
change no token, such as those of caches, are nothing, and so is a field that is null or neutral.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prompt_tuning_jax.bounds import (
    BEAMS,
    FEWEST,
    LENGTH_PENALTY,
    REPETITION_PENALTY,
    TEMPERATURE,
    TOKENS,
    TOP_K,
    TOP_P,
    Bounds,
)
from prompt_tuning_jax.checkpoints.huggingface.config import GENERATION
from prompt_tuning_jax.checkpoints.huggingface.files import CONFIG
from prompt_tuning_jax.decoding.constraints import Constraints
from prompt_tuning_jax.decoding.defaults import GenerationDefaults, Refusal
from prompt_tuning_jax.json_values import json_object
from prompt_tuning_jax.models.family import NetworkConfig

# What transformers samples from where a file that says `do_sample` does not say how.
_SAMPLED = {"temperature": 1.0, "top_k": 50}
# What is not done here: field -> (the values that mean nothing, whether it is about "sampling" or
# "beams" alone).
_REFUSED: dict[str, tuple[list[Any], str | None]] = {
    "constraints": ([[]], None),
    "diversity_penalty": ([0], "beams"),
    "dola_layers": ([[]], None),
    "epsilon_cutoff": ([0], "sampling"),
    "eta_cutoff": ([0], "sampling"),
    "force_words_ids": ([[]], None),
    "guidance_scale": ([1], None),
    "max_time": ([], None),
    "min_p": ([0], "sampling"),
    "num_beam_groups": ([1], "beams"),
    "num_return_sequences": ([1], None),
    "penalty_alpha": ([0], None),
    "sequence_bias": ([[], {}], None),
    "stop_strings": ([[], ""], None),
    "token_healing": ([False], None),
    "top_h": ([1], "sampling"),
    "typical_p": ([1], "sampling"),
    "watermarking_config": ([{}], None),
}


# What says nothing of use where targets go on from an input, and so is refused there: transformers
# counts the input's tokens (and its padding) in the one, and obeys the other if there is one token.
_REFUSED_OF_CAUSAL: dict[str, tuple[list[Any], str | None]] = {
    "min_length": ([0], None),
    "forced_bos_token_id": ([], None),
}
# What is no matter there: where a decoder starts, and a length that counts the input too.
_NOTHING_TO_CAUSAL = ("max_length", "decoder_start_token_id")


def read_generation(
    directory: Path, vocab_size: int, continues: bool = False
) -> GenerationDefaults:
    """What the files of a model in `directory` say. As in transformers, the first is the one that
    counts where there are both.

    Args:
      continues: whether targets go on where an input ends; `NetworkConfig.continues_inputs`.

    Raises:
      ValueError: the file is no JSON object.
    """
    path = directory / GENERATION
    path = path if path.is_file() else directory / CONFIG
    raw = json_object(path.read_bytes(), path, "Correct it, or fetch it again.")
    return defaults_of(raw, str(path), vocab_size, continues)


def defaults_of(
    raw: Mapping[str, Any], source: str, vocab_size: int, continues: bool = False
) -> GenerationDefaults:
    """What the fields of `source` say, in a model with so many token ids."""
    every = fields = _Fields(raw, vocab_size)
    refused = _not_done(every, _REFUSED_OF_CAUSAL) if continues else []
    if continues:
        others = {*_NOTHING_TO_CAUSAL, *_REFUSED_OF_CAUSAL}
        fields = _Fields({k: v for k, v in raw.items() if k not in others}, vocab_size)
    beams = fields.whole("num_beams", BEAMS)
    length_penalty = fields.real("length_penalty", LENGTH_PENALTY)
    if (beams or 1) > 1 and length_penalty is None:
        length_penalty = 1.0  # transformers' own
    eos_ids = fields.tokens("eos_token_id")
    constraints = _constraints(fields, eos_ids)
    return GenerationDefaults(
        source=source,
        max_length=_longest(fields),
        beams=beams,
        length_penalty=length_penalty,
        early_stopping=fields.choice("early_stopping", (False, True, "never")),
        **_sampling(fields),
        start_id=fields.token("decoder_start_token_id"),
        eos_ids=eos_ids,
        constraints=constraints,
        refused=tuple(fields.refused + _not_done(fields, _REFUSED) + refused),
        stored=json.dumps({key: every.raw[key] for key in sorted(every.read | fields.read)}),
    )


def write_generation(path: Path, config: NetworkConfig, generation: GenerationDefaults) -> None:
    """Writes what a model's files said of generation, for transformers and `read_generation`."""
    ids = {"eos_token_id": config.eos_id}
    if not config.continues_inputs:
        ids |= {"pad_token_id": config.pad_id, "decoder_start_token_id": config.start_id}
    fields = ids | json.loads(generation.stored)
    path.write_text(json.dumps(fields, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _longest(fields: "_Fields") -> int | None:
    """The most tokens to generate; transformers' max_length counts the start token too."""
    new, total = fields.whole("max_new_tokens", TOKENS), fields.whole("max_length", TOKENS)
    return new if new is not None or total is None else max(1, total - 1)


def _sampling(fields: "_Fields") -> dict[str, float | int | None]:
    """Sampling's settings: temperature only if the file says that it samples."""
    temperature = fields.real("temperature", TEMPERATURE)
    top_k, top_p = fields.whole("top_k", TOP_K), fields.real("top_p", TOP_P)
    if not fields.choice("do_sample", (False, True)):
        return {"temperature": None, "top_k": top_k, "top_p": top_p}
    if temperature == 0:
        fields.refused.append(Refusal("do_sample with temperature 0"))
    found = {"temperature": temperature, "top_k": top_k}
    own = {name: value for name, value in found.items() if value is not None}
    return _SAMPLED | own | {"top_p": top_p}


def _constraints(fields: "_Fields", eos_ids: tuple[int, ...]) -> Constraints:
    new, total = fields.whole("min_new_tokens", FEWEST), fields.whole("min_length", FEWEST)
    shortest = max(0, (total or 0) - 1) if new is None else new
    # A bad word that ends every text would never be: transformers takes these out.
    bad_words = [w for w in fields.sequences("bad_words_ids") if w not in [(i,) for i in eos_ids]]
    in_text, in_input = (
        fields.real(f"{where}repetition_penalty", REPETITION_PENALTY) or 1.0
        for where in ("", "encoder_")
    )
    suppressed = [(token,) for token in fields.tokens("suppress_tokens")]
    return Constraints(
        forced_first=fields.token("forced_bos_token_id"),
        forced_last=fields.tokens("forced_eos_token_id"),
        min_length=shortest,
        no_repeat_ngram=fields.whole("no_repeat_ngram_size", FEWEST) or 0,
        encoder_no_repeat_ngram=fields.whole("encoder_no_repeat_ngram_size", FEWEST) or 0,
        repetition_penalty=in_text,
        encoder_repetition_penalty=in_input,
        banned=tuple(sorted({*bad_words, *suppressed})),
        banned_first=fields.tokens("begin_suppress_tokens"),
        length_decay=fields.start_and_factor("exponential_decay_length_penalty"),
        renormalized=fields.choice("renormalize_logits", (False, True)) or False,
    )


def _not_done(
    fields: "_Fields", unknown: Mapping[str, tuple[list[Any], str | None]]
) -> list[Refusal]:
    return [
        Refusal(f"{key} {fields.raw[key]!r}", only)
        for key, (neutral, only) in unknown.items()
        if fields.get(key) is not None and fields.raw[key] not in neutral
    ]


class _Fields:
    """The fields that are not null. One that is not what it should be is refused, and None."""

    def __init__(self, raw: Mapping[str, Any], vocab_size: int):
        self.raw = {key: value for key, value in raw.items() if value is not None}
        self.refused: list[Refusal] = []
        self.read: set[str] = set()
        self._vocab_size = vocab_size

    def get(self, key: str) -> Any:
        """A field's value as it is written; None where there is none."""
        if key in self.raw:
            self.read.add(key)
        return self.raw.get(key)

    def _checked(self, key: str, is_right: bool) -> Any:
        if is_right:
            return self.raw[key]
        self.refused.append(Refusal(f"{key} {self.raw[key]!r}"))
        return None

    def whole(self, key: str, bounds: Bounds) -> int | None:
        if (value := self.get(key)) is None:
            return None
        return self._checked(key, _is_whole(value) and bounds.least <= value <= bounds.most)

    def real(self, key: str, bounds: Bounds) -> float | None:
        if (value := self.get(key)) is None:
            return None
        value = self._checked(key, _is_real(value) and bounds.least <= value <= bounds.most)
        return None if value is None else float(value)

    def choice(self, key: str, choices: tuple[Any, ...]) -> Any:
        if (value := self.get(key)) is None:
            return None
        return self._checked(key, isinstance(value, bool | str) and value in choices)

    def token(self, key: str) -> int | None:
        if (value := self.get(key)) is None:
            return None
        return self._checked(key, self._is_token(value))

    def tokens(self, key: str) -> tuple[int, ...]:
        """One token or a list of them."""
        if (value := self.get(key)) is None:
            return ()
        several = value if isinstance(value, list) else [value]
        return tuple(several) if self._checked(key, all(map(self._is_token, several))) else ()

    def sequences(self, key: str) -> list[tuple[int, ...]]:
        """Lists of tokens, in a list."""
        if (value := self.get(key)) is None:
            return []
        is_list = isinstance(value, list) and all(isinstance(each, list) and each for each in value)
        is_right = is_list and all(self._is_token(token) for each in value for token in each)
        return [tuple(each) for each in value] if self._checked(key, is_right) else []

    def start_and_factor(self, key: str) -> tuple[int, float] | None:
        if (value := self.get(key)) is None:
            return None
        is_pair = isinstance(value, list) and len(value) == 2
        is_right = is_pair and _is_whole(value[0]) and value[0] >= 0 and _is_real(value[1])
        return (value[0], float(value[1])) if self._checked(key, is_right) else None

    def _is_token(self, value: Any) -> bool:
        return _is_whole(value) and 0 <= value < self._vocab_size


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_real(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))
