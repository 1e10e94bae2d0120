"""From what is asked to what the devices need: tokens, prompts, labels, all within the limits."""

from collections.abc import Sequence
from typing import NamedTuple

from prompt_tuning_jax.decoding.text import label_tokens
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.bank import Wanted
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.programs import Programs
from prompt_tuning_jax.serving.requests import Classify, Generate, Request
from prompt_tuning_jax.serving.shapes import IN_FRONT, fitting
from prompt_tuning_jax.serving.waiting import Job, Kind


class Limits(NamedTuple):
    """What a request may ask for.

    Attributes:
      max_input_length: tokens of a text.
      max_tokens: tokens to generate, EOS included.
      max_labels: labels to choose from.
      max_label_tokens: tokens of a label, EOS included.
      max_waiting: requests that wait.
    """

    max_input_length: int
    max_tokens: int
    max_labels: int
    max_label_tokens: int
    max_waiting: int


class Intake:
    """Makes jobs of requests, in the threads of those who ask."""

    def __init__(
        self, model: FrozenModel, library: PromptLibrary, programs: Programs, limits: Limits
    ):
        self._model, self._library = model, library
        self._vocabulary = model.text_vocabulary("serve")
        self._programs, self._limits = programs, limits

    def encode(self, text: str) -> list[int]:
        """The token ids of a text.

        Raises:
          ValueError: there are more than `limits.max_input_length`.
        """
        tokens = self._vocabulary.framed(self._vocabulary.encode(text))
        if len(tokens) > self._limits.max_input_length:
            raise ValueError(
                f"The text has {len(tokens)} tokens, and {self._limits.max_input_length} are the "
                "most that this server takes: shorten it, or start the server with a higher "
                "max_input_length."
            )
        return tokens

    def job(self, request: Request) -> Job:
        prompts = tuple(self._wanted(name) for name in request.prompts)
        way = self.read_as([(one.prompt.visibility, one.prompt.layout) for one in prompts])
        shapes, longest = self._programs.shapes, max([len(p.prompt.values) for p in prompts] or [0])
        self._check(request, len(prompts), longest)
        if not self._programs.reads(way):
            raise ValueError(
                f"This server was not started for prompts with the visibility {way!r}: "
                "start it again, or load the prompt through it."
            )
        room = shapes.prompt_length if way == IN_FRONT else longest
        length = fitting(shapes.lengths_of(way), len(request.tokens) + room)
        if isinstance(request, Generate):
            return Job(request, Kind(length, way, None), prompts)
        labels = label_tokens(request.labels, self._vocabulary)
        if labels.shape[1] > self._limits.max_label_tokens:
            raise ValueError(
                f"A label has {labels.shape[1]} tokens, and this server takes at most "
                f"{self._limits.max_label_tokens}."
            )
        label_length = fitting(shapes.label_lengths, labels.shape[1])
        return Job(request, Kind(length, way, label_length), prompts, labels)

    def _wanted(self, name: str) -> Wanted:
        version = self._library.version(name)  # before the values: these may be newer, not older
        return Wanted(name, version, self._library.get(name))

    def read_as(self, kinds: Sequence[tuple[str, str]]) -> str:
        """How a text is read with prompts of such (visibility, layout); () is without any.

        In front of it, if all of them stand there and see nothing of it; else among its tokens,
        where in a causal model no position sees what comes after it.

        Raises:
          ValueError: they see differently, or there is no such thing in this model.
        """
        config, layouts = self._model.config, [layout for _, layout in kinds]
        ways = {config.visibility_in(layouts, visibility) for visibility, _ in kinds}
        stand_in_front = all(layout == "prefix" for layout in layouts)
        if self._programs.keeps_fronts and stand_in_front and ways == {"isolated"}:
            return IN_FRONT
        if len(ways) > 1 and not config.continues_inputs:
            raise ValueError(f"The prompts of an ensemble must see alike; these see {ways}.")
        if not ways:
            return self._programs.plain
        return "full" if config.continues_inputs else ways.pop()

    def _check(self, request: Request, members: int, prompt_length: int) -> None:
        shapes, limits = self._programs.shapes, self._limits
        if not 0 < len(request.tokens) <= limits.max_input_length:
            raise ValueError(
                f"A text has 1 to {limits.max_input_length} tokens, not {len(request.tokens)}."
            )
        if members > min(shapes.texts[-1], shapes.slots[-1], shapes.prompts):
            raise ValueError(f"{members} prompts are too many for one ensemble on this server.")
        if prompt_length > shapes.prompt_length:
            raise ValueError(
                f"A prompt is {prompt_length} long, and this server was started for prompts of at "
                f"most {shapes.prompt_length}."
            )
        if isinstance(request, Generate) and not (
            0 < request.sampling.max_tokens <= limits.max_tokens
        ):
            raise ValueError(f"max_tokens must be 1 to {limits.max_tokens}.")
        if isinstance(request, Classify) and not 0 < len(request.labels) <= limits.max_labels:
            raise ValueError(f"There must be 1 to {limits.max_labels} labels.")
