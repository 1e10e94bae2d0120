"""load_test.py's clients: what is asked, how, and what came of it.

They are as small as can be, for they share the machine with the server.
"""

import asyncio
import json
import random
import time
from collections.abc import Awaitable
from typing import Any, NamedTuple

PLACES = ("the Wild Bear", "a small inn", "my aunt's house", "the old mill", "a noisy canteen")
WORDS = ("remarkable", "rude", "tired", "cheerful", "late", "kind", "asleep", "proud")
MAX_TOKENS = 8


class Ask(NamedTuple):
    """A request: a completion, or a text whose labels are ranked."""

    prompt: str
    text: str
    is_completion: bool

    @property
    def path(self) -> str:
        return "/v1/completions" if self.is_completion else "/v1/classify"

    @property
    def body(self) -> bytes:
        if self.is_completion:
            asked = {"model": self.prompt, "prompt": self.text, "max_tokens": MAX_TOKENS}
        else:
            asked = {"prompt": self.prompt, "texts": [self.text]}
        return json.dumps(asked).encode()


class Reply(NamedTuple):
    """What came of a request, and the seconds that it took."""

    status: int
    answer: Any
    seconds: float


def asks(count: int, prompts: int, seed: int = 0) -> list[Ask]:
    """Requests for prompts p0, p1, ..., of which there are so many."""
    rng = random.Random(seed)
    return [
        Ask(
            f"p{rng.randrange(prompts)}",
            f"I dined at {rng.choice(PLACES)} on day {i}, and the cook was {rng.choice(WORDS)}.",
            rng.random() < 0.5,
        )
        for i in range(count)
    ]


class Connection:
    """One that is kept open."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask) -> Reply:
        return await self.send("POST", ask.path, ask.body)

    async def send(
        self, method: str, path: str, body: bytes, kind: str = "application/json"
    ) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        started = time.perf_counter()
        writer.write(head(method, path, kind, len(body)) + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(headers.get("content-length", 0)))
        seconds = time.perf_counter() - started
        return Reply(int(lines[0].split()[1]), json.loads(content) if content else None, seconds)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


def head(method: str, path: str, kind: str, length: int) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"Content-Type: {kind}"]
    return "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode()


async def closed_loop(port: int, wanted: list[Ask], clients: int) -> list[Reply]:
    """Each client asks again as soon as it is answered."""
    left, replies = iter(enumerate(wanted)), [None] * len(wanted)

    async def client() -> None:
        connection = Connection(port)
        for i, ask in left:
            replies[i] = await connection.ask(ask)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return replies


async def open_loop(port: int, wanted: list[Ask], rate: float) -> list[Reply]:
    """Requests come at random times, `rate` a second, whether or not others are answered."""
    rng, idle = random.Random(0), []

    async def one(ask: Ask) -> Reply:
        connection = idle.pop() if idle else Connection(port)
        reply = await connection.ask(ask)
        idle.append(connection)
        return reply

    tasks, due = [], time.perf_counter()
    for ask in wanted:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.append(asyncio.create_task(one(ask)))
    replies = await asyncio.gather(*tasks)
    for connection in idle:
        connection.close()
    return replies


async def first_token(port: int, ask: Ask, is_read_on: bool = True) -> Reply:
    """A stream up to its first event; then it is read to its end, or left there."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(json.loads(ask.body) | {"stream": True}).encode()
    started = time.perf_counter()
    writer.write(head("POST", ask.path, "application/json", len(body)) + body)
    status = int((await reader.readuntil(b"\r\n\r\n")).split()[1])
    if status == 200:
        await reader.readuntil(b"data: ")
    seconds = time.perf_counter() - started
    if status == 200 and is_read_on:
        await reader.readuntil(b"data: [DONE]")
    writer.close()
    return Reply(status, None, seconds)


def summary(replies: list[Reply], seconds: float) -> dict[str, Any]:
    took = sorted(reply.seconds for reply in replies if reply.status == 200)
    statuses = [reply.status for reply in replies]
    return {
        "requests": len(replies),
        "a_second": round(len(took) / seconds, 1),
        "p50_ms": round(1e3 * took[len(took) // 2], 1) if took else None,
        "p99_ms": round(1e3 * took[int(0.99 * len(took))], 1) if took else None,
        "statuses": {str(each): statuses.count(each) for each in sorted(set(statuses))},
    }


def timed(run: Awaitable[list[Reply]]) -> dict[str, Any]:
    started = time.perf_counter()
    replies = asyncio.run(run)
    return summary(replies, time.perf_counter() - started)
