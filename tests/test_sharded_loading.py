"""Weights go straight into their shards: what a host holds while it loads a model, measured.

The anonymous memory of each of two processes that load a made-up model of 270 MB together; what is
mapped from a file does not count, since the system can drop it.
"""

import json
import os
import subprocess
import sys
import threading

import jax
import pytest
import tiny
import xla_flags
from common import HANG
from test_hosts import free_port

from prompt_tuning_jax import T5Config, load_model
from prompt_tuning_jax.checkpoints import huggingface, t5x
from prompt_tuning_jax.devices import hosts, sharding
from prompt_tuning_jax.params import flatten

CONFIG = T5Config(
    vocab_size=4096,
    emb_dim=1024,
    num_heads=16,
    head_dim=64,
    mlp_dim=2816,
    num_encoder_layers=2,
    num_decoder_layers=2,
)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """Form -> (path, bytes in all)."""
    directory = tmp_path_factory.mktemp("large")
    params = tiny.make_params(CONFIG)
    huggingface.save(directory / "huggingface", CONFIG, params)
    path = t5x.save(directory / "t5x", params)
    size = sum(weight.nbytes for weight in flatten(params).values())
    return {"huggingface": (directory / "huggingface", size), "t5x": (path, size)}


def measure(path, mesh: str, count: int) -> list[dict]:
    """What each of `count` processes, of one device each, finds."""
    address = f"127.0.0.1:{free_port()}"
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, path, mesh],
            stdout=subprocess.PIPE,
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": xla_flags.ONE_DEVICE}
            # glibc keeps freed blocks below 32 MB, as these weights are, and gives back larger ones
            | {"MALLOC_MMAP_THRESHOLD_": "1000000"}
            | dict(zip(hosts.VARIABLES, (address, str(count), str(i)), strict=True)),
        )
        for i in range(count)
    ]
    try:
        printed = [process.communicate(timeout=HANG)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [json.loads(text.splitlines()[-1]) for text in printed]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["model:2", "fsdp:2"])
@pytest.mark.parametrize("form", ["huggingface", "t5x"])
def test_a_host_never_holds_the_whole_model(checkpoints, form, mesh):
    path, size = checkpoints[form]
    (whole,) = measure(path, "data:1", count=1)
    assert whole["loading"] > 0.95 * size
    for host in measure(path, mesh, count=2):
        assert 0.45 * size < host["loading"] < 0.75 * size
        assert host["fingerprint"] == whole["fingerprint"]
        assert host["hashing"] < 0.9 * size


class Peak:
    """While inside, the most anonymous memory beyond what there was at first, in `bytes`."""

    def __init__(self):
        self._first, self._stop = anonymous_memory(), threading.Event()
        self.bytes = 0

    def _watch(self) -> None:
        while not self._stop.wait(0.002):
            self.bytes = max(self.bytes, anonymous_memory() - self._first)

    def __enter__(self) -> "Peak":
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._stop.set()
        self._thread.join()


def anonymous_memory() -> int:
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith("RssAnon"))


def main(path: str, mesh: str) -> None:
    with hosts.connected():
        jax.device_put(0).block_until_ready()
        mesh = sharding.make_mesh(mesh)
        peak = Peak()
        with peak:
            model = load_model(path, mesh=mesh)
            jax.block_until_ready(model.params)
        loading = peak.bytes
        with Peak() as more:
            found = model.fingerprint
        print(
            json.dumps({"loading": loading, "hashing": loading + more.bytes, "fingerprint": found})
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
