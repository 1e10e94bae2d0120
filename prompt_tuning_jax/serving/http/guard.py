"""What stands before every route: the token, the size of what is sent, and a last resort."""

import asyncio
import hmac
import time
from collections.abc import Callable

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prompt_tuning_jax.serving.http.errors import ApiError, error_response
from prompt_tuning_jax.serving.http.limits import HttpSettings

# The pages hold nothing that is secret; the first asks for the token itself.
OPEN = ("/healthz", "/readyz", "/", "/docs")
_UPLOADS = "/v1/prompts/"
_SLOWEST = 2**16  # bytes a second

# (route, method, status, seconds)
Observe = Callable[[str, str, int, float], None]


class Guard:
    """ASGI middleware that checks a request before its route sees it.

    Args:
      observe: is told of every request, under its route's path as it is declared.
    """

    def __init__(self, app: ASGIApp, settings: HttpSettings, observe: Observe):
        self._app, self._settings, self._observe = app, settings, observe
        self._expected = None if settings.token is None else _bearer(settings.token)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.perf_counter(), 0
        # What is sent of an answer to HEAD is that to GET without its body, as uvicorn sees to.
        asked = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            self._check_token(scope)
            _check_encoding(scope)
            body = _Body(receive, self._most(scope), self._settings.body_timeout)
            body.check_header(scope)
            await self._app(asked, body.receive, noting)
        except Exception as error:  # the last resort: a client always gets an answer
            response = error_response(error)
            if status == 0:
                await response(scope, receive, noting)
        finally:
            route = getattr(asked.get("route"), "path", "other")
            taken = time.perf_counter() - started
            self._observe(route, _method(scope), status or 499, taken)

    def _check_token(self, scope: Scope) -> None:
        if self._expected is None or scope["path"] in OPEN:
            return
        given = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
        kind, _, token = given.partition(b" ")
        if kind.lower() != b"bearer" or not hmac.compare_digest(token.strip(), self._expected):
            raise ApiError(
                401,
                "This server wants its token: Authorization: Bearer TOKEN.",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    def _most(self, scope: Scope) -> int:
        """Bytes that the request's body may have."""
        is_upload = scope["method"] == "PUT" and scope["path"].startswith(_UPLOADS)
        return self._settings.max_upload if is_upload else self._settings.max_body


class _Body:
    """A body as it is received, up to a size and within a time.

    What these refuse is raised where it is received; FastAPI lets an HTTPException through.
    """

    def __init__(self, receive: Receive, most: int, seconds: float):
        self._receive, self._most = receive, most
        self._deadline = time.monotonic() + seconds
        self._size, self._is_whole = 0, False

    def check_header(self, scope: Scope) -> None:
        """Refuses at once what says itself that it is too large."""
        for name, value in scope["headers"]:
            if name == b"content-length" and (not value.isdigit() or int(value) > self._most):
                raise self._too_large()

    async def receive(self) -> Message:
        if self._is_whole:  # what may come now is that the client goes
            return await self._receive()
        try:
            async with asyncio.timeout(max(0.0, self._deadline - time.monotonic())):
                message = await self._receive()
        except TimeoutError as error:
            raise HTTPException(408, "The request was not sent in time.", _CLOSE) from error
        if message["type"] == "http.request":
            size = len(message.get("body", b""))
            self._size += size
            self._deadline += size / _SLOWEST  # a large file may take its time, while it comes
            self._is_whole = not message.get("more_body", False)
            if self._size > self._most:
                raise self._too_large()
        return message

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"The body may have {self._most} bytes.", _CLOSE)


_CLOSE = {"Connection": "close"}  # what is still to come is not read


def _check_encoding(scope: Scope) -> None:
    """Refuses a compressed body: it would have to be unpacked to know how large it is."""
    coding = next((value for name, value in scope["headers"] if name == b"content-encoding"), b"")
    if coding.strip().lower() not in (b"", b"identity"):
        told = coding[:40].decode("ascii", "replace")
        raise ApiError(415, f"Send the body as it is, without Content-Encoding: {told}.")


def _bearer(token: str) -> bytes:
    return token.encode()


def _method(scope: Scope) -> str:
    known = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
    return scope["method"] if scope["method"] in known else "other"
