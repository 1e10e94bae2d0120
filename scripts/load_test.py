"""How a server holds out: throughput, latency under offered load, and whether answers are right.

    python scripts/load_test.py --output scripts/results/serving.json             # 30 minutes
    python scripts/load_test.py --parts right --requests 10000 --output runs/load.json
    python scripts/load_test.py --parts steady --minutes 60 --output runs/load.json
    python scripts/load_test.py --model random_t5_base --parts throughput --output ...

The server is a process of its own, `prompt-tuning serve`, on this machine, where the clients are
too; what they cost is part of the figures. Prompts are the bundled ones with a little noise, or 20
rows of another model's embedding table; as many as a part needs. Half of the requests are
completions, half rank labels.

    throughput   64 clients that ask again as soon as they are answered, against `infer` of one
                 text after the other in a process that has the model loaded
    prompts      the same with 1, 10, 1,000 and 10,000 different prompts, and the processor time
                 that a request costs the server, which other work on the machine hardly changes
    offered      an open loop: requests come at random times, however long answers take; latency at
                 a share of what the server can do, and the time to the first token
    overload     three times as much as it can do: what is accepted keeps the latency of a busy
                 server (--max_wait), the rest is told so at once
    peft         100 prompts mixed, completions alone, against load_test_peft.py: PEFT in a FastAPI
                 handler that switches adapters; only with --torch_python
    right        many mixed requests, each compared with the model's answer to that text alone
    steady       a third of what it can do for --minutes, with clients that hang up, requests that
                 are wrong, and prompts that come and go: the server's memory. Only if asked for

--output is written after each part, and what it holds is not run again.
"""

import argparse
import asyncio
import io
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from load_client import (
    MAX_TOKENS,
    Ask,
    Connection,
    asks,
    closed_loop,
    first_token,
    open_loop,
    summary,
    timed,
)
from load_server import Plan, make_prompts, server, started

import prompt_tuning_jax as pt
from prompt_tuning_jax.checkpoints import peft
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.checkpoints.huggingface import directory_of
from prompt_tuning_jax.commands.command import use_compilation_cache
from prompt_tuning_jax.models.family import family_of

CLIENTS = 64
FEWER = 32  # so many find slots at once
PATIENT = "--max_wait=60"  # no client is told to come again, however slow the machine is


def answer_alone(model: pt.FrozenModel, prompt: pt.TunedPrompt, ask: Ask) -> Any:
    """The model's answer to one text: the text, or the label and the scores."""
    if ask.is_completion:
        return model.generate([ask.text], prompt=prompt, max_length=MAX_TOKENS).texts[0]
    labels = list(prompt.metadata["verbalizers"])
    found = model.classify([ask.text], labels, prompt=prompt)
    return found.labels[0], dict(zip(labels, found.scores[0].tolist(), strict=True))


# ---- the parts -----------------------------------------------------------------------------------


def throughput(plan: Plan) -> dict[str, Any]:
    """Turns of the server and of one text after the other, in one run."""
    model, found = pt.load_model(plan.model), {"server": [], "one_at_a_time": []}
    with server(plan, 100, PATIENT) as busy:
        prompts = {f"p{i}": pt.load_prompt(plan.prompts / f"p{i}") for i in range(100)}
        few = asks(plan.requests // 10, 100)
        for ask in few[:20]:
            answer_alone(model, prompts[ask.prompt], ask)
        asyncio.run(closed_loop(busy.port, few, CLIENTS))
        for turn in range(3):
            begun = time.perf_counter()
            for ask in few:
                answer_alone(model, prompts[ask.prompt], ask)
            found["one_at_a_time"].append(round(len(few) / (time.perf_counter() - begun), 2))
            wanted = asks(plan.requests, 100, turn)
            found["server"].append(timed(closed_loop(busy.port, wanted, CLIENTS)))
    return found | {
        "start_seconds": busy.seconds,
        "ratio": round(median_rate(found["server"]) / statistics.median(found["one_at_a_time"]), 2),
    }


def median_rate(turns: list[dict[str, Any]]) -> float:
    return statistics.median(each["a_second"] for each in turns)


def different_prompts(plan: Plan) -> dict[str, Any]:
    """Turns of few and many prompts; a server of its own, so that many have to be read."""
    found: dict[str, Any] = {}
    with server(plan, 10_000) as busy:
        asyncio.run(closed_loop(busy.port, asks(200, 10), CLIENTS))
        for turn in range(5):
            for count in (1, 10, 1000, 10_000):
                before = busy.processor_seconds()
                each = timed(closed_loop(busy.port, asks(plan.requests, count, turn), CLIENTS))
                spent = 1e3 * (busy.processor_seconds() - before) / plan.requests
                kept = found.setdefault(str(count), {"a_second": [], "processor_ms": []})
                kept["a_second"].append(each["a_second"])
                kept["processor_ms"].append(round(spent, 2))
    return {"start_seconds": busy.seconds, "prompts": found}


def offered(plan: Plan) -> dict[str, Any]:
    with server(plan, 100) as busy:
        most = timed(closed_loop(busy.port, asks(plan.requests, 100), CLIENTS))["a_second"]
        found = {"most_a_second": most, "shares": {}}
        for share in (0.25, 0.5, 0.75):
            wanted = asks(max(100, int(plan.requests * share)), 100, int(100 * share))
            found["shares"][str(share)] = timed(open_loop(busy.port, wanted, share * most))
        firsts = sorted(asyncio.run(first_tokens(busy.port, asks(200, 100))))
        return found | {"first_token_p50_ms": round(1e3 * firsts[len(firsts) // 2], 1)}


async def first_tokens(port: int, wanted: list[Ask]) -> list[float]:
    """One stream after the other."""
    replies = [await first_token(port, ask) for ask in wanted if ask.is_completion]
    return [reply.seconds for reply in replies if reply.status == 200]


def overload(plan: Plan) -> dict[str, Any]:
    """A server that is busy, then three times what it did then."""
    with server(plan, 100, "--max_wait=1") as busy:
        asyncio.run(closed_loop(busy.port, asks(200, 100), FEWER))
        found: dict[str, Any] = {f"{FEWER}_clients": [], "three_times_as_much": []}
        for turn in range(3):
            wanted = asks(plan.requests, 100, turn)
            most = timed(closed_loop(busy.port, wanted, FEWER))
            found[f"{FEWER}_clients"].append(most)
            found["three_times_as_much"].append(over(busy.port, wanted, 3 * most["a_second"]))
        return found


def over(port: int, wanted: list[Ask], rate: float) -> dict[str, Any]:
    """What is accepted of too much, and how soon the others are told."""
    begun = time.perf_counter()
    replies = asyncio.run(open_loop(port, wanted, rate))
    told = sorted(reply.seconds for reply in replies if reply.status == 429)
    kept = summary(replies, time.perf_counter() - begun)
    return kept | {"told_p50_ms": round(1e3 * told[len(told) // 2], 1) if told else None}


def against_peft(plan: Plan) -> dict[str, Any]:
    """Turns of both servers, each by itself."""
    make_prompts(plan, 100)
    config = pt.load_model(plan.model).config
    for i in range(100):
        one = pt.load_prompt(plan.prompts / f"p{i}")
        peft.write_adapter(
            plan.work / "adapters" / f"p{i}",
            one.values,
            base_model=str(directory_of(plan.model)),
            num_layers=family_of(config).depth(config),
            num_heads=config.num_heads,
            task_type=peft.task_of(False),
            layout=one.layout,
            visibility=one.visibility,
        )
    wanted = [ask._replace(is_completion=True) for ask in asks(plan.requests, 100)]
    few = wanted[: plan.requests // 5]
    script = str(Path(__file__).with_name("load_test_peft.py"))
    theirs = [
        plan.torch_python,
        script,
        str(directory_of(plan.model)),
        str(plan.work / "adapters"),
        "8911",
    ]
    found: dict[str, Any] = {"server": [], "peft": []}
    for _ in range(3):
        with server(plan, 100, PATIENT) as busy:
            ours = asyncio.run(closed_loop(busy.port, few, CLIENTS))
            found["server"].append(timed(closed_loop(busy.port, wanted, CLIENTS)))
        with started(theirs, plan.work) as other:
            replies = asyncio.run(closed_loop(other.port, few, CLIENTS))
            found["peft"].append(timed(closed_loop(other.port, few, CLIENTS)))
    pairs = zip(ours, replies, strict=True)
    different = sum(
        one.answer["choices"][0]["text"] != other.answer["choices"][0]["text"]
        for one, other in pairs
    )
    ratio = median_rate(found["server"]) / median_rate(found["peft"])
    return found | {"different": different, "ratio": round(ratio, 2)}


def right(plan: Plan) -> dict[str, Any]:
    """Lost, swapped or different answers: there should be none."""
    model, wanted = pt.load_model(plan.model), asks(plan.requests, 100, 7)
    with server(plan, 100) as busy:
        replies = asyncio.run(closed_loop(busy.port, wanted, CLIENTS))
    bank = pt.load_bank({f"p{i}": plan.prompts / f"p{i}" for i in range(100)})
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
    return {"requests": plan.requests, "lost": lost, "different": different, "largest_gap": largest}


# ---- steady load ---------------------------------------------------------------------------------


def steady(plan: Plan) -> dict[str, Any]:
    """A third of what the server can do, minute after minute, of all that clients do to it."""
    with server(plan, 1000) as busy:
        most = timed(closed_loop(busy.port, asks(500, 1000), CLIENTS))["a_second"]
        memory, statuses, seconds = [], Counter(), []
        for minute in range(max(1, round(plan.minutes))):
            asyncio.run(one_minute(busy.port, most / 3, minute, plan, statuses, seconds))
            memory.append(busy.memory_mb())
            kept, seconds = sorted(seconds), []
            print(f"minute {minute}: {memory[-1]} MB, p50 {kept[len(kept) // 2]:.3f} s", flush=True)
    return {
        "most_a_second": most,
        "memory_mb": memory,
        "grown_mb_after_the_first_tenth": round(memory[-1] - memory[len(memory) // 10], 1),
        "statuses": dict(sorted(statuses.items())),
    }


async def one_minute(
    port: int, rate: float, minute: int, plan: Plan, statuses: Counter[str], seconds: list[float]
) -> None:
    """Requests at random times: most are fair, some are left, some are wrong, some send prompts."""
    rng, wanted = random.Random(minute), asks(int(60 * rate), 1000, minute)
    begun, tasks, due = time.perf_counter(), [], 0.0
    values = pt.load_prompt(plan.prompts / "p0").values

    async def one(ask: Ask, chance: float) -> None:
        connection = Connection(port)
        if chance < 0.05 and ask.is_completion:
            reply = await first_token(port, ask, is_read_on=False)
            statuses[f"{reply.status}, left"] += 1
        elif chance < 0.10:
            reply = await connection.ask(ask._replace(prompt="nobody"))
            statuses[str(reply.status)] += 1
        elif chance < 0.12:
            name = f"/v1/prompts/sent{rng.randrange(50)}"
            sent = await connection.send("PUT", name, as_npy(values), "application/x-npy")
            gone = await connection.send("DELETE", name, b"")
            statuses[f"sent {sent.status}, deleted {gone.status}"] += 1
        else:
            reply = await connection.ask(ask)
            statuses[str(reply.status)] += 1
            seconds.append(reply.seconds)
        connection.close()

    for ask in wanted:
        due += rng.expovariate(rate)
        await asyncio.sleep(max(0.0, due - (time.perf_counter() - begun)))
        tasks.append(asyncio.create_task(one(ask, rng.random())))
    await asyncio.gather(*tasks)


def as_npy(values: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


PARTS: dict[str, Callable[[Plan], dict[str, Any]]] = {
    "throughput": throughput,
    "prompts": different_prompts,
    "offered": offered,
    "overload": overload,
    "right": right,
    "peft": against_peft,
    "steady": steady,
}
UNASKED = ("throughput", "prompts", "offered", "overload", "right")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--model", default="bundled", help="or a Hugging Face directory")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(UNASKED))
    parser.add_argument("--torch_python", help="a Python with torch, peft, fastapi and uvicorn")
    parser.add_argument("--requests", type=int, default=2000, help="of each measurement")
    parser.add_argument("--minutes", type=float, default=60, help="of steady load")
    options = parser.parse_args()
    if "peft" in options.parts and options.torch_python is None:
        parser.error("the part `peft` needs --torch_python")
    return options


def main() -> None:
    options = parse_arguments()
    use_compilation_cache()
    record = json.loads(options.output.read_text("utf-8")) if options.output.exists() else {}
    machine = f"{os.cpu_count()} cores, {platform.machine()}"
    record |= {"machine": f"{machine}, JAX {jax.__version__}, clients on the same machine"}
    with tempfile.TemporaryDirectory() as work:
        plan = Plan(
            options.model, Path(work), options.requests, options.minutes, options.torch_python
        )
        for part in options.parts:
            if part not in record:
                record[part] = PARTS[part](plan)
                print(part, json.dumps(record[part]), flush=True)
                with new_file(options.output) as file:
                    file.write_text(json.dumps(record, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
