"""cuDNN's fused attention against Pallas kernels of our own, with T5's bias, on one GPU.

    PYTHONPATH=. python scripts/benchmark_attention.py --output scripts/results/attention.json
    PYTHONPATH=. python scripts/benchmark_attention.py --tiny    # on a CPU, to see that it all runs

The shape is a layer of T5 1.1 XL's encoder: 32 rows of 512 tokens and a prompt of 100, 32 heads of
64, bfloat16. First both are compared with plain attention in float32, rows padded; then each is
timed in turns, medians of --repeats: cuDNN told the rows' lengths, given a mask, and without a
bias; the Pallas kernels (`pallas_attention.py`) with several blocks. `backward` is what the
gradients of q, k and v take beside `forward`: of cuDNN both together less forward alone.
It is one kernel of cuDNN's or two of Pallas, whose fastest blocks count.
"""

import argparse
import dataclasses
import functools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pallas_attention as pallas
from benchmark import command_line, machine
from rich.console import Console
from rich.table import Table

from prompt_tuning_jax.models.attention import cudnn, dense
from prompt_tuning_jax.models.attention.bias import Bias, mask_bias, toeplitz

CONSOLE = Console(width=110)
BLOCKS = [
    pallas.Blocks(queries, keys, warps, stages)
    for queries, keys in ((128, 64), (64, 128), (64, 64), (128, 128), (128, 32))
    for warps, stages in ((4, 3), (4, 2), (8, 2))
]
Work = Callable[..., Any]


def arrays_of(B: int, H: int, L: int, K: int, dtype: Any) -> tuple[jax.Array, ...]:
    """q, k, v and a gradient [B, H, L, K], and a bias by offset [H, O]."""
    keys = jax.random.split(jax.random.key(0), 5)
    heads = [0.5 * jax.random.normal(key, (B, H, L, K)) for key in keys[:4]]
    return *(x.astype(dtype) for x in heads), jax.random.normal(keys[4], (H, 2 * L - 1))


# ---- right ---------------------------------------------------------------------------------------


def of_cudnn(q, k, v, do, by_offset, seen) -> tuple[jax.Array, ...]:
    """out, and the gradients of q, k and v."""
    out, pull = jax.vjp(lambda *x: cudnn.attend(*x, seen[:, None], by_offset), q, k, v)
    return out, *pull(do)


def of_pallas(q, k, v, do, by_offset, seen, interpret: bool = False) -> tuple[jax.Array, ...]:
    """The same."""
    table, mask = pallas.bias_table(by_offset, q.shape[2], q.dtype), pallas.mask_of(seen)
    out, sums = pallas.forward(q, k, v, table, mask, interpret=interpret)
    given = q, k, v, table, mask, do, sums, delta_of(out, do)
    dq = pallas.backward_q(*given, interpret=interpret)
    return out, dq, *pallas.backward_kv(*given, interpret=interpret)


def delta_of(out: jax.Array, do: jax.Array) -> jax.Array:
    return jnp.sum(out.astype(jnp.float32) * do.astype(jnp.float32), axis=-1)


def of_dense(q, k, v, do, by_offset, seen) -> tuple[jax.Array, ...]:
    """The same, in float32."""
    bias = Bias(mask_bias(seen[:, None]), toeplitz(by_offset, q.shape[2]), by_offset)
    q, k, v, do = (x.astype(jnp.float32) for x in (q, k, v, do))
    with jax.default_matmul_precision("highest"):
        out, pull = jax.vjp(lambda *x: dense.attend(*x, bias, None), q, k, v)
        return out, *pull(do)


def errors(contender: Work, arrays: Sequence[jax.Array]) -> list[float] | str:
    """|x - plain one| / |plain one| of out, dq, dk and dv; or why there are none."""
    rows, L = arrays[0].shape[0], arrays[0].shape[2]
    lengths = np.linspace(L, L // 3, rows).astype(int)  # as rows are padded
    seen = jnp.arange(L)[None, :] < jnp.asarray(lengths)[:, None]
    try:
        found = contender(*arrays, seen)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    pairs = zip(found, of_dense(*arrays, seen), strict=True)
    return [float(jnp.linalg.norm(x - y) / jnp.linalg.norm(y)) for x, y in pairs]


# ---- fast ----------------------------------------------------------------------------------------


def cudnn_works(q, k, v, do, by_offset) -> dict[str, tuple[Work, Sequence[Any]]]:
    """Forward, and forward and backward, with what each is given."""
    seen = jnp.ones((len(q), 1, q.shape[2]), bool)
    ways = {
        "lengths": (seen, by_offset),
        "mask": (seen.at[:, 0, 3].set(False), by_offset),
        "no bias": (seen, None),
    }

    def both(q, k, v, do, seen, by_offset):
        out, pull = jax.vjp(lambda *x: cudnn.attend(*x, seen, by_offset), q, k, v)
        return out, *pull(do)

    works: dict[str, tuple[Work, Sequence[Any]]] = {}
    for name, given in ways.items():
        works[f"cuDNN, {name}: forward"] = jax.jit(cudnn.attend), (q, k, v, *given)
        works[f"cuDNN, {name}: both"] = jax.jit(both), (q, k, v, do, *given)
    return works


def pallas_works(q, k, v, do, by_offset, interpret: bool) -> dict[str, tuple[Work, Sequence[Any]]]:
    table = pallas.bias_table(by_offset, q.shape[2], q.dtype)
    mask = pallas.mask_of(jnp.ones((len(q), q.shape[2]), bool))
    given = q, k, v, table, mask
    out, sums = pallas.forward(*given, interpret=interpret)
    after = *given, do, sums, delta_of(out, do)
    kernels = {
        "forward": (pallas.forward, given),
        "dq": (pallas.backward_q, after),
        "dk, dv": (pallas.backward_kv, after),
    }
    works: dict[str, tuple[Work, Sequence[Any]]] = {}
    for name, (kernel, arrays) in kernels.items():
        for blocks in BLOCKS[:1] if interpret else BLOCKS:
            made = functools.partial(kernel, blocks=blocks, interpret=interpret)
            works[f"Pallas, {dataclasses.astuple(blocks)}: {name}"] = jax.jit(made), arrays
    return works


def timed(work: Work, given: Sequence[Any], times: int, repeats: int) -> float | str:
    """Seconds of one call, the median of turns of several; or why it does not run."""
    try:
        jax.block_until_ready(work(*given))
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:200]
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        for _ in range(times):
            last = work(*given)
        jax.block_until_ready(last)
        seconds.append((time.perf_counter() - started) / times)
    return statistics.median(seconds)


def fastest(seconds: dict[str, float | str]) -> dict[str, float]:
    """Forward and backward of each contender, by its fastest blocks."""

    def least(start: str, end: str) -> float:
        fits = [x for n, x in seconds.items() if n.startswith(start) and n.endswith(end)]
        return min((x for x in fits if not isinstance(x, str)), default=float("nan"))

    found = {}
    for way in ("lengths", "mask", "no bias"):
        forward = least(f"cuDNN, {way}", "forward")
        found[f"cuDNN, {way}: forward"] = forward
        found[f"cuDNN, {way}: backward"] = least(f"cuDNN, {way}", "both") - forward
    found["Pallas: forward"] = least("Pallas", "forward")
    found["Pallas: backward"] = least("Pallas", "dq") + least("Pallas", "dk, dv")
    return {name: x for name, x in found.items() if np.isfinite(x)}


# ---- the program ---------------------------------------------------------------------------------


def show(results: dict[str, Any]) -> None:
    CONSOLE.print({name: results[name] for name in ("device", "errors")})
    table = Table("", "ms")
    for name, seconds in (results["seconds"] | results["fastest"]).items():
        table.add_row(name, seconds if isinstance(seconds, str) else f"{1e3 * seconds:.3f}")
    CONSOLE.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--repeats", type=int, default=5, help="turns")
    parser.add_argument("--output", type=Path, help="JSON file for all figures")
    args = parser.parse_args()
    if args.tiny:
        jax.config.update("jax_platforms", "cpu")
    B, H, L, K = (2, 2, 128, 64) if args.tiny else (32, 32, 612, 64)
    times = 1 if args.tiny else 20
    dtype = jnp.float32 if args.tiny else jnp.bfloat16
    arrays = arrays_of(B, H, L, K, dtype)
    ours = functools.partial(of_pallas, interpret=args.tiny)
    few = arrays_of(2, 4, L, K, dtype)
    works = cudnn_works(*arrays) | pallas_works(*arrays, interpret=args.tiny)
    seconds = {name: timed(*work, times, args.repeats) for name, work in works.items()}
    results = {
        "command": command_line("benchmark_attention.py"),
        "machine": machine(),
        "device": jax.local_devices()[0].device_kind,
        "versions": {"jax": jax.__version__},
        "shape": {"batch": B, "heads": H, "positions": L, "head_dim": K},
        "errors": {"cuDNN": errors(of_cudnn, few), "Pallas": errors(ours, few)},
        "seconds": seconds,
        "fastest": fastest(seconds),
    }
    show(results)
    if args.output:
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
