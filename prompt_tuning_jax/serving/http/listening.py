"""The server's life: it listens until SIGTERM or Ctrl-C, then ends what it accepted."""

import contextlib
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn

from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.app import make_app
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.set_up import settle

IDLE = 75  # seconds that a connection stays open without a request; clients are to close first
STOPS = (signal.SIGTERM, signal.SIGINT)


def listen(
    engine: Engine,
    settings: HttpSettings,
    listener: socket.socket,
    say: Callable[[], None] = lambda: None,
) -> None:
    """Answers requests until a signal comes; a second one gives up what is not answered yet.

    Args:
      say: called once requests are taken.
    """
    app = make_app(engine, settings)
    settle()
    config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_keep_alive=IDLE)
    _Server(config, say).run(sockets=[listener])


class _Server(uvicorn.Server):
    """A server that a signal ends as it should, and so with success: it is not raised again."""

    def __init__(self, config: uvicorn.Config, say: Callable[[], None]):
        super().__init__(config)
        self._say = say

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._say()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        before = {number: signal.signal(number, self.handle_exit) for number in STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
