"""A server of one frozen model and many prompts: every request with its own, all in one batch.

    prompt-tuning serve --model bundled --port 8000
    prompt-tuning serve --model checkpoints/t5-xl --prompts runs/ --port 8000

It speaks OpenAI's completions, in which `model` names the prompt, and ranks labels; a page at `/`
shows it. It listens once all that will run is compiled, so that no request waits for a compiler.
SIGTERM ends it once what it accepted is answered.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import ipaddress
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prompt_tuning_jax.devices import sharding
from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.model import FrozenModel, load_model
from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.programs import Shapes
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.serve_config import ServeConfig

CONFIG = ServeConfig
TOKEN = "PROMPT_TUNING_TOKEN"
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_BUNDLED = ("bundled", "bundled_causal")
MEGABYTE = 2**20


def serve(config: ServeConfig | None = None, **options: Any) -> None:
    """Serves until it is told to stop.

    Raises:
      ModuleNotFoundError: the extra [serve] is not installed.
      ValueError: a mesh that splits rows, no token where one is needed, or settings that do not go
        together.
      OSError: the address is in use, or not this machine's.
    """
    config = dataclasses.replace(config or ServeConfig(), **options)
    _check_installed()
    from prompt_tuning_jax.serving.http.limits import HttpSettings  # of an extra
    from prompt_tuning_jax.serving.http.listening import listen

    token = token_of(config)
    mesh = sharding.make_mesh(config.mesh)
    if sharding.batch_parts(mesh) > 1:
        raise ValueError(
            f"{spelled('mesh', config.mesh)} splits rows, which a server does not: split the model "
            "alone, as model:-1 does, and start a server for each group of devices."
        )
    with _listening(config) as listener:
        model = load_model(
            config.model, config.model_dtype, vocabulary=config.vocabulary, mesh=mesh
        )
        library = library_of(config, model)
        engine = Engine(model, library, shapes_of(config), config.max_labels, config.max_waiting)
        if config.prompts is not None:
            _say_what_is_left_out(library)
        names = library.names()
        _say(f"{config.model}: {len(names)} prompts; compiling what will run ...")
        kinds = {library.describe(name).visibility for name in names} - {None}
        seconds = engine.start(kinds)
        _say(f"{engine.programs.compiled} programs ready after {seconds:.0f} s.")
        settings = HttpSettings(
            token=token,
            max_upload=config.max_upload * MEGABYTE,
            max_texts=config.max_texts,
            timeout=config.request_timeout,
        )
        try:
            say = functools.partial(_say_where, listener, library, token)
            listen(engine, settings, listener, say)
        finally:
            engine.stop()
    _say("Stopped: all that was accepted is answered.")


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


def shapes_of(config: ServeConfig) -> Shapes:
    """The shapes that the server compiles its programs for."""
    longest = config.max_input_length + config.max_prompt_length
    return Shapes(
        texts=tuple(sorted({1, *_few(2, 4, config.batch_size)[-2:]})),
        lengths=tuple(sorted({*_few(32, 2, longest)[:3], longest})),
        slots=tuple(sorted({1, *_few(2, 8, config.slots)[-2:]})),
        max_tokens=config.max_length,
        labels=2,  # of most tasks all there are; more are scored two at a time
        label_lengths=tuple(sorted({min(4, config.max_label_length), config.max_label_length})),
        prompts=max(config.device_prompts, config.batch_size),
        prompt_length=config.max_prompt_length,
    )


def library_of(config: ServeConfig, model: FrozenModel) -> PromptLibrary:
    """The prompts of the folder, or of the bundled model."""
    folder = config.prompts
    if folder is None and config.model in _BUNDLED:
        folder = "bundled"
    return PromptLibrary(
        folder and Path(folder),
        model,
        max_prompt_length=config.max_prompt_length,
        memory=config.prompt_memory * MEGABYTE,
        allow_prompt_mismatch=config.allow_prompt_mismatch,
    )


def _few(least: int, factor: int, most: int) -> tuple[int, ...]:
    """Few sizes, the largest `most`; what lies between two takes the larger one."""
    sizes = [most]
    while sizes[-1] // factor >= least:
        sizes.append(sizes[-1] // factor)
    return tuple(sorted(sizes))


def _check_installed() -> None:
    if missing := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"A server needs {', '.join(missing)}: pip install 'prompt-tuning-jax[serve]'."
        )


def _is_own(host: str) -> bool:
    """Whether nobody but this machine reaches an address."""
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return host == "localhost"


@contextlib.contextmanager
def _listening(config: ServeConfig) -> Iterator[socket.socket]:
    """The address, taken before any long work starts; nobody is let in yet."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    with socket.socket(family) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((config.host, config.port))
        except OSError as error:
            raise OSError(
                f"Cannot listen at {config.host}, port {config.port} ({error.strerror}): choose "
                f"others with {spelled('host')} and {spelled('port')}."
            ) from error
        yield listener


def _say_what_is_left_out(library: PromptLibrary) -> None:
    for note in library.notes:
        _say(f"warning: {note}")


def _say_where(listener: socket.socket, library: PromptLibrary, token: str | None) -> None:
    """The address, and a line that works there."""
    host, port = listener.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    name = next(iter(library.names()), "base")
    body = json.dumps({"model": name, "prompt": "I dined at the Wild Bear.", "max_tokens": 8})
    secret = f' -H "Authorization: Bearer ${TOKEN}"' if token else ""
    _say(f"Listening at http://{shown}:{port}/ . Try:")
    _say(
        f"  curl http://{shown}:{port}/v1/completions{secret} -H 'Content-Type: application/json'"
        f" -d '{body}'"
    )


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> None:
    serve(parse(CONFIG, argv, __doc__, "prompt-tuning serve"))
