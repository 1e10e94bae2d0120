"""The application on a cluster, from a command's start to the signal that ends it."""

import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import ray
from ray import serve
from ray.serve.config import HTTPOptions

from prompt_tuning_jax.serving.ray.application import NAME, QUIET, application
from prompt_tuning_jax.settings.serve_config import ServeConfig

STOPS = (signal.SIGTERM, signal.SIGINT)


def run(config: ServeConfig, port: int, say: Callable[[], None]) -> None:
    """Serves until a signal comes, then ends what was accepted.

    Args:
      port: a free one.
      say: called once requests are taken.
    """
    with _cluster():
        serve.start(http_options=HTTPOptions(host=config.host, port=port), logging_config=QUIET)
        serve.run(application(config), name=NAME, route_prefix="/")
        with _signals() as stopped:  # from here on, and not Ray's
            say()
            stopped.wait()
            serve.delete(NAME)


@contextmanager
def _cluster() -> Iterator[None]:
    """The one that RAY_ADDRESS names, else one of this machine that ends with the command."""
    is_own = "RAY_ADDRESS" not in os.environ
    ray.init(include_dashboard=False if is_own else None, logging_level=logging.WARNING)
    try:
        yield
    finally:
        if is_own:
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
