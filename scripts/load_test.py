"""How a server holds out: throughput, latency under offered load, and whether answers are right.

    python scripts/load_test.py --output scripts/results/serving.json             # 15 minutes
    python scripts/load_test.py --parts throughput right --requests 10000 --output runs/load.json

The server is a process of its own, `prompt-tuning serve`, on this machine, where the clients are
too; what they cost is part of the figures. Its prompts are the bundled ones with a little noise,
as many as a part needs. Half of the requests are completions, half rank labels.

    throughput   64 clients that ask again as soon as they are answered, against `infer` of one
                 text after the other in a process that has the model loaded
    prompts      the same with 1, 10, 1,000 and 10,000 different prompts
    offered      an open loop: requests come at random times, however long answers take; latency at
                 a share of what the server can do, and the time to the first token
    overload     three times as much as it can do: what is accepted keeps its latency, the rest is
                 told so at once
    peft         100 prompts mixed, completions alone, against load_test_peft.py: PEFT in a FastAPI
                 handler that switches adapters; only with --torch_python
    right        many mixed requests, each compared with the model's answer to that text alone

--output is written after each part, and what it holds is not run again.
"""

import argparse
import asyncio
import contextlib
import functools
import json
import os
import platform
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands.command import use_compilation_cache
from prompt_tuning_jax.models.family import family_of

TASKS = ("bundled_topic", "bundled_sentiment", "bundled_season", "bundled_narrator")
PLACES = ("the Wild Bear", "a small inn", "my aunt's house", "the old mill", "a noisy canteen")
WORDS = ("remarkable", "rude", "tired", "cheerful", "late", "kind", "asleep", "proud")
MAX_TOKENS = 8
CLIENTS = 64
SERVER = ("--max_input_length=108", "--max_prompt_length=20", "--max_length=16")


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
    rng = random.Random(seed)
    return [
        Ask(
            f"p{rng.randrange(prompts)}",
            f"I dined at {rng.choice(PLACES)} on day {i}, and the cook was {rng.choice(WORDS)}.",
            rng.random() < 0.5,
        )
        for i in range(count)
    ]


# ---- a client, as small as can be: it shares the machine with the server -------------------------


class Connection:
    """One that is kept open."""

    def __init__(self, port: int):
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, ask: Ask) -> Reply:
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        started, body = time.perf_counter(), ask.body
        head = f"POST {ask.path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:] if line)
        content = await reader.readexactly(int(headers["content-length"]))
        seconds = time.perf_counter() - started
        return Reply(int(lines[0].split()[1]), json.loads(content), seconds)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()


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


async def first_tokens(port: int, wanted: list[Ask]) -> list[float]:
    """Seconds until a stream's first event, of one request after the other."""
    found = []
    for ask in wanted:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        asked = {"model": ask.prompt, "prompt": ask.text, "max_tokens": MAX_TOKENS, "stream": True}
        body, started = json.dumps(asked).encode(), time.perf_counter()
        head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await reader.readuntil(b"data: ")
        found.append(time.perf_counter() - started)
        await reader.read()
        writer.close()
    return found


# ---- the server ----------------------------------------------------------------------------------


@contextlib.contextmanager
def server(folder: Path, prompts: int, *options: str) -> Iterator[tuple[int, float]]:
    """A server of `prompts` prompts; gives its port, and the seconds that it took to start."""
    make_prompts(folder, prompts)
    line = [sys.executable, "-m", "prompt_tuning_jax", "serve", "--model=bundled", "--port=0"]
    with started([*line, f"--prompts={folder}", *SERVER, *options], folder.parent) as found:
        yield found


@contextlib.contextmanager
def started(line: list[str], folder: Path) -> Iterator[tuple[int, float]]:
    """A server's process, as soon as it listens; it is to end well."""
    begun, log = time.monotonic(), folder / "server.log"
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(line, stderr=file, env=os.environ)
    try:
        while "Listening at" not in (said := log.read_text("utf-8")):
            if process.poll() is not None:
                raise SystemExit(f"The server did not start:\n{said}")
            time.sleep(0.1)
        port = int(said.split("Listening at http://127.0.0.1:")[1].split("/")[0])
        while not is_open(port):
            time.sleep(0.1)
        yield port, time.monotonic() - begun
        process.send_signal(signal.SIGTERM)
        if process.wait(120) not in (0, -signal.SIGTERM):
            raise SystemExit(f"The server ended badly:\n{log.read_text('utf-8')}")
    finally:
        process.kill()


def is_open(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


def make_prompts(folder: Path, count: int) -> None:
    """Prompts p0, p1, ...: the bundled ones in turn, each with noise of its own."""
    kept = [pt.load_prompt(name) for name in TASKS]
    rng = np.random.default_rng(0)
    for i in range(count):
        one = kept[i % len(kept)]
        noise = 0.02 * rng.normal(size=one.shape).astype(np.float32)
        if not (folder / f"p{i}").exists():
            metadata = {
                name: one.metadata[name] for name in ("base_model_fingerprint", "verbalizers")
            }
            save_prompt(folder / f"p{i}", pt.TunedPrompt(one.values + noise, one.layout, metadata))


def answer_alone(model: pt.FrozenModel, prompt: pt.TunedPrompt, ask: Ask) -> Any:
    """The model's answer to one text: the text, or the label and the scores."""
    if ask.is_completion:
        return model.generate([ask.text], prompt=prompt, max_length=MAX_TOKENS).texts[0]
    labels = list(prompt.metadata["verbalizers"])
    found = model.classify([ask.text], labels, prompt=prompt)
    return found.labels[0], dict(zip(labels, found.scores[0].tolist(), strict=True))


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


# ---- the parts -----------------------------------------------------------------------------------


def throughput(work: Path, requests: int) -> dict[str, Any]:
    """Turns of the server and of one text after the other, in one run."""
    model, found = pt.load_model("bundled"), {"server": [], "one_at_a_time": []}
    with server(work / "prompts", 100) as (port, started):
        prompts = {f"p{i}": pt.load_prompt(work / "prompts" / f"p{i}") for i in range(100)}
        few = asks(requests // 10, 100)
        for ask in few[:20]:
            answer_alone(model, prompts[ask.prompt], ask)
        for turn in range(3):
            begun = time.perf_counter()
            for ask in few:
                answer_alone(model, prompts[ask.prompt], ask)
            found["one_at_a_time"].append(round(len(few) / (time.perf_counter() - begun), 1))
            found["server"].append(timed(closed_loop(port, asks(requests, 100, turn), CLIENTS)))
    middle = sorted(each["a_second"] for each in found["server"])[1]
    return found | {
        "start_seconds": round(started, 1),
        "ratio": round(middle / sorted(found["one_at_a_time"])[1], 2),
    }


def different_prompts(work: Path, requests: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with server(work / "prompts", 10_000) as (port, started):
        asyncio.run(closed_loop(port, asks(200, 10), CLIENTS))
        for turn in range(3):
            for count in (1, 10, 1000, 10_000):
                each = timed(closed_loop(port, asks(requests, count, turn), CLIENTS))
                found.setdefault(str(count), []).append(each["a_second"])
    return {"start_seconds": round(started, 1), "a_second": found}


def offered(work: Path, requests: int) -> dict[str, Any]:
    with server(work / "prompts", 100) as (port, _):
        most = timed(closed_loop(port, asks(requests, 100), CLIENTS))["a_second"]
        found = {"most_a_second": most, "shares": {}}
        for share in (0.25, 0.5, 0.75):
            count = max(100, int(requests * share))
            found["shares"][str(share)] = timed(
                open_loop(port, asks(count, 100, int(100 * share)), share * most)
            )
        firsts = sorted(asyncio.run(first_tokens(port, asks(100, 100))))
        return found | {"first_token_p50_ms": round(1e3 * firsts[50], 1)}


def overload(work: Path, requests: int) -> dict[str, Any]:
    with server(work / "prompts", 100, "--max_waiting=32") as (port, _):
        most = timed(closed_loop(port, asks(requests, 100), 32))
        found = timed(open_loop(port, asks(requests, 100, 1), 3 * most["a_second"]))
        return {"closed_loop_of_32": most, "three_times_as_much": found}


def against_peft(work: Path, requests: int, python: str) -> dict[str, Any]:
    """Turns of both servers, each by itself."""
    make_prompts(work / "prompts", 100)
    config = pt.load_model("bundled").config
    for i in range(100):
        one = pt.load_prompt(work / "prompts" / f"p{i}")
        peft.write_adapter(
            work / "adapters" / f"p{i}",
            one.values,
            base_model=str(directory_of("bundled")),
            num_layers=family_of(config).depth(config),
            num_heads=config.num_heads,
            task_type=peft.task_of(False),
            layout=one.layout,
            visibility=one.visibility,
        )
    wanted = [ask._replace(is_completion=True) for ask in asks(requests, 100)]
    few = wanted[: requests // 5]
    script = str(Path(__file__).with_name("load_test_peft.py"))
    theirs = [python, script, str(directory_of("bundled")), str(work / "adapters"), "8911"]
    found: dict[str, Any] = {"server": [], "peft": []}
    for _ in range(3):
        with server(work / "prompts", 100) as (port, _):
            ours = asyncio.run(closed_loop(port, few, CLIENTS))
            found["server"].append(timed(closed_loop(port, wanted, CLIENTS)))
        with started(theirs, work) as (port, _):
            replies = asyncio.run(closed_loop(port, few, CLIENTS))
            found["peft"].append(timed(closed_loop(port, few, CLIENTS)))
    pairs = zip(ours, replies, strict=True)
    different = sum(
        one.answer["choices"][0]["text"] != other.answer["choices"][0]["text"]
        for one, other in pairs
    )
    middle = [sorted(each["a_second"] for each in found[name])[1] for name in ("server", "peft")]
    return found | {"different": different, "ratio": round(middle[0] / middle[1], 2)}


def right(work: Path, requests: int) -> dict[str, Any]:
    """Lost, swapped or different answers: there should be none."""
    model, wanted = pt.load_model("bundled"), asks(requests, 100, 7)
    with server(work / "prompts", 100) as (port, _):
        replies = asyncio.run(closed_loop(port, wanted, CLIENTS))
    bank = pt.load_bank({f"p{i}": work / "prompts" / f"p{i}" for i in range(100)})
    lost = sum(reply.status != 200 for reply in replies)
    texts = [ask.text for ask in wanted]
    generated = model.generate(texts, bank.rows([a.prompt for a in wanted]), max_length=MAX_TOKENS)
    different, largest = 0, 0.0
    for ask, reply, text in zip(wanted, replies, generated.texts, strict=True):
        if ask.is_completion:
            different += reply.answer["choices"][0]["text"] != text
    for name in bank.names:
        mine = [
            (ask.text, reply.answer["data"][0])
            for ask, reply in zip(wanted, replies, strict=True)
            if ask.prompt == name and not ask.is_completion
        ]
        labels = list(bank.prompts[name].metadata["verbalizers"])
        alone = model.classify([text for text, _ in mine], labels, prompt=bank.prompts[name])
        for (_, data), label, scores in zip(mine, alone.labels, alone.scores, strict=True):
            gap = np.abs(np.array([data["scores"][each] for each in labels]) - scores).max()
            largest = max(largest, float(gap))
            different += data["label"] != label and gap > 1e-3
    return {"requests": requests, "lost": lost, "different": different, "largest_gap": largest}


PARTS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "throughput": throughput,
    "prompts": different_prompts,
    "offered": offered,
    "overload": overload,
    "right": right,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "peft"], default=list(PARTS))
    parser.add_argument("--torch_python", help="a Python with torch, peft, fastapi and uvicorn")
    parser.add_argument("--requests", type=int, default=2000, help="of each measurement")
    options = parser.parse_args()
    parts = PARTS | {"peft": functools.partial(against_peft, python=options.torch_python)}
    if "peft" in options.parts and options.torch_python is None:
        parser.error("the part `peft` needs --torch_python")
    use_compilation_cache()
    record = json.loads(options.output.read_text("utf-8")) if options.output.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    record |= {"machine": f"{machine}, JAX {jax.__version__}, clients on the same machine"}
    with tempfile.TemporaryDirectory() as work:
        for part in options.parts:
            if part not in record:
                record[part] = parts[part](Path(work), options.requests)
                print(part, json.dumps(record[part]))
                with new_file(options.output) as file:
                    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
