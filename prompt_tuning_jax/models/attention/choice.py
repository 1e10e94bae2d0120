"""Which form attention takes: by what was asked, the devices' kind, the dtype and the shapes.

    dense     all scores [B, H, L, S] in memory
    chunked   those of a few queries at a time, computed again in the backward pass
    fused     none in memory: one kernel of the TPU's or the GPU's, forward and backward

B batch   H heads   L queries   S keys   K head dim
"""

from typing import Any, NamedTuple

import jax
from jax.interpreters import pxla
from jax.sharding import AbstractMesh, Mesh

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.models.attention import cudnn, tpu_kernel

FORMS = ("auto", "dense", "chunked", "fused")
# Rows up to this length, and scores of one layer up to this size, are kept as they are.
DENSE_LENGTH = 512
DENSE_BYTES = 2**25
DEFAULT_CHUNK = 128
# With fewer queries than this a kernel's blocks would be padding, mostly.
FUSED_QUERIES = 64
_FUSED = {"tpu": tpu_kernel, "gpu": cudnn}


def check_form(form: str, chunk: int | None) -> None:
    """Refuses, with a ValueError, a form or a number of queries at a time that there is none of."""
    if form not in FORMS:
        raise ValueError(f"{spelled('attention')} is one of {', '.join(FORMS)}, not {form!r}.")
    if chunk is not None and chunk < 1:
        raise ValueError(
            f"{spelled('attention_chunk')} must be 1 or more, not {chunk}: to have all queries "
            f"attend at once, set {spelled('attention', 'dense')}."
        )


class Shape(NamedTuple):
    """Of the scores of one layer, and of a head."""

    rows: int
    heads: int
    queries: int
    keys: int
    head_dim: int
    is_capped: bool = False


class Choice(NamedTuple):
    """A form, never "auto"; how many queries attend at a time; the devices it is for."""

    form: str
    at_once: int
    platform: str


def choose(form: str, chunk: int | None, shape: Shape, dtype: Any, platform: str) -> Choice:
    """The form for some shapes.

    "auto" is fused where the devices have a kernel for these shapes and no `chunk` is asked for,
    else chunked where rows and scores are large, else dense. "fused" is the same on a TPU or a GPU;
    on a CPU it is the TPU's kernel, interpreted: slow, for tests.
    """
    kernel = _FUSED.get(platform, tpu_kernel if form == "fused" else None)
    asked = form == "fused" or (form == "auto" and chunk is None)
    L, S, K = shape.queries, shape.keys, shape.head_dim
    if asked and kernel and L >= FUSED_QUERIES and kernel.fits(L, S, K, dtype, shape.is_capped):
        return Choice("fused", L, platform)
    at_once = queries_at_once(form, chunk, shape)
    return Choice("chunked" if at_once < shape.queries else "dense", at_once, platform)


def queries_at_once(form: str, chunk: int | None, shape: Shape) -> int:
    """How many of each row's queries attend at a time where no kernel does it."""
    if form == "dense":
        return shape.queries
    scores = 4 * shape.rows * shape.heads * shape.queries * shape.keys
    is_large = shape.queries > DENSE_LENGTH and scores > DENSE_BYTES
    if is_large or chunk is not None or form == "chunked":
        return min(chunk or DEFAULT_CHUNK, shape.queries)
    return shape.queries


def active_mesh() -> Mesh | AbstractMesh | None:
    """The mesh that is traced for; None where there is none. T5X enters meshes the older way."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        mesh = pxla.thread_resources.env.physical_mesh
    return None if mesh.empty else mesh


def platform_of(mesh: Mesh | AbstractMesh | None) -> str:
    """`cpu`, `gpu` or `tpu`: the kind of the mesh's devices, which need not be here."""
    device = mesh and mesh.abstract_mesh.abstract_device
    return device.platform if device else jax.default_backend()
