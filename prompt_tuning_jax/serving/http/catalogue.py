"""/v1/models and /v1/prompts: what there is, what is sent, and what is taken away."""

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from prompt_tuning_jax.serving.http.errors import ApiError, documented, refused
from prompt_tuning_jax.serving.library import Form, PromptLibrary, UnknownPrompt, Unusable
from prompt_tuning_jax.serving.library.description import BASE, Description
from prompt_tuning_jax.tuned_prompt import TunedPrompt

# The content types of what is sent -> its form.
_FORMS: dict[str, Form] = {
    "application/vnd.safetensors": "safetensors",
    "application/x-safetensors": "safetensors",
    "application/x-npy": "npy",
}
_JSON = "application/json"
_OWNER = "prompt-tuning-jax"


class Model(BaseModel):
    """A name that requests may give as `model`."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = _OWNER


class Models(BaseModel):
    """All of them, `base` first."""

    object: Literal["list"] = "list"
    data: list[Model]


class Prompt(BaseModel):
    """What is known of a prompt or an ensemble."""

    name: str
    length: int = Field(description="Rows; of an ensemble, its longest member's.")
    width: int
    layout: str | None = Field(description="Null where the members of an ensemble differ.")
    visibility: str | None
    task: str | None
    labels: list[str] | None = Field(description="Ranked where a request gives none.")
    input_template: str | None = Field(description="Makes texts of records.")
    missing: str | None = Field(description="What a null counts as in a record.")
    members: list[str] = Field(description="Of an ensemble; else empty.")
    source: str | None = Field(description="Its place below the server's folder.")
    uploaded: bool = Field(description="Whether it was sent, and may be replaced and deleted.")


class Prompts(BaseModel):
    """Some of the prompts, in the order of their names."""

    data: list[Prompt]
    total: int
    has_more: bool = Field(description="Whether others come after the last of these.")


class Ensemble(BaseModel):
    """Prompts that answer together."""

    model_config = ConfigDict(extra="forbid", strict=True)

    members: list[str] = Field(min_length=2, max_length=64)


class Reloaded(BaseModel):
    """What the folder holds now."""

    total: int
    left_out: list[str]


_BODY = {
    "requestBody": {
        "required": True,
        "description": "A prompt's file, of which the content type says the form; or an ensemble.",
        "content": {
            **{kind: {"schema": {"type": "string", "format": "binary"}} for kind in _FORMS},
            _JSON: {"schema": Ensemble.model_json_schema()},
        },
    }
}


def model_routes(library: PromptLibrary) -> APIRouter:
    router, started = APIRouter(tags=["models"]), int(time.time())

    @router.get("/v1/models", response_model=Models, responses=documented(), summary="All names")
    async def models() -> JSONResponse:
        facts = {"object": "model", "created": started, "owned_by": _OWNER}
        data = [{"id": name, **facts} for name in (BASE, *library.names())]
        return JSONResponse({"object": "list", "data": data})  # of thousands, it need be fast

    @router.get("/v1/models/{name:path}", responses=documented(), summary="One name")
    async def model(name: str) -> Model:
        return Model(id=library.describe(name).name, created=started)

    return router


def prompt_routes(library: PromptLibrary) -> APIRouter:
    """What changes nothing."""
    router = APIRouter(tags=["prompts"])

    @router.get("/v1/prompts", responses=documented(), summary="Prompts, page by page")
    async def prompts(
        contains: Annotated[str, Query(max_length=200, description="Part of the name.")] = "",
        after: Annotated[str, Query(max_length=200, description="The last name so far.")] = "",
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> Prompts:
        names = [name for name in library.names() if contains in name]
        rest = [name for name in names if name > after]
        data = [_described(library.describe(name)) for name in rest[:limit]]
        return Prompts(data=data, total=len(names), has_more=len(rest) > limit)

    @router.get("/v1/prompts/{name:path}", responses=documented(), summary="One prompt")
    async def prompt(name: str) -> Prompt:
        return _described(library.describe(name))

    return router


def changing_routes(library: PromptLibrary, prepare: Callable[[TunedPrompt], None]) -> APIRouter:
    """What changes the folder, or looks at it; `prepare` readies the engine, in seconds."""
    router = APIRouter(tags=["prompts"])
    one_at_a_time = asyncio.Lock()  # others would wait in threads that are needed elsewhere

    async def change(work: Callable[..., Any], *given: Any) -> Any:
        async with one_at_a_time:
            return await asyncio.to_thread(work, *given)

    @router.post("/v1/prompts/reload", responses=documented(507), summary="Looks at the folder")
    async def look_again() -> Reloaded:
        return await change(reload, library, prepare)

    @router.put(
        "/v1/prompts/{name:path}",
        status_code=201,
        responses=documented(409, 415, 507),
        openapi_extra=_BODY,
        summary="Sends a prompt, or names an ensemble",
    )
    async def put(name: str, request: Request) -> Prompt:
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind not in (*_FORMS, _JSON):
            kinds = ", ".join((*_FORMS, _JSON))
            raise ApiError(415, f"The Content-Type of what is sent must be one of {kinds}.")
        content = await request.body()
        try:
            if kind == _JSON:
                members = _ensemble(content).members
                made = await change(library.add_ensemble, name, members)
            else:
                made = await change(library.add, name, content, _FORMS[kind])
        except ValueError as error:
            raise _kept_or_refused(error) from error
        if not made.members:
            await change(_made_ready, library, prepare, name)
        return _described(made)

    @router.delete(
        "/v1/prompts/{name:path}",
        status_code=204,
        responses=documented(409, 507),
        summary="Deletes what was sent",
    )
    async def delete(name: str) -> Response:
        await change(library.remove, name)
        return Response(status_code=204)

    return router


def reload(library: PromptLibrary, prepare: Callable[[TunedPrompt], None]) -> Reloaded:
    """Looks at the folder again, and readies the engine for what is new there.

    Raises:
      OSError: the folder cannot be read.
    """
    left_out = library.reload()
    found = [library.describe(name) for name in library.names()]
    kinds = {(one.visibility, one.layout): one.name for one in found if not one.members}
    for name in kinds.values():
        _made_ready(library, prepare, name)
    return Reloaded(total=len(found), left_out=left_out)


def _made_ready(library: PromptLibrary, prepare: Callable[[TunedPrompt], None], name: str) -> None:
    with contextlib.suppress(UnknownPrompt, Unusable):  # whoever asks for it is told
        prepare(library.get(name))


def _described(found: Description) -> Prompt:
    facts = dataclasses.asdict(found)
    labels = None if found.labels is None else list(found.labels)
    return Prompt(**{**facts, "labels": labels, "members": list(found.members)})


def _ensemble(content: bytes) -> Ensemble:
    try:
        return Ensemble.model_validate(json.loads(content))
    except (ValidationError, ValueError, RecursionError) as error:
        told = 'An ensemble is {"members": ["NAME", "NAME"]}, of 2 to 64 names.'
        raise refused(told) from error


def _kept_or_refused(error: ValueError) -> Exception:
    """A conflict stays one; anything else is about what was sent."""
    return error if type(error) is not ValueError else refused(error)
