"""Two engines in a Ray cluster on this machine: what clients get is what they get from one."""

import concurrent.futures
import dataclasses
import importlib.util
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import httpx
import numpy as np
import openai
import psutil
import pytest
from serving_client import send
from serving_engine import random_prompts

from prompt_tuning_jax import save_prompt
from prompt_tuning_jax.settings.serve_config import ServeConfig

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        importlib.util.find_spec("ray") is None, reason="need ray: pip install '.[ray]'"
    ),
]
TEXTS = ["the soup was good", "we had bread", "tea", "and it was very bad"]
LABELS = ["yes", "no"]
TOKENS = 8
SMALL = {
    "max_input_length": 16,
    "max_prompt_length": 8,
    "max_length": TOKENS,
    "max_label_length": 4,
    "batch_size": 4,
    "slots": 4,
    "device_prompts": 4,
    "replicas": 2,
}


@pytest.fixture(scope="module")
def prompts(model):
    found = random_prompts(model.config.emb_dim)
    return {name: prompt for name, prompt in found.items() if prompt.visibility == "full"}


@pytest.fixture(scope="module")
def folder(prompts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompts")
    for name, prompt in prompts.items():
        save_prompt(folder / name, prompt, verbalizers=LABELS)
    return folder


@pytest.fixture(scope="module")
def config(model_dir, folder):
    return ServeConfig(model=str(model_dir), prompts=str(folder), **SMALL)


@pytest.fixture(scope="module")
def address(config):
    import ray
    from ray import serve
    from ray.serve.config import HTTPOptions

    from prompt_tuning_jax.serving.ray.application import NAME, QUIET, application

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ray.init(num_cpus=6, include_dashboard=False, logging_level="warning")
    serve.start(http_options=HTTPOptions(host="127.0.0.1", port=port), logging_config=QUIET)
    serve.run(application(config), name=NAME, route_prefix="/")
    yield f"http://127.0.0.1:{port}"
    serve.shutdown()
    ray.shutdown()


@pytest.fixture(scope="module")
def expected(model, prompts):
    """(text, name) -> what `model` writes, and its scores of the labels."""
    found = {}
    for name, prompt in prompts.items():
        written = model.generate(TEXTS, prompt, max_length=TOKENS).texts
        scores = model.classify(TEXTS, LABELS, prompt).scores
        found |= {(text, name): each for text, *each in zip(TEXTS, written, scores, strict=True)}
    return found


def written(address, text, name):
    body = {"model": name, "prompt": text, "max_tokens": TOKENS}
    answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def streamed(address, text, name):
    with openai.OpenAI(api_key="-", base_url=f"{address}/v1", max_retries=0, timeout=120) as client:
        chunks = client.completions.create(model=name, prompt=text, max_tokens=TOKENS, stream=True)
        return "".join(chunk.choices[0].text for chunk in chunks)


def scored(address, text, name):
    body = {"prompt": name, "texts": [text]}
    answer = httpx.post(f"{address}/v1/classify", json=body, timeout=120)
    assert answer.status_code == 200, answer.text
    return list(answer.json()["data"][0]["scores"].values())


def check_all(address, expected, until=lambda done: done >= 1):
    """Many clients at once, round after round; every answer is there, and right."""
    asked = list(expected)
    rounds = 0
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        while not until(rounds):
            each = [
                (pool.submit(written, address, *one), pool.submit(streamed, address, *one),
                 pool.submit(scored, address, *one))
                for one in asked
            ]  # fmt: skip
            for one, answers in zip(asked, each, strict=True):
                text, stream, scores = (answer.result() for answer in answers)
                assert text == stream == expected[one][0]
                np.testing.assert_allclose(scores, expected[one][1], atol=1e-4)
            rounds += 1
    return rounds


def replicas():
    """The processes of the engines, which Ray gives this name."""
    listed = ["pgrep", "-f", "^ray::ServeReplica:prompt_tuning:Replica"]
    return set(map(int, subprocess.run(listed, capture_output=True, text=True).stdout.split()))


def wait_for(is_so, seconds=300):
    end = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.5)


def test_settings_of_a_config_file(model_dir):
    from prompt_tuning_jax.serving.ray import app

    given = {
        "model": str(model_dir),
        "replicas": 2,
        "max_replicas": 5,
        "slots": 8,
        "replica_resources": ["GPU=0.5", "TPU=4"],
    }
    made = app(given)._bound_deployment.init_args[0]._bound_deployment
    scaling = made._deployment_config.autoscaling_config
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.target_ongoing_requests == 8
    options = made.ray_actor_options
    assert (options["num_cpus"], options["num_gpus"], options["resources"]) == (0, 0.5, {"TPU": 4})


def test_no_more_replicas_at_least_than_at_most(model_dir):
    from prompt_tuning_jax.serving.ray import app

    with pytest.raises(ValueError, match=r"max_replicas.* is less than .*replicas"):
        app({"model": str(model_dir), "replicas": 3, "max_replicas": 2})


def test_a_crowd_of_clients_gets_what_each_would_get_alone(address, expected):
    check_all(address, expected, lambda rounds: rounds >= 3)


def test_what_one_replica_is_sent_all_have(address, model, prompts):
    one = dataclasses.replace(prompts["p1"], values=prompts["p1"].values * 2)
    send(address, "sent", one, verbalizers=LABELS)
    mine = model.generate(TEXTS[:1], one, max_length=TOKENS).texts[0]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(written, address, TEXTS[0], "sent") for _ in range(32)]
        names = [pool.submit(httpx.get, f"{address}/v1/models/sent") for _ in range(16)]
    assert {answer.result() for answer in asked} == {mine}
    assert {answer.result().status_code for answer in names} == {200}
    assert httpx.delete(f"{address}/v1/prompts/sent", timeout=120).status_code == 204
    gone = [httpx.get(f"{address}/v1/models/sent").status_code for _ in range(16)]
    assert set(gone) == {404}


def test_one_prompt_keeps_both_engines_busy(address, expected):
    """Though requests for a prompt go where it is, as long as there is room."""
    before = {pid: psutil.Process(pid).cpu_times().user for pid in replicas()}
    asked = [(text, "p1") for text in TEXTS] * 20
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        found = list(pool.map(lambda one: written(address, *one), asked))
    assert found == [expected[one][0] for one in asked]
    spent = [psutil.Process(pid).cpu_times().user - x for pid, x in before.items()]
    assert min(spent) > 0.2 * max(spent) > 0


def test_a_request_waits_no_longer_than_it_says(address):
    body = {"model": "p1", "prompt": TEXTS[0], "max_tokens": TOKENS}
    started = time.monotonic()
    answer = httpx.post(
        f"{address}/v1/completions", json=body, headers={"X-Request-Timeout": "0.001"}, timeout=60
    )
    assert answer.status_code == 504, answer.text
    assert time.monotonic() - started < 10


def test_names_and_routes_come_through(address):
    for path, status in {
        "/v1/models/a%3Fb": 404,
        "/healthz": 200,
        "/readyz": 200,
        "/nowhere": 404,
        "/": 200,
    }.items():
        answer = httpx.get(f"{address}{path}", timeout=60)
        assert answer.status_code == status, (path, answer.text)
    assert "a?b" in httpx.get(f"{address}/v1/models/a%3Fb").json()["error"]["message"]


def test_a_replica_that_is_killed_loses_no_request(address, expected):
    """Nor does a stream end early; Ray starts another replica in its place."""
    before = replicas()
    assert len(before) == 2
    victim = min(before)
    killer = threading.Timer(1.0, os.kill, (victim, signal.SIGKILL))
    killer.start()
    end = time.monotonic() + 8
    assert check_all(address, expected, lambda _: time.monotonic() > end) > 1
    assert victim not in replicas()
    wait_for(lambda: len(replicas()) == 2)
    check_all(address, expected)


def test_a_restart_in_turn_drops_no_request(address, config, expected):
    """All engines are others afterwards, as after a new version of the application."""
    from ray import serve

    from prompt_tuning_jax.serving.ray.application import NAME, application

    before, done = replicas(), threading.Event()
    changed = dataclasses.replace(config, max_waiting=config.max_waiting + 1)

    def restart():
        try:
            serve.run(application(changed), name=NAME, route_prefix="/")
        finally:
            done.set()

    work = threading.Thread(target=restart)
    work.start()
    assert check_all(address, expected, lambda _: done.is_set()) > 1
    work.join()
    wait_for(lambda: len(replicas()) == 2 and not replicas() & before)
    check_all(address, expected)


def after(address, text, name):
    """(status, the text or why there is none) near a server's end; (None, None) after it."""
    body = {"model": name, "prompt": text, "max_tokens": TOKENS}
    try:
        answer = httpx.post(f"{address}/v1/completions", json=body, timeout=120)
    except httpx.ConnectError:
        return None, None
    if answer.status_code == 200:
        return 200, answer.json()["choices"][0]["text"]
    if answer.headers["content-type"] != "application/json":  # of Ray's proxy, with no application
        assert answer.status_code in (404, 503), answer.text
        return None, None
    return answer.status_code, answer.json()["error"]["code"]


def test_the_command_ends_what_it_accepted(model_dir, folder, expected):
    """And its own cluster alone: the one of the other tests goes on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    given = SMALL | {"model": model_dir, "prompts": folder, "port": port, "ray": True}
    line = [sys.executable, "-m", "prompt_tuning_jax", "serve"]
    line += [f"--{name}={value}" for name, value in given.items()]
    server = subprocess.Popen(line, stderr=subprocess.PIPE, text=True)
    try:
        for said in server.stderr:
            if said.startswith("Listening"):
                break
        rest = threading.Thread(target=server.stderr.read, daemon=True)
        rest.start()
        here = f"http://127.0.0.1:{port}"
        asked = list(expected) * 4
        with concurrent.futures.ThreadPoolExecutor(12) as pool:
            work = [pool.submit(after, here, *one) for one in asked]
            concurrent.futures.wait(work, 120, concurrent.futures.FIRST_COMPLETED)
            server.send_signal(signal.SIGTERM)
            found = [each.result() for each in work]
        assert {status for status, _ in found} <= {200, 503, None}
        assert any(status == 200 for status, _ in found)
        for one, (status, text) in zip(asked, found, strict=True):
            assert text == (expected[one][0] if status == 200 else "stopping" if status else None)
        assert server.wait(120) == 0
    finally:
        server.kill()


def test_the_other_cluster_is_still_there(address, expected):
    check_all(address, expected)
