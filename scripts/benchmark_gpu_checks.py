"""The first worker of benchmark_gpu.py: how fast the device multiplies, and whether it is right.

It reports the rate of a large bfloat16 matrix product, how far the prompt's gradient in bfloat16 is
from that of plain attention in float32 in each form of attention that the library has, and what a
step of each row of the benchmark has to compute at least.
"""

import dataclasses
import statistics
import time
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from benchmark_jax import config_and_spread, facts, random_batch, random_model, random_prompt
from benchmark_worker import Repeat, Settings, serve

from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.attention.choice import FORMS
from prompt_tuning_jax.planning.arithmetic import useful_flops
from prompt_tuning_jax.planning.step import Lengths, abstract_params

PRODUCTS = 20  # in a turn
TURNS = 3
LIMIT = 0.02  # of a gradient's relative error


def attention_forms() -> dict[str, dict[str, Any]]:
    """What each form of attention is called, and the fields of a config that choose it."""
    return {form: {"attention": form} for form in FORMS if form != "auto"}


def matrix_rate(width: int) -> float:
    """Flops per second of a bfloat16 product of two random matrices [width, width]."""
    left, right = (
        jax.random.normal(jax.random.key(seed), (width, width), jnp.bfloat16) for seed in (0, 1)
    )
    product = jax.jit(jnp.matmul)
    jax.block_until_ready(product(left, right))
    seconds = []
    for _ in range(TURNS):
        started = time.perf_counter()
        for _ in range(PRODUCTS):
            last = product(left, right)
        jax.block_until_ready(last)
        seconds.append(time.perf_counter() - started)
    return 2 * width**3 * PRODUCTS / statistics.median(seconds)


def padded_batch(settings: Settings) -> dict[str, np.ndarray]:
    """Rows of different lengths, from full ones down to a few tokens."""
    batch, config = random_batch(settings), config_and_spread(settings["config"])[0]
    for name, array in batch.items():
        rows, longest = array.shape
        for row, length in enumerate(np.linspace(longest, 3, rows).astype(int)):
            array[row, length:] = 0 if name.endswith("weights") else config.pad_id
    return batch


def gradient_errors(settings: Settings) -> dict[str, float | str]:
    """|gradient - plain one| / |plain one| of each form, or why it is not to be had here."""
    model, batch = random_model(settings), padded_batch(settings)
    prompt = random_prompt(settings)

    def gradient(fields: Mapping[str, Any], params: Any) -> np.ndarray:
        one = FrozenModel(dataclasses.replace(model.config, **fields), params)
        return np.asarray(jax.grad(lambda values: one.loss(batch, values))(jnp.asarray(prompt)))

    dense = attention_forms()["dense"]
    with jax.default_matmul_precision("highest"):
        exact = jax.tree.map(lambda x: x.astype(jnp.float32), model.params)
        plain = gradient({**dense, "dtype": jnp.float32}, exact)
    found: dict[str, float | str] = {}
    for name, fields in attention_forms().items():
        try:
            difference = gradient(fields, model.params) - plain
        except (ValueError, NotImplementedError) as error:
            found[name] = str(error)
        else:
            found[name] = float(np.linalg.norm(difference) / np.linalg.norm(plain))
    return found


def least_flops(row: Mapping[str, Any]) -> int:
    """What a row's step has to compute: half of a training step's, where nothing is trained."""
    config, _ = config_and_spread(row["config"])
    config = dataclasses.replace(config, scan_layers=True)  # as many weights, and counted sooner
    lengths = Lengths(**row["lengths"])
    parameters = {name: x.size for name, x in abstract_params(config, lengths).items()}
    return useful_flops(parameters, config, lengths) // (1 if row["trains"] else 2)


def check(settings: Settings) -> tuple[Repeat, dict[str, Any]]:
    errors = gradient_errors(settings)
    of_causal = gradient_errors({**settings, "config": settings["causal"]})
    errors |= {f"{name}, causal": error for name, error in of_causal.items()}
    measured = [error for error in errors.values() if not isinstance(error, str)]
    return lambda times: None, facts({}) | {
        "matrix_rate": matrix_rate(settings["width"]),
        "gradient_errors": errors,
        "is_right": all(error < LIMIT for error in measured),
        "useful_flops": {name: least_flops(row) for name, row in settings["rows"].items()},
    }


if __name__ == "__main__":
    serve({"check": check})
