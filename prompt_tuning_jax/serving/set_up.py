"""A server's parts by its settings: the model, its prompts, the engine, and who may ask."""

import contextlib
import ctypes
import gc
import ipaddress
import itertools
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.library.mirror import Mirror, is_remote
from prompt_tuning_jax.serving.shapes import Shapes
from prompt_tuning_jax.settings.serve_config import ServeConfig

TOKEN = "PROMPT_TUNING_TOKEN"
MEGABYTE = 2**20
_BUNDLED = ("bundled", "bundled_causal")


def engine_of(config: ServeConfig) -> Engine:
    """The engine, with its model and prompts; it is not started.

    Raises:
      ValueError: settings that do not go together.
    """
    mesh = sharding.make_mesh(config.mesh)
    words = None if config.vocabulary is None else Path(config.vocabulary)
    model = load_model(config.model, config.model_dtype, vocabulary=words, mesh=mesh)
    library = library_of(config, model)
    is_causal = model.config.continues_inputs
    in_front = is_causal or ("isolated", "prefix") in kinds_of(library)
    shapes = shapes_of(config, in_front, is_causal, sharding.batch_parts(mesh))
    return Engine(
        model, library, shapes, config.max_labels, config.max_waiting, max_wait=config.max_wait
    )


def settle() -> None:
    """What there is now stays for good, and what the start needed beside it is given back.

    Python need not stop all to look for garbage among what stays. What loading and compiling freed
    is still the process's, until glibc, where it is, is told to give it back.
    """
    gc.collect()
    gc.freeze()
    if sys.platform == "linux" and (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)):
        trim(0)


def kinds_of(library: PromptLibrary) -> set[tuple[str, str]]:
    """What its prompts see, and where they stand: each kind is compiled for."""
    each = [library.describe(name) for name in library.names()]
    return {(one.visibility, one.layout) for one in each if one.visibility and one.layout}


def http_settings(config: ServeConfig) -> HttpSettings:
    """Who may ask, and for how much.

    Raises:
      FileNotFoundError, ValueError: as `token_of`.
    """
    return HttpSettings(
        token=token_of(config),
        max_upload=config.max_upload * MEGABYTE,
        max_texts=config.max_texts,
        timeout=config.request_timeout,
    )


def token_of(config: ServeConfig) -> str | None:
    """What requests have to show; None: nothing.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: there is none, and others than this machine can reach the server.
    """
    token = os.environ.get(TOKEN)
    if config.token_file is not None:
        path = Path(config.token_file)
        if not path.is_file():
            named = spelled("token_file", config.token_file)
            raise FileNotFoundError(f"There is no file {path}: {named} is to hold the token.")
        token = path.read_text("utf-8")
    token = token and token.strip()
    if token == "":
        raise ValueError(f"The token is empty: write one into the file, or unset {TOKEN}.")
    if token is None and not config.allow_no_token and not _is_own(config.host):
        raise ValueError(
            f"Everybody who reaches {config.host} could ask this server: give it a token, in a "
            f"file ({spelled('token_file')}) or as {TOKEN} in the environment, or say "
            f"{spelled('allow_no_token', True)}."
        )
    return token


def shapes_of(
    config: ServeConfig, in_front: bool = False, is_causal: bool = False, parts: int = 1
) -> Shapes:
    """The shapes that the server compiles its programs for.

    Args:
      in_front: whether texts are read behind prompts in front, and so long after these; in a causal
        model there are no other lengths.
      parts: of the mesh that rows are split over: their numbers divide by it, and slots are all
        stepped together.
    """
    room, text = config.max_prompt_length, config.max_input_length
    lengths = _lengths(text + room)
    behind = tuple(room + length for length in _lengths(text)) if in_front else ()
    texts = _whole({1, *_few(2, 4, config.batch_size)[-2:]}, parts)
    slots = _whole({1, *_few(2, 4, config.slots)[-3:]}, parts)
    return Shapes(
        texts=texts,
        lengths=behind if is_causal else lengths,
        slots=slots if parts == 1 else slots[-1:],
        max_tokens=config.max_length,
        labels=2,  # of most tasks all there are; more are scored two at a time
        label_lengths=tuple(sorted({min(4, config.max_label_length), config.max_label_length})),
        prompts=max(config.device_prompts, texts[-1]),
        prompt_length=config.max_prompt_length,
        front_lengths=behind,
    )


def library_of(config: ServeConfig, model: FrozenModel) -> PromptLibrary:
    """The prompts of the folder, or of the bundled model."""
    return PromptLibrary(
        _prompts_of(config),
        model,
        max_prompt_length=config.max_prompt_length,
        memory=config.prompt_memory * MEGABYTE,
        allow_prompt_mismatch=config.allow_prompt_mismatch,
    )


def _prompts_of(config: ServeConfig) -> Path | Mirror | None:
    if config.prompts is None:
        return Path("bundled") if config.model in _BUNDLED else None
    if is_remote(config.prompts):
        return Mirror(os.fspath(config.prompts))
    return Path(config.prompts)


def _lengths(most: int) -> tuple[int, ...]:
    """They double, with one half way between two: most of the work is to read texts so long."""
    doubled = _few(32, 2, most)
    between = ((short + long) // 2 for short, long in itertools.pairwise(doubled))
    return tuple(sorted([*doubled, *between]))


def _few(least: int, factor: int, most: int) -> tuple[int, ...]:
    """Few sizes, the largest `most`; what lies between two takes the larger one."""
    sizes = [most]
    while sizes[-1] // factor >= least:
        sizes.append(sizes[-1] // factor)
    return tuple(sorted(sizes))


def _whole(sizes: Iterable[int], parts: int) -> tuple[int, ...]:
    """Sizes, or a little more, that divide by `parts`."""
    return tuple(sorted({-(-size // parts) * parts for size in sizes}))


def _is_own(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"
