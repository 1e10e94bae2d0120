"""What clients reach: it sends each request to a replica that holds its prompt, and asks again.

A replica that dies takes its unfinished answers with it. They are asked for once more, of another
one: an answer depends on nothing but its request. Of a stream, what the client has is left out of
the second answer; where a stream draws tokens without a seed, it is given one, so that the second
answer is the first.
"""

import collections
import json
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Message

from prompt_tuning_jax.serving.http.errors import ApiError, error_body, error_response
from prompt_tuning_jax.serving.ray.asgi import Asked

_TRIES = 4
# Route -> the field of a request's body that names its prompt.
_NAMED = {"/v1/completions": "model", "/v1/classify": "prompt"}
_CHANGING = "/v1/prompts/"
_EVENTS = b"text/event-stream"


class Gone(Exception):
    """The replica that was asked is no more."""


class Front:
    """The way from a client to the replicas.

    Args:
      ask: a replica's messages in answer to a request; raises `Gone`.
      refresh: has all replicas look at the folder of prompts.
      most: bytes that a request may have.
    """

    def __init__(
        self,
        ask: Callable[[Asked], AsyncIterator[Message]],
        refresh: Callable[[], Awaitable[None]],
        most: int,
    ):
        self._ask, self._refresh, self._most = ask, refresh, most

    async def respond(self, request: Request) -> Response:
        """The answer, which is a stream where the replica's is one."""
        try:
            asked = await self._read(request)
            response = await self._answer(asked)
            if _changes(asked) and response.status_code < 300:
                await self._refresh()
            return response
        except ApiError as error:
            return error_response(error)

    async def _read(self, request: Request) -> Asked:
        parts, size = [], 0
        async for part in request.stream():
            size += len(part)
            if size > self._most:
                told = f"The body may have {self._most} bytes."
                raise ApiError(413, told, headers={"Connection": "close"})
            parts.append(part)
        path, body = request.url.path, b"".join(parts)
        facts = _object(body) if path in _NAMED else {}
        if facts.get("stream") is True and facts.get("seed") is None and facts.get("temperature"):
            body = json.dumps({**facts, "seed": secrets.randbits(31)}).encode()
        name = facts.get(_NAMED.get(path, ""))
        headers = [pair for pair in request.headers.raw if pair[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        return Asked(
            request.method,
            path,
            request.url.query.encode(),
            headers,
            body,
            name if isinstance(name, str) else None,
        )

    async def _answer(self, asked: Asked) -> Response:
        """Whoever it comes from: what is no stream is sent once all of it is here."""
        for _ in range(1 if _changes(asked) else _TRIES):
            messages = self._ask(asked)
            try:
                start = await anext(messages)
                if _is_stream(start):
                    events = self._events(asked, messages)
                    response: Response = StreamingResponse(events, start["status"])
                else:
                    parts = [message.get("body", b"") async for message in messages]
                    response = Response(b"".join(parts), start["status"])
            except Gone:
                continue
            response.raw_headers = list(start["headers"])
            return response
        raise _gone()

    async def _events(self, asked: Asked, messages: AsyncIterator[Message]) -> AsyncIterator[bytes]:
        """A stream's, whichever replicas they come from."""
        sent: list[bytes] = []
        for _ in range(_TRIES):
            left_out = _Known(sent)
            try:
                async for message in messages:
                    if event := message.get("body", b""):
                        if left_out.has(event):
                            continue
                        sent.append(event)
                        yield event
                return
            except Gone:
                messages = self._ask(asked)
        yield f"data: {json.dumps(error_body(_gone()))}\n\n".encode()


class _Known:
    """Which of a stream's events a client has already, of one that began anew after `sent`.

    Each event is a part of one answer, or of none. Those of an answer come in the same order.
    """

    def __init__(self, sent: Sequence[bytes]):
        self._left = collections.Counter(map(_answer_of, sent))

    def has(self, event: bytes) -> bool:
        if not self._left:
            return False
        answer = _answer_of(event)
        self._left[answer] -= 1
        return self._left[answer] >= 0


def _answer_of(event: bytes) -> Any:
    choices = _object(event.removeprefix(b"data: ")).get("choices")
    return choices[0]["index"] if choices else None


def _object(body: bytes) -> dict[str, Any]:
    """A JSON object; empty where it is none: then the replica says what is wrong."""
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _changes(asked: Asked) -> bool:
    return asked.method not in ("GET", "HEAD", "OPTIONS") and asked.path.startswith(_CHANGING)


def _is_stream(start: Message) -> bool:
    return any(
        name == b"content-type" and value.startswith(_EVENTS) for name, value in start["headers"]
    )


def _gone() -> ApiError:
    told = "The replica that was to answer is gone: try again."
    return ApiError(503, told, code="replica_gone", headers={"Retry-After": "1"})
