"""The application on a cluster, from a command's start to the signal that ends it."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.serving.ray.application import FRONT, NAME, QUIET, application
from prompt_tuning_jax.serving.set_up import TOKEN, token_of
from prompt_tuning_jax.settings.serve_config import ServeConfig

CLUSTER = "RAY_ADDRESS"
STOPS = (signal.SIGTERM, signal.SIGINT)
_SLACK = 10.0  # seconds beyond the longest request


def run(config: ServeConfig, port: int, say: Callable[[str | None], None]) -> None:
    """Serves until a signal comes, then ends what was accepted.

    Args:
      port: a free one.
      say: called once requests are taken; with a sentence where it is not known at which address.

    Raises:
      ValueError: everybody who reaches the cluster could ask, without a token.
    """
    app = application(config)
    with _cluster():
        where = _listen(config, port)
        serve.run(app, name=NAME, route_prefix="/")
        with _signals() as stopped:  # from here on, and not Ray's
            say(where)
            stopped.wait()
            _end(config.request_timeout + _SLACK)


def _listen(config: ServeConfig, port: int) -> str | None:
    """Starts Ray's proxies, unless they are there, at an address that is theirs to know."""
    if not serve.status().proxies:
        options = HTTPOptions(host=config.host, port=port)
        serve.start(http_options=options, logging_config=QUIET)
        return None
    if token_of(config) is None and not config.allow_no_token:
        raise ValueError(
            "Ray Serve runs in this cluster already, at an address that others may reach: give a "
            f"token, in a file ({spelled('token_file')}) or as {TOKEN} in the environment, or say "
            f"{spelled('allow_no_token', True)}."
        )
    return "Ray Serve ran in this cluster already: requests are taken where it listens."


def _end(seconds: float) -> None:
    """Fronts take no more, and all of it ends when they have answered what they took."""
    end = time.monotonic() + seconds
    fronts = serve.get_deployment_handle(FRONT, NAME)
    fronts.broadcast("close").results(timeout_s=seconds, return_exceptions=True)
    while time.monotonic() < end:
        left = fronts.broadcast("under_way").results(timeout_s=seconds, return_exceptions=True)
        if not any(isinstance(one, int) and one for one in left):
            break
        time.sleep(0.1)
    serve.delete(NAME, _blocking=False)
    while NAME in serve.status().applications and time.monotonic() < end:
        time.sleep(0.1)


@contextmanager
def _cluster() -> Iterator[None]:
    """The one that RAY_ADDRESS names, else one of this machine that ends with the command."""
    address = os.environ.get(CLUSTER) or "local"
    ray.init(address=address, logging_level=logging.WARNING)
    try:
        yield
    finally:
        if address == "local":
            serve.shutdown()
        ray.shutdown()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that a signal sets."""
    stopped = threading.Event()
    before = {number: signal.signal(number, lambda *_: stopped.set()) for number in STOPS}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
