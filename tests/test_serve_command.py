"""`prompt-tuning serve`: it says where it listens with a line that works, and ends as it should."""

import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading

import httpx
import pytest
import xla_flags

from prompt_tuning_jax import TunedPrompt
from prompt_tuning_jax.checkpoints.prompt_file import save_prompt
from prompt_tuning_jax.commands.inference import serve as command
from prompt_tuning_jax.commands.inference.serve import serve
from prompt_tuning_jax.errors import UsageError
from prompt_tuning_jax.serving.set_up import shapes_of, token_of
from prompt_tuning_jax.settings.serve_config import ServeConfig

# As little as can be compiled.
SMALL = {
    "max_input_length": 16,
    "max_prompt_length": 4,
    "max_length": 8,
    "max_label_length": 4,
    "batch_size": 1,
    "slots": 1,
    "device_prompts": 2,
}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("prompts")
    values = model.embeddings[5:8]
    metadata = {"base_model_fingerprint": model.fingerprint, "verbalizers": ["yes", "no"]}
    save_prompt(folder / "mood", TunedPrompt(values, "prefix", metadata))
    return folder


def arguments(model_dir, prompts, **more):
    given = SMALL | {"model": model_dir, "prompts": prompts, "port": 0} | more
    return [f"--{name}={value}" for name, value in given.items()]


def test_it_answers_and_ends(model_dir, prompts):
    """From the command line to SIGTERM, which comes while somebody waits."""
    line = [sys.executable, "-m", "prompt_tuning_jax", "serve", *arguments(model_dir, prompts)]
    environment = os.environ | {"XLA_FLAGS": xla_flags.ONE_DEVICE, "PROMPT_TUNING_TOKEN": "secret"}
    server = subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment)
    too_long = threading.Timer(300, server.kill)  # whatever it does not say is not waited for
    too_long.start()
    try:
        said = []
        for each in server.stderr:
            said.append(each.rstrip())
            if "curl" in each:
                break
        assert "1 prompts" in said[0]
        assert re.search(r"\d+ programs ready after \d+ s", said[1])
        address = re.search(r"http://127\.0\.0\.1:\d+", said[2])[0]
        words = shlex.split(said[3].replace("$PROMPT_TUNING_TOKEN", "secret"))
        headers = dict(
            word.split(": ", 1)
            for word, kind in zip(words[1:], words, strict=False)
            if kind == "-H"
        )
        assert words[0] == "curl"
        found = httpx.post(words[1], content=words[words.index("-d") + 1], headers=headers)
        assert found.status_code == 200
        assert found.json()["model"] == "mood"
        assert httpx.get(f"{address}/v1/models").status_code == 401
        stream = {"model": "mood", "prompt": "the soup was good", "max_tokens": 8, "stream": True}
        with httpx.stream(
            "POST", f"{address}/v1/completions", json=stream, headers=headers
        ) as answer:
            lines = answer.iter_lines()
            first = next(lines)
            server.send_signal(signal.SIGTERM)
            rest = list(lines)
        assert first.startswith("data: ")
        assert rest[-2:] == ["data: [DONE]", ""]
        assert server.wait(60) == 0
        assert "all that was accepted is answered" in server.stderr.read()
    finally:
        too_long.cancel()
        server.kill()
        server.communicate()


@pytest.mark.parametrize("asked", [{"replicas": 2}, {"max_replicas": 3}])
def test_several_engines_are_a_cluster_s(asked):
    with pytest.raises(ValueError, match=r"Several replicas are a cluster's: add .*ray"):
        serve(ServeConfig(**asked))


def test_an_address_that_is_taken_is_said_before_any_work(monkeypatch):
    monkeypatch.setattr(command, "engine_of", lambda *_, **__: pytest.fail("too late"))
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(OSError, match="Cannot listen at"):
            serve(port=other.getsockname()[1])


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "example.org"])
def test_others_need_a_token(host, tmp_path, monkeypatch):
    monkeypatch.delenv("PROMPT_TUNING_TOKEN", raising=False)
    with pytest.raises(ValueError, match="give it a token"):
        token_of(ServeConfig(host=host))
    assert token_of(ServeConfig(host=host, allow_no_token=True)) is None
    (tmp_path / "token").write_text("open sesame\n")
    assert token_of(ServeConfig(host=host, token_file=tmp_path / "token")) == "open sesame"
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ValueError, match="empty"):
        token_of(ServeConfig(host=host, token_file=tmp_path / "token"))
    with pytest.raises(FileNotFoundError, match="is to hold the token"):
        token_of(ServeConfig(host=host, token_file=tmp_path / "nothing"))
    monkeypatch.setenv("PROMPT_TUNING_TOKEN", "of the environment")
    assert token_of(ServeConfig(host=host)) == "of the environment"


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_this_machine_needs_none(host, monkeypatch):
    monkeypatch.delenv("PROMPT_TUNING_TOKEN", raising=False)
    assert token_of(ServeConfig(host=host)) is None


def test_the_shapes_are_few_and_hold_what_is_asked_for():
    shapes = shapes_of(ServeConfig())
    assert shapes.texts == (1, 8, 32)
    assert shapes.lengths == (40, 60, 80, 120, 160, 240, 320, 480, 640)
    assert shapes.kept_lengths == (40, 160, 640)
    assert shapes.slots == (1, 4, 16, 64)
    assert shapes.label_lengths == (4, 32)
    small = shapes_of(ServeConfig(**SMALL))
    assert (small.texts, small.lengths, small.slots) == ((1,), (20,), (1,))
    assert small.label_lengths == (4,)
    long = shapes_of(ServeConfig(max_input_length=100))
    assert (long.lengths, long.kept_lengths) == ((57, 85, 114, 171, 228), (57, 228))
    few = ServeConfig(max_input_length=100, max_prompt_length=20)
    assert (shapes_of(few).lengths, shapes_of(few).front_lengths) == ((60, 90, 120), ())
    both, causal = shapes_of(few, in_front=True), shapes_of(few, in_front=True, is_causal=True)
    assert (both.lengths, both.front_lengths) == ((60, 90, 120), (70, 95, 120))
    assert causal.lengths == causal.front_lengths == both.front_lengths
    odd = shapes_of(ServeConfig(batch_size=3, slots=5, device_prompts=1))
    assert (odd.texts, odd.slots, odd.prompts) == ((1, 3), (1, 5), 3)
    split = shapes_of(ServeConfig(batch_size=10, slots=10, device_prompts=1), parts=4)
    assert (split.texts, split.slots, split.prompts) == ((4, 12), (12,), 12)


def test_numbers_out_of_bounds():
    with pytest.raises(UsageError, match="port"):
        ServeConfig(port=70000)
