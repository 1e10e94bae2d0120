"""An application's answer to one request, without a network between."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import NamedTuple

from starlette.types import ASGIApp, Message, Scope

Headers = list[tuple[bytes, bytes]]


class Asked(NamedTuple):
    """A request as it came.

    Attributes:
      body: all of it.
      prompt: the name of the prompt that it asks for; None: none, or it does not say.
    """

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes
    prompt: str | None


async def answer(app: ASGIApp, asked: Asked) -> AsyncIterator[Message]:
    """The messages that the application sends, as they come.

    Leaving the iterator early is to the application what a client is that closes its connection.
    """
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    is_over = asyncio.Event()
    parts = [{"type": "http.request", "body": asked.body, "more_body": False}]

    async def receive() -> Message:
        if parts:
            return parts.pop()
        await is_over.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(_scope(asked), receive, messages.put)
        finally:
            messages.put_nowait(None)

    work = asyncio.ensure_future(run())
    try:
        while (message := await messages.get()) is not None:
            yield message
        await work  # for its error
    finally:
        is_over.set()
        work.cancel()
        with contextlib.suppress(asyncio.CancelledError, Exception):
            await work


def _scope(asked: Asked) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": asked.method,
        "scheme": "http",
        "path": asked.path,
        "raw_path": asked.path.encode(),
        "query_string": asked.query,
        "root_path": "",
        "headers": asked.headers,
        "client": None,
        "server": None,
        "state": {},
    }
