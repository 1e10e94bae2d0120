"""/v1/classify: labels with probabilities, by the prompt's own labels or others."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from prompt_tuning_jax.data.templates import Template, check_unicode, words_of
from prompt_tuning_jax.evaluation.answers import Answer
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.calls import (
    Call,
    at_hand,
    encoded,
    seconds_left,
    while_connected,
)
from prompt_tuning_jax.serving.http.errors import documented, refused
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.http.metrics import Metrics
from prompt_tuning_jax.serving.library.description import Description
from prompt_tuning_jax.serving.requests import Classify, Ranked


class ClassifyRequest(BaseModel):
    """Texts, and who chooses among which labels."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str = Field(description="A prompt or an ensemble; `base` for the model without one.")
    texts: list[str | dict[str, Any]] = Field(
        min_length=1,
        description="Texts as they are; or records, of which the prompt's own input template "
        "makes texts.",
    )
    labels: list[str] | None = Field(
        None, min_length=1, description="The labels to choose from; null for the prompt's own."
    )


class Classified(BaseModel):
    """The answer to a text."""

    index: int
    label: str = Field(description="The likeliest; of an ensemble, what most members choose.")
    probabilities: dict[str, float] = Field(description="Of the labels; their sum is 1.")
    scores: dict[str, float] = Field(
        description="The log-probability of each label's tokens; of an ensemble, the mean."
    )
    votes: dict[str, int] | None = Field(description="Of an ensemble's members, else null.")


class ClassifyUsage(BaseModel):
    """Tokens of the texts."""

    prompt_tokens: int


class Classification(BaseModel):
    """The answers, in order."""

    prompt: str
    labels: list[str]
    data: list[Classified]
    usage: ClassifyUsage


def classification_routes(engine: Engine, settings: HttpSettings, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["classification"])

    @router.post(
        "/v1/classify",
        response_model=Classification,
        responses=documented(422, 429, 500, 503, 504),
        summary="Chooses a label for each text",
    )
    async def classify(asked: ClassifyRequest, request: Request) -> Any:
        if len(asked.texts) > settings.max_texts:
            raise refused(f"A request may have {settings.max_texts} texts.", "texts")
        prompts = engine.library.members(asked.prompt)
        known = engine.library.describe(asked.prompt)
        labels = _labels(engine, asked, known)
        texts = [_text(text, i, known) for i, text in enumerate(asked.texts)]
        with Call(engine, seconds_left(request, settings.timeout)) as call:
            work = _classified(engine, call, texts, prompts, labels)
            answers, read = await while_connected(request, work)
        metrics.read.inc(read)
        data = [_facts(i, answer, len(prompts) > 1) for i, answer in enumerate(answers)]
        return JSONResponse(
            {
                "prompt": asked.prompt,
                "labels": list(labels),
                "data": data,
                "usage": {"prompt_tokens": read},
            }
        )

    return router


async def _classified(
    engine: Engine,
    call: Call,
    texts: Sequence[str],
    prompts: tuple[str, ...],
    labels: Sequence[str],
) -> tuple[list[Answer], int]:
    """The answers, and how many tokens were read for them."""
    rows = await encoded(engine, texts, "texts")
    await at_hand(engine.library, prompts)
    each = [{"tokens": row, "prompts": prompts, "labels": labels} for row in rows]
    await call.submit(Classify, each)
    answers: dict[int, Answer] = {}
    async for number, event in call.events():
        if isinstance(event, Ranked):
            answers[number] = event.answer
    return [answers[number] for number in range(len(rows))], sum(map(len, rows))


def _labels(engine: Engine, asked: ClassifyRequest, known: Description) -> tuple[str, ...]:
    """The labels to choose from; whether the model can tell them apart, the engine says."""
    labels = known.labels if asked.labels is None else asked.labels
    if not labels:
        raise refused(f"{asked.prompt} has no labels of its own: give labels.", "labels")
    most = engine.limits.max_labels
    if len(labels) > most:
        raise refused(f"A request may have {most} labels, not {len(labels)}.", "labels")
    try:
        words = words_of(labels)
        for word in words:
            check_unicode(word, "a label")
    except ValueError as error:
        raise refused(error, "labels") from error
    return words


def _text(given: str | dict[str, Any], number: int, known: Description) -> str:
    """The text itself, or what the prompt's template makes of a record."""
    if isinstance(given, str):
        return given
    if known.input_template is None:
        raise refused(
            f"texts[{number}] is a record, and {known.name} has no input template: give a text.",
            "texts",
        )
    try:
        return Template(known.input_template).render(given, known.missing, may_drop=False)
    except ValueError as error:
        raise refused(f"texts[{number}]: {error}", "texts") from error


def _facts(number: int, answer: Answer, is_ensemble: bool) -> dict[str, Any]:
    scores = answer.scores or {}
    values = np.array(list(scores.values()))
    shares = np.exp(values - values.max())
    shares = shares / shares.sum()
    return {
        "index": number,
        "label": answer.prediction,
        "probabilities": dict(zip(scores, shares.tolist(), strict=True)),
        "scores": scores,
        "votes": answer.votes if is_ensemble else None,
    }
