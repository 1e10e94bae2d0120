"""The server's HTTP interface, as OpenAI's own client and a plain one see it."""

import gzip
import io
import json
import re
import socket
import time

import httpx
import numpy as np
import openai
import pytest
import serving_stand_in
from safetensors.numpy import save

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.requests import NotFinite

TEXT = "the soup was good"
TOKEN = "secret-of-the-test"
WIDTH = 16
JSON = {"Content-Type": "application/json"}
LABELS = ["soup", "bread"]
SETTINGS = HttpSettings(
    token=TOKEN, max_body=10_000, max_upload=20_000, max_texts=12, timeout=20.0, body_timeout=0.5
)


def values(seed=0, length=3):
    return np.random.default_rng(seed).normal(size=(length, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    template = {"input_template": "{food} was {how}", "missing": "empty"}
    for seed, name in enumerate(("food", "deep/food")):
        save_prompt(folder / name, values(seed), task="food", verbalizers=["yes", "no"], **template)
    save_prompt(folder / "bare", values(3))
    both = "both", ["food", "deep/food"]
    with serving_stand_in.over(folder, model, [both]) as engine:
        yield engine


@pytest.fixture(scope="module")
def address(engine):
    with serving_stand_in.served(engine, SETTINGS) as address:
        yield address


@pytest.fixture
def http(address):
    with httpx.Client(
        base_url=address, headers={"Authorization": f"Bearer {TOKEN}"}, timeout=30
    ) as client:
        yield client


@pytest.fixture
def client(address):
    with openai.OpenAI(api_key=TOKEN, base_url=f"{address}/v1", max_retries=0) as client:
        yield client


@pytest.fixture
def spoilt(engine, monkeypatch):
    """Changes an attribute of the engine for one test."""
    return lambda name, value: monkeypatch.setattr(engine, name, value)


# Completions.


def test_a_completion(client, engine, model):
    answer = client.completions.create(model="food", prompt="we had soup")
    assert answer.object == "text_completion"
    assert answer.model == "food"
    (choice,) = answer.choices
    assert (choice.text, choice.finish_reason, choice.index) == (TEXT, "stop", 0)
    assert choice.logprobs is None
    read = len(engine.encode("we had soup"))
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (read, 4)
    assert answer.usage.total_tokens == read + 4
    asked = engine.seen[-1]
    assert (asked.prompts, asked.sampling.temperature) == (("food",), 0.0)
    assert list(asked.tokens) == engine.encode("we had soup")


def test_several_texts_and_several_answers(client, engine):
    answer = client.completions.create(
        model="both", prompt=["soup", "bread"], n=2, max_tokens=2, temperature=0.7, seed=5
    )
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert {choice.text for choice in answer.choices} == {"the soup"}
    assert {choice.finish_reason for choice in answer.choices} == {"length"}
    asked = engine.seen[-4:]
    assert [request.sampling.number for request in asked] == [0, 1, 2, 3]
    assert {request.sampling.seed for request in asked} == {5}
    assert [list(request.tokens) for request in asked[1:3]] == [
        engine.encode("soup"),
        engine.encode("bread"),
    ]
    assert {request.prompts for request in asked} == {("food", "deep/food")}


def test_base_and_sampling(client, engine):
    client.completions.create(model="base", prompt="soup", temperature=1, top_p=0.5)
    first = engine.seen[-1]
    client.completions.create(model="base", prompt="soup", temperature=1, top_p=0.5)
    assert first.prompts == ()
    assert first.sampling.top_p == 0.5
    assert first.sampling.seed != engine.seen[-1].sampling.seed  # as at OpenAI


def test_a_stream(client):
    options = {"include_usage": True}
    stream = client.completions.create(
        model="food", prompt="soup", stream=True, stream_options=options, n=2
    )
    chunks = list(stream)
    texts, reasons = ["", ""], {}
    for chunk in chunks[:-1]:
        assert chunk.usage is None
        (choice,) = chunk.choices
        texts[choice.index] += choice.text
        if choice.finish_reason:
            reasons[choice.index] = choice.finish_reason
    assert texts == [TEXT, TEXT]
    assert reasons == {0: "stop", 1: "stop"}
    assert len(chunks) > 6
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == 8
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_comes_as_it_is_made(client, spoilt):
    spoilt("pace", 0.1)
    times = []
    for _ in client.completions.create(model="food", prompt="soup", stream=True):
        times.append(time.monotonic())
    assert times[-1] - times[0] > 0.2


def test_a_stream_as_bytes(http):
    with http.stream(
        "POST", "/v1/completions", json={"model": "food", "prompt": "soup", "stream": True}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = "".join(answer.iter_text()).split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-2])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("stop", "text"), [("was", "the soup "), (["p w", "good"], "the sou"), ("x", TEXT), ("", None)]
)
def test_stop_strings(client, engine, stop, text, stream):
    def ask():
        return client.completions.create(model="food", prompt="soup", stop=stop, stream=stream)

    if text is None:
        with pytest.raises(openai.BadRequestError, match="stop"):
            ask()
        return
    answer = ask()
    if stream:
        chunks = list(answer)
        assert "".join(chunk.choices[0].text for chunk in chunks) == text
        assert chunks[-1].choices[0].finish_reason == "stop"
    else:
        assert (answer.choices[0].text, answer.choices[0].finish_reason) == (text, "stop")
    assert engine.seen[-1].is_cancelled == (text != TEXT)  # nobody makes the rest of it


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, stream):
    answer = client.completions.create(model="food", prompt="soup", logprobs=0, stream=stream)
    found = [chunk.choices[0].logprobs for chunk in (answer if stream else [answer])]
    tokens = [token for one in found for token in one.tokens]
    assert tokens == ["the", " soup", " was", " good"]
    assert [offset for one in found for offset in one.text_offset] == [0, 3, 8, 12]
    assert [x for one in found for x in one.token_logprobs] == [0, -0.5, -1, -1.5]
    assert {str(one.top_logprobs) for one in found} == {"None"}


@pytest.mark.parametrize("stream", [False, True])
def test_the_likeliest_tokens_in_a_token_s_place(client, stream):
    """As many as are asked for, and the one that was chosen; none that a rule forbids."""
    answer = client.completions.create(model="food", prompt="soup", logprobs=3, stream=stream)
    found = [chunk.choices[0].logprobs for chunk in (answer if stream else [answer])]
    top = [each for one in found for each in one.top_logprobs]
    assert top[0] == {"the": -7.0, "</s>": -8.0}
    assert top[1:] == [
        {" the": -7.0, "</s>": -8.0, word: log_prob}
        for word, log_prob in ((" soup", -0.5), (" was", -1), (" good", -1.5))
    ]
    for number in (-1, 6):
        with pytest.raises(openai.BadRequestError, match="logprobs"):
            client.completions.create(model="food", prompt="soup", logprobs=number)


def test_what_is_not_done_is_named_and_what_asks_for_nothing_is_taken(client):
    nothing = {
        "best_of": 1,
        "echo": False,
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "logit_bias": {},
        "suffix": "",
        "user": "somebody",
    }
    client.completions.create(model="food", prompt="soup", **nothing)
    for name, value in {
        "best_of": 3,
        "echo": True,
        "frequency_penalty": 0.5,
        "presence_penalty": 1,
        "logit_bias": {"5": 1},
        "suffix": "x",
    }.items():
        with pytest.raises(openai.BadRequestError, match=name) as caught:
            client.completions.create(model="food", prompt="soup", **{name: value})
        assert caught.value.param == name


def test_models(client):
    names = [one.id for one in client.models.list()]
    assert names[:4] == ["base", "bare", "both", "deep/food"]
    assert client.models.retrieve("food").id == "food"
    assert client.models.retrieve("deep/food").id == "deep/food"
    with pytest.raises(openai.NotFoundError, match="did you mean food"):
        client.completions.create(model="foot", prompt="soup")
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("foot")


# Errors.


def error_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.json().keys() == {"error"}
    assert "Traceback" not in answer.text
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    return answer.json()["error"]


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"prompt": 3}, "prompt"),
        ({"prompt": [1.5, 2]}, "prompt"),
        ({"prompt": [[5], []]}, "prompt"),
        ({"prompt": [5] * 17}, "prompt"),
        ({"prompt": [5, -1]}, "prompt"),
        ({"prompt": [5, 10**30]}, "prompt"),
        ({"prompt": [5, 0, 6]}, "prompt"),
        ({"prompt": [[5], "soup"]}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": ["a"] * 13}, "n"),
        ({"prompt": "soup " * 17}, "prompt"),
        ({"prompt": "soup " * 1700}, "prompt"),
        ({"prompt": "\ud800"}, "prompt"),
        ({"n": 13}, "n"),
        ({"max_tokens": 33}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_tokens": "3"}, "max_tokens"),
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"seed": 2**32}, "seed"),
        ({"stop": ["a"] * 5}, "stop"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"unknown": 1}, None),
        ({"\ud800": 1}, None),
        ({"logprobs": 9}, "logprobs"),
        ({"model": None}, "model"),
    ],
)
def test_requests_that_are_refused(http, given, param):
    body = json.dumps({"model": "food", "prompt": "soup", **given})
    answer = http.post(
        "/v1/completions", content=body, headers={"Content-Type": "application/json"}
    )
    found = error_of(answer, 400)
    assert found["param"] == param
    assert found["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"stop": ["a"] * 5}, "'stop': List should have at most 4 items"),
        ({"stop": 5}, "'stop': Input should be a valid string"),
        ({"prompt": [True, False]}, "'prompt'[0]: Input should be a valid string"),
        ({"temperature": -1}, "'temperature': Input should be greater than or equal to 0"),
    ],
)
def test_of_what_a_field_may_be_the_nearest_is_told(http, given, told):
    answer = http.post("/v1/completions", json={"model": "food", "prompt": "soup", **given})
    assert error_of(answer, 400)["message"].startswith(told)


def test_a_body_in_another_coding(http):
    body, kind = b'{"model": "food", "prompt": "caf\xe9"}', {"Content-Type": "application/json"}
    found = error_of(http.post("/v1/completions", content=body, headers=kind), 400)
    assert found["message"] == "The body is no UTF-8."
    for path in ("/v1/completions", "/v1/classify"):
        packed = http.post(
            path, content=gzip.compress(body), headers=kind | {"Content-Encoding": "gzip"}
        )
        assert "without Content-Encoding: gzip" in error_of(packed, 415)["message"]
    whole = http.post(
        "/v1/completions",
        json={"model": "food", "prompt": "soup"},
        headers={"Content-Encoding": "identity"},
    )
    assert whole.status_code == 200


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 9000, b'{"n": ' + b"9" * 9000 + b"}"]
)
def test_bodies_that_are_no_request(http, body):
    for kind in ("application/json", "text/plain"):
        error_of(http.post("/v1/completions", content=body, headers={"Content-Type": kind}), 400)


def test_the_token(address, http):
    body = {"model": "food", "prompt": "soup"}
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
        answer = httpx.post(f"{address}/v1/completions", json=body, headers=headers)
        assert error_of(answer, 401)["code"] == "invalid_api_key"
        for path in ("/metrics", "/openapi.json", "/v1/models", "/v1/prompts", "/nothing"):
            error_of(httpx.get(address + path, headers=headers), 401)
    for path in ("/healthz", "/readyz"):
        assert httpx.get(address + path).status_code == 200
    with pytest.raises(openai.AuthenticationError):
        openai.OpenAI(api_key="wrong", base_url=f"{address}/v1").models.list()


def test_large_bodies(address, http):
    large = {"model": "food", "prompt": "x" * 10_000}
    error_of(http.post("/v1/completions", json=large), 413)

    def pieces():
        for _ in range(100):
            yield b"x" * 1000

    headers = {"Content-Type": "application/json"}
    error_of(http.post("/v1/completions", content=pieces(), headers=headers), 413)


def raw(address, text, wait=5.0):
    """What a server answers to bytes that may be no whole request."""
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=wait) as connection:
        connection.sendall(text.encode())
        return connection.recv(65536).decode()


def test_a_body_that_does_not_come(address):
    head = f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
    kind = "Content-Type: application/json\r\n"
    assert " 408 " in raw(address, f"{head}{kind}Content-Length: 50\r\n\r\n{{").split("\r\n")[0]
    assert " 413 " in raw(address, f"{head}{kind}Content-Length: 99999\r\n\r\n").split("\r\n")[0]


def test_overload_and_the_end(http, engine, spoilt):
    body = {"model": "food", "prompt": ["soup", "bread"]}
    spoilt("room", 0)
    answer = http.post("/v1/completions", json=body)
    assert error_of(answer, 429)["code"] == "overloaded"
    assert answer.headers["Retry-After"] == "2"
    error_of(http.post("/v1/completions", json={**body, "stream": True}), 429)
    spoilt("is_stopping", True)
    error_of(http.post("/v1/completions", json=body), 503)
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 200


@pytest.mark.parametrize("many", [6, 12])  # the second from another thread
def test_an_overload_half_way_takes_nothing(http, engine, spoilt, many):
    engine.free.clear()
    spoilt("room", 2)
    before = len(engine.seen)
    for _ in range(3):  # each of the four workers holds one, and two wait
        answer = http.post(
            "/v1/completions", json={"model": "food", "prompt": ["soup"] * 6, "n": 1}
        )
        if answer.status_code == 429:
            break
    engine.free.set()
    assert answer.status_code == 429
    assert all(request.is_cancelled for request in engine.seen[before:])


@pytest.mark.parametrize("stream", [False, True])
def test_a_failing_step_fails_its_requests_and_says_nothing_of_itself(http, spoilt, stream):
    body = {"model": "food", "prompt": "soup", "stream": stream}
    spoilt("failure", RuntimeError("/secret/path"))
    answer = http.post("/v1/completions", json=body)
    assert "secret" not in answer.text
    if stream:
        (event, rest) = answer.text.split("\n\n")
        assert json.loads(event.removeprefix("data: "))["error"]["code"] == "failed"
        assert rest == ""
    else:
        error_of(answer, 500)
    spoilt("failure", None)
    assert http.post("/v1/completions", json=body).status_code == 200


def test_a_prompt_whose_numbers_are_not_finite_is_said(http, spoilt):
    spoilt("failure", NotFinite())
    answer = http.post("/v1/classify", json={"prompt": "food", "texts": ["soup"]})
    assert error_of(answer, 422)["code"] == "not_finite"


def test_deadlines(http, engine):
    body = {"model": "food", "prompt": "soup"}
    engine.free.clear()
    try:
        started = time.monotonic()
        answer = http.post("/v1/completions", json=body, headers={"X-Request-Timeout": "0.2"})
        assert error_of(answer, 504)["code"] == "deadline"
        assert time.monotonic() - started < 5
    finally:
        engine.free.set()
    for text in ("0", "-1", "nan", "inf", "soon"):
        answer = http.post("/v1/completions", json=body, headers={"X-Request-Timeout": text})
        error_of(answer, 400)


@pytest.mark.parametrize("stream", [False, True])
def test_who_goes_is_forgotten(address, engine, spoilt, stream):
    spoilt("pace", 0.1)
    if not stream:
        engine.free.clear()
    before = len(engine.seen)
    body = json.dumps({"model": "food", "prompt": "soup", "stream": stream})
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        while len(engine.seen) == before:
            time.sleep(0.01)
        if stream:
            connection.recv(100)
    waited = time.monotonic() + 5
    while not engine.seen[-1].is_cancelled and time.monotonic() < waited:
        time.sleep(0.01)
    engine.free.set()
    assert engine.seen[-1].is_cancelled


# Classification.


def test_labels_with_probabilities(http, engine):
    texts = ["soup", "bread"]
    answer = http.post("/v1/classify", json={"prompt": "food", "texts": texts}).json()
    assert answer["labels"] == ["yes", "no"]
    for number, one in enumerate(answer["data"]):
        assert one["index"] == number
        assert one["label"] == "yes"
        assert one["scores"] == {"yes": -1.0, "no": -2.0}
        assert one["votes"] is None
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert one["probabilities"]["yes"] == pytest.approx(1 / (1 + np.exp(-1)))
    assert answer["usage"]["prompt_tokens"] == sum(len(engine.encode(text)) for text in texts)


def test_labels_of_a_request_and_votes_of_an_ensemble(http, engine):
    body = {"prompt": "both", "texts": ["soup"], "labels": ["soup", "bread", "tea"]}
    (one,) = http.post("/v1/classify", json=body).json()["data"]
    assert one["votes"] == {"soup": 2, "bread": 0, "tea": 0}
    assert one["scores"] == {"soup": -2.5, "bread": -3.5, "tea": -4.5}
    assert engine.seen[-1].prompts == ("food", "deep/food")


def test_records_are_made_texts_by_the_prompts_own_template(http, engine):
    texts = [{"food": "soup", "how": "good"}, "tea", {"food": "tea", "how": None}]
    assert http.post("/v1/classify", json={"prompt": "food", "texts": texts}).status_code == 200
    expected = [engine.encode(text) for text in ("soup was good", "tea", "tea was ")]
    assert [list(request.tokens) for request in engine.seen[-3:]] == expected


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"texts": []}, "texts"),
        ({"texts": ["a"] * 13}, "12 texts"),
        ({"texts": "soup"}, "texts"),
        ({"texts": [3]}, "texts"),
        ({"texts": [{"food": "x"}]}, "No field 'how'"),
        ({"texts": [{"food": [], "how": ""}]}, "is a list"),
        ({"texts": [{"food": "\ud800", "how": "x"}]}, "half a character"),
        ({"texts": [{"\ud800": "x"}]}, "No field"),
        ({"texts": [{"food": "x"}], "prompt": "bare", "labels": LABELS}, "no input template"),
        ({"prompt": "bare"}, "no labels of its own"),
        ({"labels": []}, "labels"),
        ({"labels": ["\ud800"]}, "half a character"),
        ({"labels": [" "]}, "must be a word"),
        ({"labels": list("abcdefghi")}, "8 labels"),
        ({"labels": ["quite unknown", "other things"]}, "same tokens"),
        ({"texts": ["soup " * 17]}, "17|18"),
    ],
)
def test_classifications_that_are_refused(http, given, says):
    body = json.dumps({"prompt": "food", "texts": ["soup"], **given})
    answer = http.post("/v1/classify", content=body, headers=JSON)
    assert re.search(says, error_of(answer, 400)["message"])


# Prompts.


def test_the_list_of_prompts(http):
    page = http.get("/v1/prompts", params={"limit": 2}).json()
    assert [one["name"] for one in page["data"]] == ["bare", "both"]
    assert (page["total"], page["has_more"]) == (4, True)
    page = http.get("/v1/prompts", params={"after": "both"}).json()
    assert [one["name"] for one in page["data"]] == ["deep/food", "food"]
    assert not page["has_more"]
    page = http.get("/v1/prompts", params={"contains": "oo"}).json()
    assert [one["name"] for one in page["data"]] == ["deep/food", "food"]
    one = http.get("/v1/prompts/deep/food").json()
    assert one["labels"] == ["yes", "no"]
    assert (one["length"], one["width"], one["task"]) == (3, WIDTH, "food")
    assert http.get("/v1/prompts/both").json()["members"] == ["food", "deep/food"]
    error_of(http.get("/v1/prompts/nothing"), 404)
    error_of(http.get("/v1/prompts", params={"limit": 0}), 400)


def test_a_prompt_is_sent_used_replaced_and_deleted(http, client, engine):
    file = io.BytesIO()
    np.save(file, values(5))
    kinds = {
        "application/vnd.safetensors": save({"prompt": values(5)}),
        "application/x-npy": file.getvalue(),
    }
    for kind, content in kinds.items():
        answer = http.put("/v1/prompts/sent", content=content, headers={"Content-Type": kind})
        assert answer.status_code == 201, answer.text
        assert answer.json()["uploaded"]
        np.testing.assert_array_equal(engine.library.get("sent").values, values(5))
        assert engine.prepared[-1] is engine.library.get("sent")
    assert client.completions.create(model="sent", prompt="soup").choices[0].text == TEXT
    members = {"members": ["sent", "food"]}
    assert http.put("/v1/prompts/team", json=members).json()["members"] == members["members"]
    error_of(http.delete("/v1/prompts/sent"), 409)
    assert http.delete("/v1/prompts/team").status_code == 204
    assert http.delete("/v1/prompts/sent").status_code == 204
    error_of(http.delete("/v1/prompts/sent"), 404)


def test_what_is_sent_wrongly(http, engine):
    good = save({"prompt": values(5)})
    kind = {"Content-Type": "application/vnd.safetensors"}
    names = engine.library.names()
    for name in ("..%2Fout", "%2e%2e/out", "a%00b", "%ff", ".hidden", "base", "x" * 201, "a/b", ""):
        answer = http.put(f"/v1/prompts/{name}", content=good, headers=kind)
        assert answer.status_code in (400, 404), (name, answer.text)
    error_of(http.put("/v1/prompts/new", content=b"nothing", headers=kind), 400)
    error_of(http.put("/v1/prompts/new", content=good, headers={"Content-Type": "a/b"}), 415)
    error_of(http.put("/v1/prompts/new", content=b"x" * 20_001, headers=kind), 413)
    wide = save({"prompt": np.ones((2, 8), np.float32)})
    error_of(http.put("/v1/prompts/new", content=wide, headers=kind), 400)
    error_of(http.put("/v1/prompts/food", content=good, headers=kind), 409)
    for body in (b"[" * 9000, b"{}", b'{"members": ["food", "nobody"]}', b'{"members": 3}'):
        answer = http.put(
            "/v1/prompts/new", content=body, headers={"Content-Type": "application/json"}
        )
        error_of(answer, 400)
    error_of(http.delete("/v1/prompts/food"), 409)
    assert engine.library.names() == names


def test_a_reload(http, engine):
    save_prompt(engine.library.folder / "later", values(7))
    answer = http.post("/v1/prompts/reload").json()
    assert answer == {"total": 5, "left_out": []}
    assert http.get("/v1/models/later").status_code == 200
    (engine.library.folder / "later" / "prompt.safetensors").write_bytes(b"")
    assert "later is left out" in http.post("/v1/prompts/reload").json()["left_out"][0]
    error_of(http.get("/v1/models/later"), 404)


def test_a_file_that_turns_out_to_be_none(http, engine):
    save_prompt(engine.library.folder / "spoilt", values(7))
    http.post("/v1/prompts/reload")
    engine.library._forget("spoilt")
    (engine.library.folder / "spoilt" / "prompt.safetensors").write_bytes(b"")
    answer = http.post("/v1/completions", json={"model": "spoilt", "prompt": "soup"})
    assert error_of(answer, 422)["code"] == "prompt_unusable"
    (engine.library.folder / "spoilt" / "prompt.safetensors").unlink()
    http.post("/v1/prompts/reload")


def test_the_nearest_pieces_of_a_prompt(http, engine):
    rows = http.get("/v1/prompts/deep/food/nearest", params={"count": 3}).json()["rows"]
    table = np.asarray(engine.model.embeddings)[: engine.model.vocabulary.size]
    one = values(1)
    cosines = one @ table.T
    cosines /= np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(table, axis=1)
    for row, expected, vector in zip(rows, cosines, one, strict=True):
        assert row["norm"] == pytest.approx(np.linalg.norm(vector))
        found = [near["cosine"] for near in row["nearest"]]
        np.testing.assert_allclose(found, np.sort(expected)[::-1][:3], atol=1e-5)
    error_of(http.get("/v1/prompts/both/nearest"), 404)
    error_of(http.get("/v1/prompts/food/nearest", params={"count": 0}), 400)


# What is left.


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_ask_for_nothing_from_elsewhere(address, path):
    page = httpx.get(address + path)
    assert page.status_code == 200
    outside = r"""(src|href)\s*=\s*(?!["']?(data:|#))|https?://|@import|url\("""
    assert not re.search(outside, page.text)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_every_route_and_field_is_in_the_documentation(http):
    schema, page = http.get("/openapi.json").json(), http.get("/docs").text
    for path, methods in schema["paths"].items():
        for method, facts in methods.items():
            assert f"<h3><code>{method.upper()} {path}</code></h3>" in page
            assert facts["summary"] in page
    for facts in schema["components"]["schemas"].values():
        for name in facts["properties"]:
            assert f"<th><code>{name}</code></th>" in page


def test_metrics(http):
    http.post("/v1/completions", json={"model": "food", "prompt": "soup"})
    http.get("/v1/prompts/deep/food")
    http.get("/nowhere/" + "x" * 50)
    text = http.get("/metrics").text
    assert 'http_requests_total{method="POST",route="/v1/completions",status="200"}' in text
    assert 'route="/v1/prompts/{name:path}"' in text
    assert 'method="GET",route="other",status="404"' in text
    assert "xxxxx" not in text
    assert "prompt_tuning_engine_waiting 0.0" in text
    assert "prompt_tuning_engine_tokens_total 7.0" in text
    assert 'http_request_seconds_bucket{le="0.1",route="/v1/completions"}' in text
    assert "prompt_tuning_completion_tokens_total" in text


def test_an_engine_that_ended_by_itself(http, spoilt):
    assert http.get("/readyz").json() == {"status": "ready"}
    spoilt("is_ready", False)
    assert http.get("/readyz").status_code == 503
    assert http.get("/healthz").status_code == 503
    assert http.get("/v1/load").json()["state"] == "dead"


def test_load_and_methods(http):
    load = http.get("/v1/load").json()
    assert load["engine"] == {"waiting": 0, "tokens": 7, "slots": 4}
    assert load["state"] == "ready"
    error_of(http.get("/v1/completions"), 405)
    for path in ("/", "/healthz", "/readyz", "/v1/models", "/metrics"):
        answer = http.head(path)
        assert (answer.status_code, answer.content) == (200, b""), path
    assert http.head("/v1/completions").status_code == 405
    assert http.head("/nowhere").status_code == 404
    error_of(http.post("/nowhere"), 404)
    error_of(http.get("/v1/models/"), 404)


def test_the_schema_is_whole_and_needs_nothing_from_elsewhere(http):
    schema = http.get("/openapi.json").json()
    assert {"/v1/completions", "/v1/classify", "/v1/prompts", "/metrics"} <= schema["paths"].keys()
    assert schema["paths"]["/v1/completions"]["post"]["security"] == [{"HTTPBearer": []}]
    assert "://" not in json.dumps(schema)
    for methods in schema["paths"].values():  # all errors are told in one way
        for facts in methods.values():
            for status, answer in facts["responses"].items():
                if status >= "400" and "content" in answer:
                    (content,) = answer["content"].values()
                    assert content["schema"] == {"$ref": "#/components/schemas/ErrorBody"}
