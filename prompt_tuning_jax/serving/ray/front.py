"""What clients reach: it sends each request to a replica that holds its prompt, and asks again.

A replica that dies takes its unfinished answers with it. They are asked for once more, of another
one: an answer depends on nothing but its request. Of a stream, what the client has is left out of
the second answer; where a stream draws tokens without a seed, it is given one, so that the second
answer is the first.
"""

import asyncio
import collections
import contextlib
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from prompt_tuning_jax.serving.http.calls import DEADLINE, seconds_left
from prompt_tuning_jax.serving.http.errors import (
    ApiError,
    as_api_error,
    error_body,
    error_response,
)
from prompt_tuning_jax.serving.ray.asgi import Asked

_TRIES = 4
# Route -> the field of a request's body that names its prompt.
_NAMED = {"/v1/completions": "model", "/v1/classify": "prompt"}
_CHANGING = "/v1/prompts/"
_HEALTH = {"/healthz": "ok", "/readyz": "ready"}
_DONE = b"data: [DONE]\n\n"
_AGAIN = (429, 503)  # answers that another replica need not give


class Gone(Exception):
    """The replica that was asked is no more."""


class Front:
    """The way from clients to the replicas, as an ASGI application.

    Args:
      ask: a replica's messages in answer to a request; raises `Gone`.
      refresh: has all replicas look at the folder of prompts.
      seconds: that a request may take.
      room: how many requests may be under way.

    Attributes:
      under_way: how many are.
    """

    def __init__(
        self,
        ask: Callable[[Asked], AsyncIterator[Message]],
        refresh: Callable[[], Awaitable[None]],
        seconds: float,
        room: int,
    ):
        self._ask, self._refresh = ask, refresh
        self._seconds, self._room = seconds, room
        self._is_closed = False
        self._changes: set[asyncio.Task[Response]] = set()
        self.under_way = 0

    def close(self) -> None:
        """Takes no more requests; what is under way goes on."""
        self._is_closed = True

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] in _HEALTH:
            await JSONResponse({"status": _HEALTH[scope["path"]]})(scope, receive, send)
            return
        self.under_way += 1
        try:
            try:
                response = await self._respond(Request(scope, receive))
            except (ApiError, TimeoutError) as error:
                response = error_response(error)
            await response(scope, receive, send)
        finally:
            self.under_way -= 1

    async def _respond(self, request: Request) -> Response:
        if self._is_closed:
            told = "The server is stopping."
            raise ApiError(503, told, code="stopping", headers={"Retry-After": "5"})
        if self.under_way > self._room:
            told = f"{self._room} requests are under way already: try again later."
            raise ApiError(429, told, code="overloaded", headers={"Retry-After": "1"})
        clock = asyncio.get_running_loop().time
        deadline = clock() + seconds_left(request, self._seconds)
        asked = await _read(request)
        if not _changes(asked):
            return await self._answer(asked, deadline)
        # A client that leaves does not leave a change to one replica alone.
        work = asyncio.ensure_future(self._change(asked, deadline))
        self._changes.add(work)
        work.add_done_callback(self._changes.discard)
        return await asyncio.shield(work)

    async def _change(self, asked: Asked, deadline: float) -> Response:
        try:
            return await self._answer(asked, deadline)
        finally:
            await self._refresh()

    async def _answer(self, asked: Asked, deadline: float) -> Response:
        """Whoever it comes from: what is no stream is sent once all of it is here."""
        for _ in range(1 if _changes(asked) else _TRIES):
            messages = self._ask(_with_time(asked, deadline))
            try:
                async with asyncio.timeout_at(deadline):
                    start = await anext(messages)
                    if _is_stream(start):
                        events = self._events(asked, deadline, messages)
                        response: Response = StreamingResponse(events, start["status"])
                    else:
                        parts = [message.get("body", b"") async for message in messages]
                        response = Response(b"".join(parts), start["status"])
            except Gone:
                continue
            response.raw_headers = list(start["headers"])
            return response
        raise _gone()

    async def _events(
        self, asked: Asked, deadline: float, messages: AsyncIterator[Message]
    ) -> AsyncIterator[bytes]:
        """A stream's, whichever replicas they come from."""
        sent = _Sent()
        error: Exception = _gone()
        for _ in range(_TRIES):
            try:
                async with contextlib.aclosing(_until(deadline, messages)) as events:
                    async for event in events:
                        if event := sent.new(event):
                            yield event
                        if event == _DONE:
                            return
                return
            except Gone:
                sent.begin_again()
            except _NoStream as other:
                error = other.error
                if error.status not in _AGAIN:
                    break
                sent.begin_again()
            except TimeoutError as late:
                error = late
                break
            messages = self._ask(_with_time(asked, deadline))
        yield f"data: {json.dumps(error_body(as_api_error(error)))}\n\n".encode()


class _NoStream(Exception):
    """What was to go on as a stream began as an error."""

    def __init__(self, status: int, body: bytes):
        facts = _object(body).get("error", {})
        self.error = ApiError(status, facts.get("message", ""), code=facts.get("code"))


async def _until(deadline: float, messages: AsyncIterator[Message]) -> AsyncGenerator[bytes, None]:
    """The events of a stream that may have begun; raises TimeoutError at the deadline.

    Raises:
      _NoStream: it begins as something else.
    """
    status, parts = None, []
    while True:
        async with asyncio.timeout_at(deadline):
            message = await anext(messages, None)
        if message is None:
            break
        if message["type"] == "http.response.start":
            status = None if _is_stream(message) else message["status"]
        elif status is not None:
            parts.append(message.get("body", b""))
        elif body := message.get("body", b""):
            yield body
    if status is not None:
        raise _NoStream(status, b"".join(parts))


class _Sent:
    """What of a stream a client has, also when another replica begins it anew.

    Each event is a part of one answer, or of none. Those of an answer come in the same order.
    """

    def __init__(self) -> None:
        self._events: list[bytes] = []
        self._known: collections.Counter[Any] = collections.Counter()
        self._first: dict[str, Any] = {}

    def begin_again(self) -> None:
        facts = [_facts(event) for event in self._events]
        self._known = collections.Counter(map(_answer_of, facts))
        first = facts[0] if facts else {}
        self._first = {name: first[name] for name in ("id", "created") if name in first}

    def new(self, event: bytes) -> bytes:
        """The event as the client is to have it; nothing, where it has it."""
        if self._known:
            facts = _facts(event)
            answer = _answer_of(facts)
            self._known[answer] -= 1
            if self._known[answer] >= 0:
                return b""
            if facts:
                event = f"data: {json.dumps(facts | self._first, ensure_ascii=False)}\n\n".encode()
        self._events.append(event)
        return event


def _facts(event: bytes) -> dict[str, Any]:
    return _object(event.removeprefix(b"data: "))


def _answer_of(facts: dict[str, Any]) -> Any:
    choices = facts.get("choices")
    return choices[0]["index"] if choices else None


async def _read(request: Request) -> Asked:
    path, body = request.scope["path"], await request.body()
    facts = _object(body) if path in _NAMED else {}
    if facts.get("stream") is True and facts.get("seed") is None and facts.get("temperature"):
        body = json.dumps({**facts, "seed": secrets.randbits(31)}).encode()
    name = facts.get(_NAMED.get(path, ""))
    left_out = (b"content-length", b"transfer-encoding", DEADLINE.lower().encode())
    headers = [pair for pair in request.headers.raw if pair[0] not in left_out]
    headers.append((b"content-length", str(len(body)).encode()))
    return Asked(
        request.method,
        path,
        request.scope["query_string"],
        headers,
        body,
        name if isinstance(name, str) else None,
    )


def _with_time(asked: Asked, deadline: float) -> Asked:
    """Saying how much is left of it."""
    left = max(deadline - asyncio.get_running_loop().time(), 1e-3)
    time = (DEADLINE.lower().encode(), f"{left:.3f}".encode())
    return asked._replace(headers=[*asked.headers, time])


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
    kinds = [value for name, value in start["headers"] if name == b"content-type"]
    return any(kind.startswith(b"text/event-stream") for kind in kinds)


def _gone() -> ApiError:
    told = "The replica that was to answer is gone: try again."
    return ApiError(503, told, code="replica_gone", headers={"Retry-After": "1"})
