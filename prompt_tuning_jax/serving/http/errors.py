"""Every error as the client sees it: OpenAI's shape, one sentence, never a traceback."""

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from prompt_tuning_jax.serving.library import Conflict, UnknownPrompt, Unusable
from prompt_tuning_jax.serving.requests import NotFinite, Overloaded, Stopping, TooLate

LOG = logging.getLogger(__name__)
_LONGEST = 1000


class ErrorFacts(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: ErrorFacts


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
      status: of HTTP.
      message: one sentence.
      param: the field that it is about.
      code: a word for programs.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})


class ClientGone(Exception):
    """Nobody waits for the answer any more."""


def refused(message: object, param: str | None = None) -> ApiError:
    """For what the request itself is wrong about."""
    return ApiError(400, str(message), param=param)


def as_api_error(error: Exception) -> ApiError:
    """What a client is told of an error; of one that nobody foresaw, only that it happened."""
    match error:
        case ApiError():
            return error
        case HTTPException(__cause__=UnicodeDecodeError()):
            return refused("The body is no UTF-8.")
        case HTTPException():
            return ApiError(error.status_code, str(error.detail), headers=error.headers)
        case RequestValidationError():
            return refused(*_first_fault(error.errors()))
        case UnknownPrompt():
            return ApiError(404, str(error), param="model", code="model_not_found")
        case Unusable():
            return ApiError(422, str(error), param="model", code="prompt_unusable")
        case NotFinite():
            return ApiError(422, str(error), param="model", code="not_finite")
        case Conflict():
            return ApiError(409, str(error), code="conflict")
        case Overloaded():
            after = str(max(1, math.ceil(error.retry_after)))
            return ApiError(429, str(error), code="overloaded", headers={"Retry-After": after})
        case Stopping():
            told = str(error) or "The server is stopping."
            return ApiError(503, told, code="stopping", headers={"Retry-After": "5"})
        case TooLate() | TimeoutError():
            told = "The deadline passed before the answer was there."
            return ApiError(504, told, code="deadline")
        case ClientGone():
            return ApiError(499, "The client closed the connection.")
        case OSError():
            LOG.error("the disk: %s", error)
            return ApiError(507, "The server cannot write or read its files.", code="storage")
    LOG.error("a request failed", exc_info=error)
    return ApiError(500, "The server failed to answer this request.", code="failed")


def error_body(error: ApiError) -> dict[str, Any]:
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    # A message may quote what a client sent, and half a character is no UTF-8.
    message = error.message.encode("utf-8", "backslashreplace").decode()[:_LONGEST]
    facts = {"message": message, "type": kind, "param": error.param, "code": error.code}
    return {"error": facts}


def error_response(error: Exception) -> JSONResponse:
    told = as_api_error(error)
    return JSONResponse(error_body(told), told.status, headers=told.headers)


def handle_errors(app: FastAPI) -> None:
    """Gives the framework's own errors this shape; all others pass on to the guard."""

    async def answer(_: Request, error: Exception) -> JSONResponse:
        return error_response(error)

    for kind in (HTTPException, RequestValidationError):
        app.add_exception_handler(kind, answer)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """For a route's `responses`: the errors that every route may answer with, and `statuses`."""
    return {status: {"model": ErrorBody} for status in (400, 401, 404, 408, 413, 415, *statuses)}


def as_answered(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema without the answer that FastAPI adds where a request is not valid.

    It is told as every other error is (400), and no route answers so.
    """
    objects = schema["components"]["schemas"]
    for methods in schema["paths"].values():
        for facts in methods.values():
            if "HTTPValidationError" in str(facts["responses"].get("422")):
                del facts["responses"]["422"]
    for name in ("HTTPValidationError", "ValidationError"):
        objects.pop(name, None)
    return schema


def _first_fault(faults: Sequence[Any]) -> tuple[str, str | None]:
    """(a sentence, the field) of pydantic's first complaint.

    Of a field that may be several things it complains once for each: the one that came farthest.
    """
    of_field = [fault for fault in faults if fault["loc"][:2] == faults[0]["loc"][:2]]
    first = max(of_field, key=lambda x: (not x["type"].endswith("_type"), len(x["loc"])))
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    # Of alternatives pydantic names the one that it tried: `prompt.list[str]`.
    field = place[0] if place else None
    if first["type"] == "extra_forbidden":
        return f"Unknown field {'.'.join(place)!a}.", None
    if first["type"] == "json_invalid":
        return f"The body is not valid JSON: {first.get('ctx', {}).get('error', '')}.", None
    if field is None:
        return "The body must be a JSON object, sent with Content-Type: application/json.", None
    inside = "".join(f"[{part}]" for part in place[1:] if part.isdecimal())
    return f"{field!a}{inside}: {first['msg']}.", field.encode("ascii", "replace").decode()
