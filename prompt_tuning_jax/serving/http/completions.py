"""OpenAI's /v1/completions: `model` names the prompt that answers."""

import contextlib
import json
import secrets
import time
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.types import Receive, Scope, Send

from prompt_tuning_jax.bounds import SEED, TEMPERATURE, TOP_K, TOP_P
from prompt_tuning_jax.serving.choosing import MOST_TOLD
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.answer import Answer
from prompt_tuning_jax.serving.http.calls import (
    Call,
    at_hand,
    seconds_left,
    tokens_of,
    while_connected,
)
from prompt_tuning_jax.serving.http.errors import (
    as_api_error,
    documented,
    error_body,
    refused,
)
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.http.metrics import Metrics
from prompt_tuning_jax.serving.http.text_stream import TextStream
from prompt_tuning_jax.serving.requests import Finished, Generate, Sampling, Token

Stop = Annotated[str, Field(min_length=1, max_length=1000)]
_TOKENS = 16  # of an answer, where a request does not say
# OpenAI's fields that are not done here -> the values by which they ask for nothing.
_NOT_DONE: Mapping[str, tuple[Any, ...]] = {
    "best_of": (None, 1),
    "echo": (None, False),
    "frequency_penalty": (None, 0),
    "logit_bias": (None, {}),
    "presence_penalty": (None, 0),
    "suffix": (None, ""),
}


class StreamOptions(BaseModel):
    """How a stream is sent."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = Field(False, description="Count the tokens in a last chunk.")
    include_obfuscation: bool | None = Field(None, description="Accepted, and of no effect.")


class CompletionRequest(BaseModel):
    """What to go on from, or to answer, and how."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    model: str = Field(description="A prompt or an ensemble; `base` for the model without one.")
    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="The text, or several; or token ids, as the model reads them.", min_length=0
    )
    max_tokens: int | None = Field(None, ge=1, description="The most tokens of an answer; 16.")
    temperature: float | None = Field(
        0.0,
        ge=TEMPERATURE.least,
        le=TEMPERATURE.most,
        description="0 takes the likeliest token; unlike at OpenAI, that is the default.",
    )
    top_p: float | None = Field(1.0, ge=TOP_P.least, le=TOP_P.most)
    top_k: int | None = Field(0, ge=0, le=TOP_K.most, description="Not OpenAI's; 0 for all.")
    n: int | None = Field(1, ge=1, le=128, description="How many answers to each text.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = None
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    logprobs: int | None = Field(
        None,
        ge=0,
        le=MOST_TOLD,
        description="Log-probabilities of the tokens that are chosen, and of so many likeliest.",
    )
    seed: int | None = Field(None, ge=SEED.least, le=SEED.most)
    user: str | None = Field(None, description="Accepted, and of no effect.")
    best_of: int | None = Field(None, description="Not done: null, 1 or `n`.")
    echo: bool | None = Field(None, description="Not done.")
    frequency_penalty: float | None = Field(None, description="Not done: null or 0.")
    presence_penalty: float | None = Field(None, description="Not done: null or 0.")
    logit_bias: dict[str, float] | None = Field(None, description="Not done: null or {}.")
    suffix: str | None = Field(None, description="Not done.")

    @property
    def texts(self) -> Sequence[str | list[int]]:
        """Texts, or their token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [each for each in self.prompt if isinstance(each, int)]
        return [ids] if ids else [each for each in self.prompt if not isinstance(each, int)]

    @property
    def stops(self) -> list[str]:
        return [self.stop] if isinstance(self.stop, str) else self.stop or []

    def check(self, limits: Any, settings: HttpSettings) -> None:
        """Refuses, with an ApiError, what is not done here, and too much."""
        for name, nothing in _NOT_DONE.items():
            value = getattr(self, name)
            if value not in nothing and not (name == "best_of" and value == self.n):
                raise refused(f"{name} is not done here: leave it out.", name)
        if self.stream_options is not None and not self.stream:
            raise refused("stream_options are for a stream.", "stream_options")
        if not self.texts:
            raise refused("prompt holds no text.", "prompt")
        if len(self.texts) * (self.n or 1) > settings.max_texts:
            raise refused(f"A request may have {settings.max_texts} answers: ask again.", "n")
        if (self.max_tokens or 1) > limits.max_tokens:
            raise refused(
                f"max_tokens is at most {limits.max_tokens} here, not {self.max_tokens}.",
                "max_tokens",
            )


class Logprobs(BaseModel):
    """Of the tokens that were chosen; `tokens` joined are the text, its stop string included.

    `top_logprobs` has the likeliest tokens in each one's place, and itself.
    """

    tokens: list[str]
    token_logprobs: list[float]
    text_offset: list[int]
    top_logprobs: list[dict[str, float]] | None = None


class Choice(BaseModel):
    """An answer, or in a stream the next part of one."""

    index: int
    text: str
    finish_reason: Literal["stop", "length"] | None
    logprobs: Logprobs | None


class Usage(BaseModel):
    """Tokens of the texts, and of the answers without the one that ends them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The answers; in a stream, a part of one."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[Choice]
    usage: Usage | None = None


class _Completions:
    """The answers to one request."""

    def __init__(self, engine: Engine, metrics: Metrics, asked: CompletionRequest, call: Call):
        self._engine, self._metrics, self._asked, self._call = engine, metrics, asked, call
        self._started = time.perf_counter()
        self._answers: list[Answer] = []
        self._read = 0
        self._head = {
            "id": f"cmpl-{uuid.uuid4().hex}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": asked.model,
        }

    async def begin(self, prompts: tuple[str, ...]) -> None:
        """Asks the engine for all answers, or, where it does not take all, for none."""
        asked, engine = self._asked, self._engine
        rows = await tokens_of(engine, asked.texts, "prompt")
        await at_hand(engine.library, prompts)
        self._read = sum(map(len, rows))
        seed = secrets.randbits(32) if asked.seed is None else asked.seed
        vocabulary = engine.model.text_vocabulary("serve")
        copies, each = asked.n or 1, []
        for number in range(len(rows) * copies):
            sampling = Sampling(
                max_tokens=asked.max_tokens or min(_TOKENS, engine.limits.max_tokens),
                temperature=asked.temperature or 0.0,
                top_k=asked.top_k or 0,
                top_p=1.0 if asked.top_p is None else asked.top_p,
                seed=seed,
                number=number,
                told=asked.logprobs or 0,
            )
            row = rows[number // copies]
            each.append({"tokens": row, "prompts": prompts, "sampling": sampling})
            stream = TextStream(vocabulary, asked.stops)
            self._answers.append(Answer(number, stream, asked.logprobs))
        await self._call.submit(Generate, each)
        self._metrics.read.inc(self._read)

    async def parts(self) -> AsyncIterator[tuple[Answer, str]]:
        """(answer, what is new of its text), as it comes."""
        ends = {self._engine.model.config.eos_id, *self._engine.model.generation.eos_ids}
        is_first = True
        async for number, event in self._call.events():
            answer = self._answers[number]
            if is_first:
                self._metrics.first_token.observe(time.perf_counter() - self._started)
                is_first = False
            if isinstance(event, Token) and event.id not in ends:
                self._metrics.written.inc()
                yield answer, answer.add(event)
                if answer.is_stopped:
                    self._call.finish(number)
            elif isinstance(event, Finished):
                yield answer, answer.finish(event.reason)

    async def whole(self, prompts: tuple[str, ...]) -> dict[str, Any]:
        await self.begin(prompts)
        texts: dict[Answer, list[str]] = {answer: [] for answer in self._answers}
        async for answer, text in self.parts():
            texts[answer].append(text)
        choices = [answer.choice("".join(parts)) for answer, parts in texts.items()]
        return {**self._head, "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[str]:
        """The stream, as server-sent events."""
        options = self._asked.stream_options
        with_usage = options is not None and bool(options.include_usage)
        usage: dict[str, Any] = {"usage": None} if with_usage else {}
        try:
            async for answer, text in self.parts():
                if text or answer.reason or self._asked.logprobs is not None:
                    yield _event({**self._head, "choices": [answer.choice(text)], **usage})
        except Exception as error:  # the status has been sent: what is left is to say it
            yield _event(error_body(as_api_error(error)))
            return
        if with_usage:
            yield _event({**self._head, "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    def _usage(self) -> dict[str, int]:
        written = sum(answer.count for answer in self._answers)
        total = self._read + written
        return {
            "prompt_tokens": self._read,
            "completion_tokens": written,
            "total_tokens": total,
        }


class _EventStream(StreamingResponse):
    """A stream whose requests are over with it, also where it never began."""

    media_type = "text/event-stream"

    def __init__(self, call: Call, chunks: AsyncIterator[str]):
        super().__init__(chunks, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        self._call = call

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._call:
            await super().__call__(scope, receive, send)


def completion_routes(engine: Engine, settings: HttpSettings, metrics: Metrics) -> APIRouter:
    router = APIRouter(tags=["completions"])

    @router.post(
        "/v1/completions",
        response_model=Completion,
        responses=documented(422, 429, 500, 503, 504)
        | {200: {"content": {_EventStream.media_type: {}}}},
        summary="Answers to texts, whole or as a stream of server-sent events",
    )
    async def complete(asked: CompletionRequest, request: Request) -> Any:
        asked.check(engine.limits, settings)
        prompts = engine.library.members(asked.model)
        call = Call(engine, seconds_left(request, settings.timeout))
        completions = _Completions(engine, metrics, asked, call)
        if not asked.stream:
            with call:
                return JSONResponse(await while_connected(request, completions.whole(prompts)))
        with contextlib.ExitStack() as stack:
            stack.enter_context(call)
            await completions.begin(prompts)
            stack.pop_all()  # from here on it is the stream's
        return _EventStream(call, completions.chunks())

    return router


def _event(facts: Mapping[str, Any]) -> str:
    return f"data: {json.dumps(facts, ensure_ascii=False, allow_nan=False)}\n\n"
