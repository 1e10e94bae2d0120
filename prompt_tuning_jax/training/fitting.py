"""The form of the training step: the fastest that fits the devices' memory, and one line about it.

What the backward pass computes again, and in how many parts a batch goes through the model, change
the memory and not the step. Each form is compiled, from shapes, until the compiler says that one
fits; what it said is kept with JAX's compiled programs.

    attention: fused in rows of 612 (gpu); remat minimal, 2 microbatches: 61.20 of 75.00 GiB
"""

import bisect
import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh

from prompt_tuning_jax import __version__
from prompt_tuning_jax.checkpoints.atomic import new_file
from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.devices.hosts import gather
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.models.attention.choice import Choice, active_mesh, choose, platform_of
from prompt_tuning_jax.models.family import family_of
from prompt_tuning_jax.settings.task_config import lengths_of
from prompt_tuning_jax.settings.train_config import TrainConfig
from prompt_tuning_jax.training.compiled_step import Shapes, compile_if_it_fits, step_and_shapes
from prompt_tuning_jax.training.train_step import network_config

GIB = 2**30
# What a run holds beside its step: the next batches, and what the runtime cannot use.
USABLE = 0.97


class Fit(NamedTuple):
    """The form of a step: what a run changes in its settings.

    Attributes:
      needed: bytes on each device by the compiler's word, and `available` ones; None where the
        devices do not say what they have, or there was nothing to choose.
    """

    remat_policy: str
    microbatches: int
    needed: int | None = None
    available: int | None = None

    @property
    def settings(self) -> dict[str, Any]:
        return {"remat_policy": self.remat_policy, "microbatches": self.microbatches}


def fit(config: TrainConfig, model: FrozenModel, mesh: Mesh, copies: int | None = None) -> Fit:
    """The fastest form that fits; the smallest where none does. What is set is as it is set.

    Args:
      copies: N of runs that train together, None for a run alone.
    """
    forms = list(forms_of(config, model, mesh))
    available = available_memory(config, mesh)
    if available is None or len(forms) == 1:
        return forms[0]

    @functools.cache
    def needed(form: Fit) -> int:
        asked = dataclasses.replace(config, **form.settings)
        return needed_memory(asked, model, mesh, copies)

    def fits(form: Fit) -> bool:
        return needed(form) <= available

    first, *others = forms
    if not fits(first):  # the others are tried in few compilations: each takes less than before it
        found = bisect.bisect_left(others, True, key=fits)
        first = others[min(found, len(others) - 1)]
    return first._replace(needed=needed(first), available=available)


def forms_of(config: TrainConfig, model: FrozenModel, mesh: Mesh) -> Iterator[Fit]:
    """Those that the settings leave open, the fastest first.

    Products with weights are the work, so what they made is computed again only when smaller parts
    of a batch do not help either.
    """
    rows = config.batch_size // sharding.batch_parts(mesh)
    parts = [count for count in range(1, rows + 1) if rows % count == 0]
    if config.microbatches is not None:
        parts = [config.microbatches]
    policies = ["none", "minimal", "full"]
    if config.remat_policy is not None:
        policies = [config.remat_policy]
    elif model.config.remat_policy != "none":
        policies = [model.config.remat_policy]
    for count in parts:
        for policy in policies:
            wasteful = (policy == "none" and count > 1) or (policy == "full" and count < parts[-1])
            if not wasteful or len(policies) == 1:
                yield Fit(policy, count)


def available_memory(config: TrainConfig, mesh: Mesh) -> int | None:
    """Bytes of each device for a step: the least of any host's; None where no device says."""
    if config.device_memory is not None:
        return int(config.device_memory * GIB)
    stats = mesh.local_devices[0].memory_stats() or {}
    limit = int(USABLE * stats.get("bytes_limit", 0))
    if jax.process_count() > 1:
        limit = int(gather(np.array(limit / GIB)).min() * GIB)
    return limit or None


def needed_memory(
    config: TrainConfig, model: FrozenModel, mesh: Mesh, copies: int | None = None
) -> int:
    """Bytes on each device while the step of these settings runs, by the compiler's word."""
    step, shapes = step_and_shapes(config, model, mesh, copies)
    file = _remembered(config, model, mesh, shapes)
    if file is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # then it is asked anew
            return int(json.loads(file.read_text())["bytes"])
    compiled, needed = compile_if_it_fits(step.lower(*shapes))
    if compiled is None:  # more than there is, though it may not say how much
        needed = max(needed, 1 << 50)
    if file is not None:
        with contextlib.suppress(OSError):  # as JAX, which goes on without its directory
            file.parent.mkdir(parents=True, exist_ok=True)
            with new_file(file) as partial:
                partial.write_text(json.dumps({"bytes": needed}))
    return needed


def _remembered(config: TrainConfig, model: FrozenModel, mesh: Mesh, shapes: Shapes) -> Path | None:
    """Where it is kept what a step needs; None where JAX keeps no programs in a directory here.

    Several hosts compile together, or none does, so they ask the compiler each time.
    """
    directory = jax.config.jax_compilation_cache_dir
    if directory is None or "://" in directory or jax.process_count() > 1:
        return None
    device = mesh.devices.flat[0]
    facts = (
        __version__,
        jax.__version__,
        device.client.platform_version,
        device.device_kind,
        mesh.shape,
        network_config(config, model),
        config.microbatches,
        config.prompt_layout,
        config.z_loss,
        config.label_smoothing,
        config.loss_normalization,
        config.is_private,
        jax.tree.map(lambda x: (x.shape, str(x.dtype)), shapes),
    )
    digest = hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
    return Path(directory) / f"step-memory-{digest}.json"


def told(config: TrainConfig, model: FrozenModel, form: Fit) -> str | None:
    """The form in one line; None where there was nothing to choose."""
    parts = [told_attention(config, model)]
    if form.needed is not None:
        count = f", {form.microbatches} microbatches" if form.microbatches > 1 else ""
        parts.append(f"remat {form.remat_policy}{count}: {_told_memory(form)}")
    return "; ".join(part for part in parts if part) or None


def _told_memory(form: Fit) -> str:
    needed, available = (f"{size / GIB:.2f}" for size in (form.needed, form.available))
    if form.needed <= form.available:
        return f"{needed} of {available} GiB"
    smaller = ("batch_size",), ("model_dtype", "int8"), ("mesh", "fsdp:-1")
    rows, weights, spread = (spelled(*setting) for setting in smaller)
    return f"more than the {available} GiB there are; try a smaller {rows}, {weights} or {spread}"


def told_attention(config: TrainConfig, model: FrozenModel) -> str | None:
    """Such as "attention: fused in rows of 612 (tpu)"; None for a model without a choice.

    That of the longest rows that a prompt is in: shorter ones may take another.
    """
    network = network_config(config, model)
    lengths = lengths_of(config.feature_lengths)
    shape = family_of(network).attention_shape(
        network,
        rows=config.batch_size // (config.microbatches or 1),
        inputs=lengths["inputs"],
        targets=lengths["targets"],
        prompt=config.input_rows,
        layout=config.prompt_layout,
    )
    if shape is None:
        return None
    with sharding.active(model.mesh):
        platform = platform_of(active_mesh())
    choice = choose(network.attention, network.attention_chunk, shape, network.dtype, platform)
    return f"attention: {_told_choice(choice)} in rows of {shape.queries} ({platform})"


def _told_choice(choice: Choice) -> str:
    return f"{choice.at_once} queries at a time" if choice.form == "chunked" else choice.form
