"""Malformed and hostile requests get an answer that is theirs: no 500, no traceback, no hang."""

import io
import json
import socket
from urllib.parse import quote

import httpx
import numpy as np
import pytest
import schemathesis
import serving_stand_in
from common import slow
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.serving.http.app import make_app
from prompt_tuning_jax.serving.http.limits import HttpSettings

WIDTH = 16
SETTINGS = HttpSettings(max_body=4000, max_upload=8000, max_texts=4, timeout=5, body_timeout=2)
# The errors that a request can bring upon itself, and success.
FAIR = {200, 201, 204, 400, 404, 405, 408, 409, 413, 415, 422, 429}
FEW = dict(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
KINDS = ("application/vnd.safetensors", "application/x-npy", "application/json")


@pytest.fixture(scope="module")
def engine(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    values = np.random.default_rng(0).normal(size=(3, WIDTH)).astype(np.float32)
    save_prompt(folder / "food", values, verbalizers=["yes", "no"], input_template="{food}!")
    save_prompt(folder / "bare", values)
    with serving_stand_in.over(folder, model) as engine:
        yield engine


@pytest.fixture(scope="module")
def address(engine):
    with serving_stand_in.served(engine, SETTINGS) as address:
        yield address


@pytest.fixture(scope="module")
def http(address):
    with httpx.Client(base_url=address, timeout=20) as client:
        yield client


def check(answer):
    assert answer.status_code in FAIR, (answer.status_code, answer.text)
    assert "Traceback" not in answer.text
    assert "site-packages" not in answer.text
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error"}


ANY_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from(["food", "bare", "base", "soup", "\ud800", "\0", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
OPTIONS = ["max_tokens", "temperature", "top_p", "n", "stop", "stream", "seed", "stream_options"]
COMPLETION = st.fixed_dictionaries(
    {"model": st.just("food") | ANY_JSON, "prompt": st.just("soup") | ANY_JSON},
    optional=dict.fromkeys([*OPTIONS, "logprobs", "echo", "x"], ANY_JSON),
)
CLASSIFICATION = st.fixed_dictionaries(
    {
        "prompt": st.just("food") | ANY_JSON,
        "texts": st.lists(st.fixed_dictionaries({"food": ANY_JSON}) | ANY_JSON) | ANY_JSON,
    },
    optional={"labels": st.lists(st.text(st.characters(), max_size=9)) | ANY_JSON, "x": ANY_JSON},
)


def posted(http, path, body):
    check(http.post(path, content=body, headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("most", [60, slow(2000)])
@pytest.mark.parametrize(
    ("path", "bodies"), [("/v1/completions", COMPLETION), ("/v1/classify", CLASSIFICATION)]
)
def test_bodies_of_the_right_shape_with_wrong_values(http, path, bodies, most):
    @given(bodies)
    @settings(max_examples=most, **FEW)
    def each(body):
        posted(http, path, json.dumps(body).encode())

    each()


@pytest.mark.parametrize("most", [25, slow(1000)])
@pytest.mark.parametrize("path", ["/v1/completions", "/v1/classify"])
def test_bodies_that_are_anything(http, path, most):
    @given(st.binary(max_size=200) | ANY_JSON.map(lambda x: json.dumps(x).encode()))
    @settings(max_examples=most, **FEW)
    def each(body):
        posted(http, path, body)

    each()


def file_of(array):
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


GOOD = np.ones((2, WIDTH), np.float32)
FACTS = json.dumps({"layout": "prefix", "verbalizers": ["a"], "input_template": "{a}"})
FILES = [
    save({"prompt": GOOD}, {"prompt": FACTS}),
    file_of(GOOD),
    file_of(np.array([{"a": 1}], object)),
    b'{"members": ["food", "bare"]}',
]


@pytest.mark.parametrize("most", [80, slow(4000)])
def test_files_that_are_spoilt(http, engine, most):
    """A few bytes of a good one are others; what is placed then is a prompt of this model."""

    @given(
        st.sampled_from(FILES),
        st.sampled_from(KINDS),
        st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=4),
        st.integers(0, 30),
    )
    @settings(max_examples=most, **FEW)
    def each(content, kind, changes, lost):
        content = bytearray(content[: max(1, len(content) - lost)])
        for place, byte in changes:
            content[place % len(content)] = byte
        answer = http.put(
            "/v1/prompts/spoilt", content=bytes(content), headers={"Content-Type": kind}
        )
        check(answer)
        if answer.status_code == 201:
            for name in engine.library.members("spoilt"):
                assert engine.library.get(name).shape[1] == WIDTH
            check(http.post("/v1/classify", json={"prompt": "spoilt", "texts": [{"a": "soup"}]}))
            assert http.delete("/v1/prompts/spoilt").status_code == 204

    each()


@pytest.mark.parametrize("most", [40, slow(2000)])
def test_facts_that_are_anything(http, most):
    names = ["layout", "visibility", "task", "verbalizers", "input_template", "missing"]
    names += ["base_model_fingerprint", "vocabulary_hash", "uploaded", "peft_task_type", "scores"]

    @given(st.dictionaries(st.sampled_from(names), ANY_JSON, max_size=4))
    @settings(max_examples=most, **FEW)
    def each(facts):
        content = save({"prompt": GOOD}, {"prompt": json.dumps(facts)})
        answer = http.put("/v1/prompts/odd", content=content, headers={"Content-Type": KINDS[0]})
        check(answer)
        check(http.get("/v1/prompts/odd"))
        check(http.post("/v1/classify", json={"prompt": "odd", "texts": ["soup", {"a": 1}]}))
        check(http.delete("/v1/prompts/odd"))

    each()


NAMES = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["..", "../..", "/etc/passwd", "food/../../x", "%2e%2e%2f", "\0", "food\0", "C:\\x", "a" * 5000]
)


@pytest.mark.parametrize("most", [40, slow(2000)])
def test_names_that_are_anything(http, engine, most):
    before = sorted(engine.library.folder.parent.rglob("*"))

    @given(NAMES, st.booleans())
    @settings(max_examples=most, **FEW)
    def each(name, raw):
        path = f"/v1/prompts/{quote(name, safe='' if raw else '/')}"
        headers = {"Content-Type": KINDS[0]}
        answer = http.put(path, content=FILES[0], headers=headers)
        check(answer)
        if answer.status_code == 201:
            assert http.delete(path).status_code == 204
        for method in ("GET", "DELETE"):
            if name not in ("food", "bare"):
                check(http.request(method, path))

    each()
    assert sorted(engine.library.folder.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "sent",
    [
        b"\0" * 100,
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 4000 + b"\r\n\r\n",
        b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"GET /v1/models/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"PUT /v1/prompts/x HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab",
    ],
)
def test_what_is_hardly_http(address, sent):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(sent)
        answer = connection.recv(65536)
    assert b" 500 " not in answer.split(b"\r\n")[0]
    assert httpx.get(f"{address}/healthz").status_code == 200


@pytest.mark.parametrize("most", [4, slow(150)])
def test_what_the_schema_allows_and_what_it_does_not(engine, most):
    """Every operation: the answers are those that the schema documents."""
    schema = schemathesis.openapi.from_asgi("/openapi.json", make_app(engine, SETTINGS))
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_schema_conformance,
    ]
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()

        @given(case=operation.as_strategy())
        @settings(max_examples=most, phases=[Phase.generate], **FEW)
        def each(case):
            case.call_and_validate(checks=checks)

        each()
        tried += 1
    assert tried > 8
