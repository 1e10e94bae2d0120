"""The server's routes together.

    app = make_app(engine, settings)
    uvicorn.run(app, host="127.0.0.1", port=8000)

There is one loop and one process: the engine's thread does the work, and the routes wait for it.
"""

import math
from typing import Any, Literal

from fastapi import FastAPI, Response, Security
from fastapi.responses import JSONResponse
from fastapi.security import HTTPBearer
from pydantic import BaseModel

from prompt_tuning_jax.serving.engine import Engine
from prompt_tuning_jax.serving.http.catalogue import changing_routes, model_routes, prompt_routes
from prompt_tuning_jax.serving.http.classification import classification_routes
from prompt_tuning_jax.serving.http.completions import completion_routes
from prompt_tuning_jax.serving.http.errors import as_answered, documented, handle_errors
from prompt_tuning_jax.serving.http.guard import Guard
from prompt_tuning_jax.serving.http.limits import HttpSettings
from prompt_tuning_jax.serving.http.meaning import nearest_routes
from prompt_tuning_jax.serving.http.metrics import Metrics
from prompt_tuning_jax.serving.http.page import page_routes

State = Literal["starting", "ready", "stopping", "dead"]
_ABOUT = """One frozen model, many prompts. `model` names the prompt of a request, an ensemble of
prompts, or `base` for none; a completion's temperature is 0 unless it says otherwise."""


class Load(BaseModel):
    """How the server is doing."""

    model: str
    state: State
    engine: dict[str, float]


class _Application(FastAPI):
    def openapi(self) -> dict[str, Any]:
        return as_answered(super().openapi())


def make_app(engine: Engine, settings: HttpSettings) -> FastAPI:
    """The application for an ASGI server."""
    app = _Application(
        title="prompt-tuning serve",
        description=_ABOUT,
        version="1",
        docs_url=None,  # the pages that come with it load scripts from elsewhere: see `page_routes`
        redoc_url=None,
        redirect_slashes=False,
    )
    metrics = Metrics(engine.statistics)
    app.add_middleware(Guard, settings=settings, observe=metrics.observe)
    handle_errors(app)
    shown = [] if settings.token is None else [Security(HTTPBearer(auto_error=False))]
    for router in (
        completion_routes(engine, settings, metrics),
        classification_routes(engine, settings, metrics),
        model_routes(engine.library),
        nearest_routes(engine.model, engine.library),
        prompt_routes(engine.library),
        changing_routes(engine.library, engine.prepare),
    ):
        app.include_router(router, dependencies=shown)  # for the schema: the guard checks it
    app.include_router(page_routes(app.openapi))
    _add_health(app, engine, metrics)
    return app


def _add_health(app: FastAPI, engine: Engine, metrics: Metrics) -> None:
    was_ready = False

    def state() -> State:
        nonlocal was_ready
        was_ready |= engine.is_ready
        if engine.is_stopping:
            return "stopping"
        return "ready" if engine.is_ready else "dead" if was_ready else "starting"

    @app.get(
        "/healthz",
        tags=["health"],
        responses={503: {"description": "The engine ended by itself: start the server again."}},
        summary="Whether the process works",
    )
    async def healthz() -> JSONResponse:
        is_dead = state() == "dead"
        return JSONResponse({"status": "dead" if is_dead else "ok"}, 503 if is_dead else 200)

    @app.get(
        "/readyz",
        tags=["health"],
        responses={503: {"description": "It starts or stops."}},
        summary="Whether requests are taken",
    )
    async def readyz() -> JSONResponse:
        return JSONResponse({"status": state()}, 200 if state() == "ready" else 503)

    @app.get(
        "/metrics",
        tags=["health"],
        responses=documented() | {200: {"content": {"text/plain": {}}}},
        response_class=Response,
        summary="For Prometheus",
    )
    async def prometheus() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/load", tags=["health"], responses=documented(), summary="How the server is doing")
    async def load() -> Load:
        numbers = {k: x for k, x in engine.statistics().items() if math.isfinite(x)}
        return Load(model=engine.model.name, state=state(), engine=numbers)
