"""Between a route and the engine: what was asked for together, and its events as they come."""

import asyncio
import functools
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastapi import Request

from prompt_tuning_jax.data.templates import check_unicode
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.errors import ClientGone, refused
from prompt_tuning_jax.serving.library import PromptLibrary, Unusable
from prompt_tuning_jax.serving.requests import Event, Failed, Token, TooLate
from prompt_tuning_jax.serving.requests import Request as EngineRequest

DEADLINE = "X-Request-Timeout"
_FEW = 8  # requests that are made at once; for more another thread is worth it
_SHORT = 2000  # characters that are made tokens at once
Result = TypeVar("Result")


class Call:
    """The engine's requests of one HTTP request, in the event loop's thread.

    Leaving its `with` cancels what is not finished.
    """

    def __init__(self, engine: Engine, seconds: float):
        self.deadline = time.monotonic() + seconds
        self._engine, self._loop = engine, asyncio.get_running_loop()
        self._events: asyncio.Queue[tuple[int, Event]] = asyncio.Queue()
        self._open: dict[int, EngineRequest] = {}
        self._is_over = False

    def __enter__(self) -> "Call":
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over = True
        for number in list(self._open):
            self.finish(number)

    async def submit(
        self, make: Callable[..., EngineRequest], each: Sequence[Mapping[str, Any]]
    ) -> None:
        """Asks for answers; the events of the i-th have the number i.

        Raises:
          Overloaded, Stopping: the engine takes no more.
          ApiError: the engine cannot do this.
        """
        try:
            if len(each) <= _FEW:
                self._submit(make, each)
            else:
                await asyncio.to_thread(self._submit, make, each)
        except Unusable:
            raise
        except ValueError as error:
            raise refused(error) from error

    def _submit(
        self, make: Callable[..., EngineRequest], each: Sequence[Mapping[str, Any]]
    ) -> None:
        for number, given in enumerate(each):
            if self._is_over:  # while another thread was at it
                break
            tell = functools.partial(self._tell, number)
            request = make(tell=tell, deadline=self.deadline, own=number, **given)
            self._open[number] = request
            self._engine.submit(request)
        if self._is_over:
            self.__exit__()

    def finish(self, number: int) -> None:
        """Nothing more is wanted of a request."""
        if (request := self._open.pop(number, None)) is not None:
            request.cancel()

    async def events(self) -> AsyncIterator[tuple[int, Event]]:
        """(number, event) of what is open, until nothing is.

        Raises:
          TooLate: the deadline passed.
          Exception: what an answer failed of.
        """
        while self._open:
            try:
                async with asyncio.timeout(max(0.0, self.deadline - time.monotonic())):
                    number, event = await self._events.get()
            except TimeoutError as error:
                raise TooLate from error
            if number not in self._open:  # said before the engine knew that it is finished
                continue
            if isinstance(event, Failed):
                raise event.error
            if not isinstance(event, Token):
                del self._open[number]
            yield number, event

    def _tell(self, number: int, event: Event) -> None:
        """Called in the engine's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, (number, event))


async def while_connected(request: Request, answer: Awaitable[Result]) -> Result:
    """The answer; it is given up when the client closes the connection.

    Raises:
      ClientGone
    """
    work = asyncio.ensure_future(answer)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait((work, gone), return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise ClientGone
        return work.result()
    finally:
        for task in (work, gone):
            task.cancel()
        await asyncio.gather(work, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def seconds_left(request: Request, default: float) -> float:
    """How long a request may take: the default, or less where its header says so.

    Raises:
      ApiError: the header is no number of seconds.
    """
    text = request.headers.get(DEADLINE)
    if text is None:
        return default
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise refused(f"{DEADLINE} must be a number of seconds above 0.")
    return min(seconds, default)


async def at_hand(library: PromptLibrary, names: Sequence[str]) -> None:
    """Sees to it that the engine, when it is asked, waits for no disk.

    Raises:
      UnknownPrompt, Unusable
    """
    for name in names:
        if not library.is_at_hand(name):
            await asyncio.to_thread(library.get, name)


async def tokens_of(
    engine: Engine, texts: Sequence[str | list[int]], param: str
) -> list[list[int]]:
    """The tokens of each text, or of what is token ids already, these.

    Raises:
      ApiError: a text is too long, or nothing; or there is no such token.
    """
    made = iter(await encoded(engine, [text for text in texts if isinstance(text, str)], param))
    rows = [next(made) if isinstance(text, str) else text for text in texts]
    size, padding = engine.model.text_vocabulary("serve").size, engine.model.config.pad_id
    most = engine.limits.max_input_length
    for row in rows:
        if not 0 < len(row) <= most:
            raise refused(f"A text has {len(row)} tokens, and 1 to {most} are read here.", param)
        if wrong := [one for one in row if not 0 <= one < size]:
            raise refused(f"There is no token {wrong[0]} in this model.", param)
        if padding in row:
            raise refused(f"The token {padding} is padding, and stands in no text.", param)
    return rows


async def encoded(engine: Engine, texts: Sequence[str], param: str) -> list[list[int]]:
    """The tokens of each text; long ones are made by another thread.

    Raises:
      ApiError: a text is too long, or nothing.
    """

    def encode() -> list[list[int]]:
        return [engine.encode(text) for text in texts]

    try:
        for text in texts:
            check_unicode(text, "a text")
        short = sum(map(len, texts)) <= _SHORT
        rows = encode() if short else await asyncio.to_thread(encode)
    except ValueError as error:
        raise refused(error, param) from error
    if not all(rows):
        raise refused("A text has no tokens: it must not be empty for this model.", param)
    return rows
