"""What clients of a cluster reach: whole answers, also from replicas that die on the way."""

import asyncio
import contextlib
import importlib
import json
import re
import time
from pathlib import Path

import pytest
import yaml
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.serving import ray
from prompt_tuning_jax.serving.ray.asgi import Asked, answer
from prompt_tuning_jax.serving.ray.front import Front, Gone

WORDS = {0: ["It", " was", " cold"], 1: ["No", " wonder"]}


def event(index: int | None, text: str) -> str:
    choices = [] if index is None else [{"index": index, "text": text}]
    return f"data: {json.dumps({'choices': choices})}\n\n"


class Replica:
    """An application behind a replica that dies after so many messages, the last one never.

    Attributes:
      asked: every request that came.
      orders: of a stream's answers, for each request in turn: which goes on next.
    """

    def __init__(self, deaths=(), orders=((0, 1, 0, 1, 0),)):
        self.asked, self.deaths, self.orders = [], list(deaths), list(orders)
        self.begun = self.left = self.changed = 0
        self.is_stuck, self.stuck_after, self.pace = False, None, 0
        self.refusals, self.with_ids = {}, False
        routes = [
            Route("/v1/completions", self.complete, methods=["POST"]),
            Route("/v1/prompts/{name}", self.put, methods=["PUT"]),
            Route("/echo", self.echo, methods=["GET", "POST"]),
        ]
        self.app = Starlette(routes=routes)

    async def complete(self, request: Request) -> Response:
        facts = await request.json()
        if status := self.refusals.get(len(self.asked) - 1):
            return JSONResponse({"error": {"message": "no", "code": "none"}}, status)
        if not facts.get("stream"):
            return JSONResponse({"model": facts["model"], "seed": facts.get("seed")})
        order = self.orders.pop(0) if len(self.orders) > 1 else self.orders[0]
        return StreamingResponse(self.events(order), media_type="text/event-stream")

    async def events(self, order):
        self.begun += 1
        try:
            words = {index: list(texts) for index, texts in WORDS.items()}
            number = len(self.asked)
            for index in order:
                one = event(index, words[index].pop(0))
                yield one.replace("{", f'{{"id": {number}, ', 1) if self.with_ids else one
                await asyncio.sleep(0)
            last = event(None, "")
            yield last.replace("{", f'{{"id": {number}, ', 1) if self.with_ids else last
            yield "data: [DONE]\n\n"
        finally:
            self.left += 1

    async def put(self, request: Request) -> Response:
        try:
            await asyncio.sleep(self.pace)
        finally:
            self.left += 1
        self.changed += 1
        return Response(status_code=204)

    async def echo(self, request: Request) -> Response:
        body = (await request.body()).decode()
        facts = {"query": str(request.url.query), "body": body, "x": request.headers.get("x")}
        return JSONResponse(facts, 201, {"x": "y"})

    async def ask(self, asked: Asked):
        self.asked.append(asked)
        if self.stuck_after is not None and len(self.asked) > self.stuck_after:
            await asyncio.sleep(3600)
        allowed = self.deaths.pop(0) if self.deaths else 1000
        if self.is_stuck:
            await asyncio.sleep(3600)
        async with contextlib.aclosing(answer(self.app, asked)) as messages:
            async for message in messages:
                if allowed == 0:
                    raise Gone
                allowed -= 1
                yield message
        if allowed < 900:
            raise Gone


class Refreshed:
    """Counts, and keeps how many changes had been made by then."""

    def __init__(self, replica=None):
        self.count, self.replica, self.changed = 0, replica, None

    async def __call__(self):
        self.count += 1
        self.changed = self.replica and self.replica.changed


def made(replica, refreshed=None, seconds=60.0, room=100):
    return Front(replica.ask, refreshed or Refreshed(), seconds, room)


def scope_of(method, path, headers=()):
    path, _, query = path.partition("?")
    return {
        "type": "http", "method": method, "path": path, "query_string": query.encode(),
        "headers": list(headers), "server": ("here", 80), "scheme": "http", "root_path": "",
    }  # fmt: skip


async def answered(front, scope, body=b""):
    """(status, headers, the parts of the body)."""
    sent, asked = [], [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if asked:
            return asked.pop()
        await asyncio.sleep(3600)

    async def send(message):
        sent.append(message)

    await front(scope, receive, send)
    start, *rest = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, [part["body"] for part in rest if part["body"]]


def respond(replica, method, path, body=b"", headers=(), **how):
    return asyncio.run(answered(made(replica, **how), scope_of(method, path, headers), body))


def complete(replica, seconds=60.0, **facts):
    body = json.dumps({"model": "mood", "prompt": "?"} | facts).encode()
    return respond(replica, "POST", "/v1/completions", body, seconds=seconds)


def texts_of(parts):
    """The text of each answer, of a stream that ended as it should."""
    assert parts[-1] == b"data: [DONE]\n\n"
    texts = {}
    for part in parts[:-1]:
        for choice in json.loads(part.removeprefix(b"data: "))["choices"]:
            texts[choice["index"]] = texts.get(choice["index"], "") + choice["text"]
    return texts


def test_the_page_for_kubernetes_has_settings_that_there_are():
    page = Path(ray.__file__).with_name("README.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (application,) = yaml.safe_load(yaml.safe_load(block)["spec"]["serveConfigV2"])["applications"]
    module, _, name = application["import_path"].partition(":")
    assert getattr(importlib.import_module(module), name) is ray.app
    found = ray.settings_of(application["args"])
    assert (found.replicas, found.max_replicas) == (2, 8)
    assert found.replica_resources == {"GPU": 1.0, "CPU": 4.0}
    with pytest.raises(UsageError, match="replica_number"):
        ray.settings_of({"replica_number": 2})


def test_an_answer_comes_through_as_it_is():
    headers = [(b"x", b"1"), (b"content-length", b"2")]
    status, given, parts = respond(Replica(), "POST", "/echo?a=b%20c", b"hi", headers)
    assert (status, given["x"], given["content-type"]) == (201, "y", "application/json")
    assert json.loads(parts[0]) == {"query": "a=b%20c", "body": "hi", "x": "1"}
    assert int(given["content-length"]) == len(parts[0])


def test_nothing_comes_through_with_its_status():
    refreshed = Refreshed()
    status, _, parts = respond(Replica(), "PUT", "/v1/prompts/a", b"{}", refreshed=refreshed)
    assert (status, b"".join(parts), refreshed.count) == (204, b"", 1)


@pytest.mark.parametrize("deaths", [(0,), (1,), (2,), (0, 1, 2)])
def test_a_whole_answer_comes_from_whoever_lives(deaths):
    replica = Replica(deaths)
    status, _, parts = complete(replica)
    assert (status, len(parts), len(replica.asked)) == (200, 1, len(deaths) + 1)
    assert json.loads(parts[0]) == {"model": "mood", "seed": None}
    assert {asked.prompt for asked in replica.asked} == {"mood"}


@pytest.mark.parametrize("deaths", [(0,), (1,), (3,), (5,), (6,), (7,), (8,), (3, 5), (5, 2, 4)])
def test_a_stream_goes_on_where_it_was(deaths):
    """Though the answers in it take turns otherwise the second time."""
    orders = [(0, 1, 0, 1, 0), (1, 1, 0, 0, 0), (0, 0, 0, 1, 1), (0, 1, 0, 1, 0)]
    replica = Replica(deaths, orders)
    status, _, parts = complete(replica, stream=True)
    assert status == 200
    assert texts_of(parts) == {0: "It was cold", 1: "No wonder"}
    assert replica.left == replica.begun  # nobody works for nobody


def test_a_stream_that_draws_is_given_a_seed():
    replica = Replica((3,))
    complete(replica, stream=True, temperature=1.0)
    first, second = (json.loads(asked.body) for asked in replica.asked)
    assert first == second
    assert 0 <= first["seed"] < 2**31
    complete(replica, stream=True, temperature=1.0)
    assert json.loads(replica.asked[-1].body)["seed"] != first["seed"]


@pytest.mark.parametrize("facts", [{"stream": True}, {"stream": True, "temperature": 1, "seed": 5},
                                   {"temperature": 1}])  # fmt: skip
def test_what_needs_no_seed_is_sent_as_it_came(facts):
    replica = Replica()
    complete(replica, **facts)
    assert json.loads(replica.asked[0].body) == {"model": "mood", "prompt": "?"} | facts


def test_what_nobody_can_answer_is_said():
    status, headers, parts = complete(Replica([0] * 10))
    assert (status, headers["retry-after"]) == (503, "1")
    assert json.loads(parts[0])["error"]["code"] == "replica_gone"
    status, _, parts = complete(Replica([3] * 10), stream=True)
    assert status == 200
    assert json.loads(parts[-1].removeprefix(b"data: "))["error"]["code"] == "replica_gone"


def test_a_change_is_made_once():
    refreshed = Refreshed()
    replica = Replica([1])
    status, _, _ = respond(replica, "PUT", "/v1/prompts/a", b"{}", refreshed=refreshed)
    assert (status, len(replica.asked), refreshed.count) == (503, 1, 1)


@pytest.mark.parametrize("body", [b"", b"[]", b"nothing", b'{"model": 3}', b"[" * 900])
def test_what_is_no_request_names_no_prompt(body):
    replica = Replica()
    with contextlib.suppress(AttributeError, KeyError, ValueError, RecursionError):  # the stub's
        respond(replica, "POST", "/v1/completions", body)
    assert replica.asked[0][4:] == (body, None)


def test_what_goes_on_has_the_first_id():
    replica = Replica((3,))
    replica.with_ids = True
    events = complete(replica, stream=True)[2][:-1]
    facts = [json.loads(event.removeprefix(b"data: ")) for event in events]
    assert len({one["id"] for one in facts}) == 1
    assert len(replica.asked) == 2


def test_a_replica_that_dies_after_all_was_said_is_not_missed():
    replica = Replica((8,))
    assert texts_of(complete(replica, stream=True)[2]) == {0: "It was cold", 1: "No wonder"}
    assert len(replica.asked) == 1


@pytest.mark.parametrize(("status", "asked"), [(404, 2), (429, 3), (503, 3)])
def test_a_stream_that_cannot_go_on_says_so_as_an_event(status, asked):
    """Where another replica may have room, that one is asked."""
    replica = Replica((3,))
    replica.refusals = {1: status}
    parts = complete(replica, stream=True)[2]
    assert len(replica.asked) == asked
    if asked == 3:
        assert texts_of(parts) == {0: "It was cold", 1: "No wonder"}
    else:
        error = json.loads(parts[-1].removeprefix(b"data: "))["error"]
        assert (error["message"], error["code"]) == ("no", "none")


def test_what_has_no_room_is_told_so():
    async def run():
        replica = Replica()
        front = made(replica, room=1, seconds=0.2)
        replica.is_stuck = True
        ask = [answered(front, scope_of("GET", "/echo")) for _ in range(3)]
        found = await asyncio.gather(*ask)
        health = await answered(front, scope_of("GET", "/healthz"))
        return sorted(status for status, *_ in found), health[0], front.under_way

    assert asyncio.run(run()) == ([429, 429, 504], 200, 0)


def test_a_request_has_the_time_that_it_asks_for_and_its_replica_what_is_left():
    replica = Replica()
    status, _, _ = respond(replica, "GET", "/echo", headers=[(b"x-request-timeout", b"7")])
    (left,) = [x for name, x in replica.asked[0].headers if name == b"x-request-timeout"]
    assert status == 201
    assert 6 < float(left) <= 7
    replica.is_stuck = True
    started = time.monotonic()
    status, _, parts = respond(replica, "GET", "/echo", headers=[(b"x-request-timeout", b"0.2")])
    assert (status, json.loads(parts[0])["error"]["code"]) == (504, "deadline")
    assert time.monotonic() - started < 5
    assert respond(replica, "GET", "/echo", headers=[(b"x-request-timeout", b"x")])[0] == 400


def test_a_stream_that_is_late_says_so():
    replica = Replica((3,))
    replica.stuck_after = 1
    parts = complete(replica, seconds=0.3, stream=True)[2]
    assert json.loads(parts[-1].removeprefix(b"data: "))["error"]["code"] == "deadline"


def test_a_change_reaches_all_though_its_client_leaves():
    async def run():
        replica = Replica()
        refreshed = Refreshed(replica)
        front = made(replica, refreshed)
        replica.pace = 0.2
        work = asyncio.ensure_future(answered(front, scope_of("PUT", "/v1/prompts/a"), b"{}"))
        await asyncio.sleep(0.05)
        work.cancel()
        await asyncio.sleep(0.5)
        return refreshed.count, refreshed.changed, front.under_way

    assert asyncio.run(run()) == (1, 1, 0)


def test_a_front_that_closes_ends_what_it_has():
    async def run():
        replica = Replica()
        front = made(replica)
        replica.pace = 0.2
        work = asyncio.ensure_future(answered(front, scope_of("PUT", "/v1/prompts/a"), b"{}"))
        await asyncio.sleep(0.05)
        front.close()
        refused = await answered(front, scope_of("GET", "/echo"))
        assert front.under_way == 1
        return (await work)[0], refused[0], refused[1]["retry-after"]

    assert asyncio.run(run()) == (204, 503, "5")


def test_who_leaves_is_not_answered_on():
    replica = Replica()

    async def run():
        asked = Asked("POST", "/v1/completions", b"", [], b'{"stream": true}', None)
        messages = answer(replica.app, asked)
        async for message in messages:
            if message.get("body"):
                break
        await messages.aclose()

    asyncio.run(run())
    assert replica.left == 1


def test_work_that_hears_of_nobody_ends_too():
    """A route that does not ask whether its client is there."""

    async def run():
        replica = Replica()
        replica.pace = 3600
        asked = Asked("PUT", "/v1/prompts/a", b"", [], b"{}", None)
        messages = answer(replica.app, asked)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await anext(messages)
        return replica.left, replica.changed

    started = time.monotonic()
    assert asyncio.run(run()) == (1, 0)
    assert time.monotonic() - started < 30
