"""A small engine over prompts in memory, and requests whose answers can be waited for."""

import queue

import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.requests import (
    Classify,
    Failed,
    Finished,
    Generate,
    Ranked,
    Sampling,
)
from prompt_tuning_jax.serving.shapes import Shapes

SHAPES = Shapes(
    texts=(1, 4),
    lengths=(16, 32, 48),
    slots=(2, 4),
    max_tokens=12,
    labels=2,
    label_lengths=(4,),
    prompts=4,
    prompt_length=8,
    front_lengths=(16, 32, 48),
)
LIMITS = {"max_labels": 8, "max_waiting": 100}


class Shelf:
    """Prompts by name, and ensembles as tuples of names."""

    def __init__(self, prompts: dict):
        self.prompts, self.versions = prompts, dict.fromkeys(prompts, 0)

    def members(self, name):
        found = self.prompts[name]
        return found if isinstance(found, tuple) else (name,)

    def version(self, name):
        return self.versions[name]

    def get(self, name):
        return self.prompts[name]

    def replace(self, name, prompt):
        self.prompts[name] = prompt
        self.versions[name] += 1


class Answer:
    """What a request is told, in order."""

    def __init__(self):
        self.events = queue.SimpleQueue()

    def all(self, timeout=120):
        found = []
        while not found or not isinstance(found[-1], Finished | Ranked | Failed):
            found.append(self.events.get(timeout=timeout))
        return found

    def tokens(self):
        *tokens, end = self.all()
        assert isinstance(end, Finished), end
        return [token.id for token in tokens], sum(token.log_prob for token in tokens)

    def ranked(self):
        (event,) = self.all()
        assert isinstance(event, Ranked), event
        return event.answer


def generate(engine: Engine, text: str, prompts=(), deadline=None, **sampling):
    answer = Answer()
    how = Sampling(**{"max_tokens": SHAPES.max_tokens} | sampling)
    request = Generate(
        tokens=engine.encode(text),
        prompts=tuple(prompts),
        tell=answer.events.put,
        sampling=how,
        deadline=deadline,
    )
    engine.submit(request)
    return answer, request


def classify(engine: Engine, text: str, labels, prompts=()):
    answer = Answer()
    request = Classify(
        tokens=engine.encode(text), prompts=tuple(prompts), tell=answer.events.put, labels=labels
    )
    engine.submit(request)
    return answer, request


def random_prompts(width: int) -> dict:
    """Prompts of several lengths, layouts and visibilities."""
    kinds = [
        (3, "prefix", "full"),
        (8, "prefix", "full"),
        (1, "suffix_before_eos", "full"),
        (5, "after_bos", "full"),
        (4, "prefix", "isolated"),
        (6, "prefix", "full"),
        (3, "after_bos", "isolated"),
        (5, "suffix", "isolated"),
    ]
    rng = np.random.default_rng(0)
    return {
        f"p{i}": pt.TunedPrompt(rng.normal(size=(length, width)), layout, {}, visibility)
        for i, (length, layout, visibility) in enumerate(kinds)
    }
