"""The Ray Serve application: fronts that clients reach, and replicas with an engine each.

serve run prompt_tuning_jax.serving.ray:app model=bundled replicas=2
prompt-tuning serve --ray true --model bundled --replicas 2
"""

from collections.abc import AsyncIterator, Mapping
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.handle import DeploymentHandle
from ray.serve.schema import LoggingConfig
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from prompt_tuning_jax.serving.http.limits import MIB
from prompt_tuning_jax.serving.ray.asgi import Asked
from prompt_tuning_jax.serving.ray.front import Front, Gone
from prompt_tuning_jax.serving.ray.replica import Replica
from prompt_tuning_jax.serving.set_up import MEGABYTE
from prompt_tuning_jax.settings.serve_config import ServeConfig

NAME = "prompt_tuning"
FRONTS = 2
QUIET = LoggingConfig(log_level="WARNING", enable_access_log=False)
_MANY = 10_000  # requests on their way through a front; engines refuse sooner
_SLACK = 10.0  # seconds beyond the longest request in which a replica must have ended


class Ingress:
    """A front as Ray calls it."""

    def __init__(self, replicas: DeploymentHandle, most: int):
        self._replicas = replicas
        self._front = Front(self._ask, self._refresh, most)

    async def __call__(self, request: Request) -> Response:
        return await self._front.respond(request)

    async def _ask(self, asked: Asked) -> AsyncIterator[Message]:
        handle = self._replicas.options(stream=True, multiplexed_model_id=asked.prompt or "")
        reply = handle.answer.remote(asked)
        try:
            async for message in reply:
                yield message
        except RayActorError as error:
            raise Gone from error
        finally:
            reply.cancel()

    async def _refresh(self) -> None:
        done = self._replicas.broadcast("update")
        await done.results_async(return_exceptions=True)


def application(config: ServeConfig) -> serve.Application:
    """The application of settings."""
    replica = serve.deployment(
        Replica,
        name="Replica",
        max_ongoing_requests=config.max_waiting + config.slots,
        graceful_shutdown_timeout_s=config.request_timeout + _SLACK,
        ray_actor_options=_resources(config.replica_resources or {"CPU": 1}),
        logging_config=QUIET,
        **_count(config),
    )
    front = serve.deployment(
        Ingress,
        name="Front",
        num_replicas=FRONTS,
        max_ongoing_requests=_MANY,
        graceful_shutdown_timeout_s=config.request_timeout + _SLACK,
        ray_actor_options={"num_cpus": 0},
        logging_config=QUIET,
    )
    return front.bind(replica.bind(config), max(config.max_upload * MEGABYTE, MIB))


def _count(config: ServeConfig) -> dict[str, Any]:
    """How many replicas, as Ray takes it."""
    most = config.max_replicas or config.replicas
    if most == config.replicas:
        return {"num_replicas": most}
    return {
        "autoscaling_config": {
            "min_replicas": config.replicas,
            "max_replicas": most,
            "target_ongoing_requests": config.slots,
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
