"""The Ray Serve application: fronts that clients reach, and replicas with an engine each.

serve run prompt_tuning_jax.serving.ray:app model=bundled replicas=2
prompt-tuning serve --ray true --model bundled --replicas 2
"""

import dataclasses
import math
import os
from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import exceptions, serve
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning_jax.errors import spelled
from prompt_tuning_jax.serving.http.errors import ApiError
from prompt_tuning_jax.serving.http.guard import Guard
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.ray.asgi import Asked
from prompt_tuning_jax.serving.ray.front import Front, Gone
from prompt_tuning_jax.serving.ray.replica import Replica
from prompt_tuning_jax.serving.set_up import http_settings
from prompt_tuning_jax.settings.serve_config import ServeConfig

NAME = "prompt_tuning"
FRONT = "Front"
FRONTS = 2
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
_MANY = 10_000  # requests on their way through a front, which refuses sooner
_SLACK = 10.0  # seconds beyond the longest request in which a replica must have ended
_PATHS = ("model", "vocabulary", "prompts")
_LOST = (
    exceptions.RayActorError,
    exceptions.OwnerDiedError,
    exceptions.ObjectLostError,
    exceptions.NodeDiedError,
    exceptions.WorkerCrashedError,
)


@serve.ingress()
class Ingress:
    """A front in a process of its own."""

    def __init__(self, replicas: DeploymentHandle, settings: HttpSettings, room: int):
        self._replicas, self._settings = replicas, settings
        self._front = Front(self._ask, self._refresh, settings.timeout, room)

    def __serve_build_asgi_app__(self) -> ASGIApp:
        guard = Middleware(Guard, settings=self._settings, observe=_nobody)
        routes = [Route("/{path:path}", self._front)]
        return _without_prefix(Starlette(routes=routes, middleware=[guard]))

    async def close(self) -> None:
        """Takes no more requests."""
        self._front.close()

    async def under_way(self) -> int:
        """How many requests are not answered yet."""
        return self._front.under_way

    async def _ask(self, asked: Asked) -> AsyncIterator[Message]:
        handle = self._replicas.options(stream=True, multiplexed_model_id=asked.prompt or "")
        reply = handle.answer.remote(asked)
        try:
            async for message in reply:
                yield message
        except _LOST as error:
            raise Gone from error
        except (exceptions.RayTaskError, RayServeException) as error:
            raise ApiError(503, "No engine could answer: try again.", code="failed") from error
        finally:
            reply.cancel()

    async def _refresh(self) -> None:
        done = await self._replicas.broadcast("refresh").results_async(return_exceptions=True)
        if any(isinstance(one, Exception) and not isinstance(one, _LOST) for one in done):
            told = "An engine could not look at the prompts: POST /v1/prompts/reload has all try."
            raise ApiError(507, told, code="storage")


def application(config: ServeConfig) -> serve.Application:
    """The application of settings.

    Raises:
      ValueError, FileNotFoundError: as of `token_of`; or there are to be fewer replicas at most
        than at least.
    """
    most = config.max_replicas or config.replicas
    if most < config.replicas:
        raise ValueError(
            f"{spelled('max_replicas', most)} is less than {spelled('replicas', config.replicas)}."
        )
    settings, at_once = http_settings(config), config.slots + config.batch_size
    replica = serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=at_once,  # beyond which another replica is asked
        graceful_shutdown_timeout_s=config.request_timeout + _SLACK,
        ray_actor_options=_resources(config.replica_resources or {"CPU": 1}),
        logging_config=QUIET,
        **_count(config.replicas, most, config.slots),
    )
    front = serve.deployment(
        Ingress,
        name=FRONT,
        num_replicas=FRONTS,
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=config.request_timeout + _SLACK,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
    )
    room = math.ceil((most * at_once + config.max_waiting) / FRONTS)
    return front.bind(replica.bind(_absolute(config), settings), settings, room)


def _absolute(config: ServeConfig) -> ServeConfig:
    """With paths that mean the same in every process."""
    given = {name: getattr(config, name) for name in _PATHS}
    there = {name: x for name, x in given.items() if x is not None and os.path.exists(str(x))}
    return dataclasses.replace(config, **{name: os.path.abspath(x) for name, x in there.items()})


def _count(least: int, most: int, slots: int) -> dict[str, Any]:
    """How many replicas, as Ray takes it."""
    if most == least:
        return {"num_replicas": most}
    return {
        "autoscaling_config": {
            "min_replicas": least,
            "max_replicas": most,
            "target_ongoing_requests": slots,
        }
    }


def _resources(asked: Mapping[str, float]) -> dict[str, Any]:
    """Ray has CPUs and GPUs apart from all others."""
    others = {name: amount for name, amount in asked.items() if name not in ("CPU", "GPU")}
    return {
        "num_cpus": asked.get("CPU", 0),
        "num_gpus": asked.get("GPU", 0),
        "resources": others,
    }


def _without_prefix(app: ASGIApp) -> ASGIApp:
    """Paths as the application knows them, wherever it is put."""

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        if prefix := scope.get("root_path", ""):
            path = scope["path"].removeprefix(prefix)
            scope = {**scope, "path": path, "root_path": ""}
        await app(scope, receive, send)

    return run


def _nobody(*_: Any) -> None:
    """Ray counts requests itself."""
