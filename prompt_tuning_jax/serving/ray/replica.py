"""One engine in a process of a Ray cluster."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

from ray import serve
from starlette.types import Message

from prompt_tuning_jax.serving.http.app import make_app
from prompt_tuning_jax.serving.http.catalogue import reload
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.library import UnknownPrompt
from prompt_tuning_jax.serving.ray.asgi import Asked, answer
from prompt_tuning_jax.serving.set_up import engine_of, kinds_of, settle
from prompt_tuning_jax.settings.serve_config import ServeConfig


class Replica:
    """An engine, and the application that it answers with."""

    def __init__(self, config: ServeConfig, settings: HttpSettings):
        """Loads the model and compiles; requests come when that is done."""
        self._engine = engine_of(config)
        self._engine.start(kinds_of(self._engine.library))
        self._app = make_app(self._engine, settings)
        settle()
        self._is_new = True
        # Ray sends requests for a prompt to the replicas that have it.
        self._hold = serve.multiplexed(_held, max_num_models_per_replica=config.device_prompts)

    async def answer(self, asked: Asked) -> AsyncIterator[Message]:
        if self._is_new:  # what came while it was not yet among those that are told
            self._is_new = False
            await self.refresh()
        if asked.prompt is not None:
            with contextlib.suppress(UnknownPrompt):  # which the application tells
                self._engine.library.describe(asked.prompt)
                await self._hold(asked.prompt)
        async for message in answer(self._app, asked):
            yield message

    async def refresh(self) -> None:
        """Looks at the folder of prompts again."""
        await asyncio.to_thread(reload, self._engine.library, self._engine.prepare)

    def check_health(self) -> None:
        """Ray replaces a replica for which this raises."""
        if not self._engine.is_ready:
            raise RuntimeError("The engine has ended.")

    def __del__(self) -> None:
        """Called by Ray once all that it accepted is answered."""
        if hasattr(self, "_engine"):
            self._engine.stop()


async def _held(name: str) -> str:
    return name
