"""Two engines in a Ray cluster on this machine: what clients get is what they get from one."""

import concurrent.futures
import dataclasses
import importlib.util
import json
import os
import signal
import socket
import subprocess
import threading
import time

import httpx
import numpy as np
import openai
import pytest
from safetensors.numpy import save
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


def test_a_crowd_of_clients_gets_what_each_would_get_alone(address, expected):
    check_all(address, expected, lambda rounds: rounds >= 3)


def test_what_one_replica_is_sent_all_have(address, model, prompts):
    one = dataclasses.replace(prompts["p1"], values=prompts["p1"].values * 2)
    facts = json.dumps({"visibility": "full", "verbalizers": LABELS})
    sent = httpx.put(
        f"{address}/v1/prompts/sent",
        content=save({"prompt": one.values}, {"prompt": facts}),
        headers={"Content-Type": "application/vnd.safetensors"},
        timeout=120,
    )
    assert sent.status_code == 201, sent.text
    mine = model.generate(TEXTS[:1], one, max_length=TOKENS).texts[0]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(written, address, TEXTS[0], "sent") for _ in range(32)]
        names = [pool.submit(httpx.get, f"{address}/v1/models/sent") for _ in range(16)]
    assert {answer.result() for answer in asked} == {mine}
    assert {answer.result().status_code for answer in names} == {200}
    assert httpx.delete(f"{address}/v1/prompts/sent", timeout=120).status_code == 204
    gone = [httpx.get(f"{address}/v1/models/sent").status_code for _ in range(16)]
    assert set(gone) == {404}


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
