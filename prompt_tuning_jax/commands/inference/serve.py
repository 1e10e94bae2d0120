"""A server of one frozen model and many prompts: every request with its own, all in one batch.

    prompt-tuning serve --model bundled --port 8000
    prompt-tuning serve --model checkpoints/t5-xl --prompts runs/ --port 8000
    prompt-tuning serve --model bundled --ray true --replicas 2

It speaks OpenAI's completions, in which `model` names the prompt, and ranks labels; a page at `/`
shows it. It listens once all that will run is compiled, so that no request waits for a compiler.
SIGTERM ends it once what it accepted is answered.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.library.description import BASE
from prompt_tuning_jax.serving.set_up import (
    TOKEN,
    engine_of,
    http_settings,
    kinds_of,
    token_of,
)
from prompt_tuning_jax.settings.command_line import parse
from prompt_tuning_jax.settings.serve_config import ServeConfig

CONFIG = ServeConfig
_NEEDED = ("fastapi", "uvicorn", "prometheus_client")
_STOPPED = "Stopped: all that was accepted is answered."


def serve(config: ServeConfig | None = None, **options: Any) -> None:
    """Serves until it is told to stop.

    Raises:
      ModuleNotFoundError: the extra [serve] is not installed.
      ValueError: no token where one is needed, or settings that do not go together.
      OSError: the address is in use, or not this machine's.
    """
    config = dataclasses.replace(config or ServeConfig(), **options)
    _check_installed("serve", _NEEDED)
    if config.ray:
        _serve_on_ray(config)
        return
    if config.replicas > 1 or config.max_replicas is not None:
        raise ValueError(
            f"Several replicas are a cluster's: add {spelled('ray', True)}, or leave "
            f"{spelled('replicas')} and {spelled('max_replicas')} out."
        )
    from prompt_tuning_jax.serving.http.listening import listen  # of an extra

    settings = http_settings(config)
    with _listening(config) as listener:
        engine = engine_of(config)
        library = engine.library
        if config.prompts is not None:
            _say_what_is_left_out(library)
        _say(f"{config.model}: {len(library.names())} prompts; compiling what will run ...")
        seconds = engine.start(kinds_of(library))
        _say(f"{engine.programs.compiled} programs ready after {seconds:.0f} s.")
        try:
            name = next(iter(library.names()), BASE)
            where = listener.getsockname()[:2]
            say = functools.partial(_say_where, *where, name, settings.token)
            listen(engine, settings, listener, say)
        finally:
            engine.stop()
    _say(_STOPPED)


def _serve_on_ray(config: ServeConfig) -> None:
    """As `serve`, with engines in the processes of a cluster."""
    _check_installed("ray", ("ray",))
    from prompt_tuning_jax.serving.ray.cluster import run  # of an extra

    token = token_of(config)
    with _listening(config) as listener:
        host, port = listener.getsockname()[:2]

    def say(elsewhere: str | None) -> None:
        _say_where(host, port, BASE, token) if elsewhere is None else _say(elsewhere)

    _say(f"{config.model}: starting {config.replicas} replicas, which compile what will run ...")
    run(config, port, say)
    _say(_STOPPED)


def _check_installed(extra: str, needed: Sequence[str]) -> None:
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise ModuleNotFoundError(
            f"A server needs {', '.join(missing)}: pip install 'prompt-tuning-jax[{extra}]'."
        )


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


def _say_where(host: str, port: int, name: str, token: str | None) -> None:
    """The address, and a line that works there."""
    shown = f"[{host}]" if ":" in host else host
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
