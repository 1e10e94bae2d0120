"""The pages at `/` and `/docs`, which ask for nothing from elsewhere and may not."""

import base64
import functools
import hashlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

from prompt_tuning_jax.serving.http.reference import reference

_FILE = Path(__file__).with_name("page.html")
_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def page_routes(schema: Callable[[], dict[str, Any]]) -> APIRouter:
    """The page that compares prompts, and what `schema` says of the routes."""
    router, text = APIRouter(), _FILE.read_text(encoding="utf-8")

    @functools.cache
    def documentation() -> str:
        head, body, _ = text.partition("<body>")  # so that both look alike
        head = re.sub("<title>.*?</title>", "<title>The HTTP interface</title>", head)
        return f"{head}{body}\n{reference(schema())}\n</body>\n</html>\n"

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return _answer(text)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _answer(documentation())

    return router


def _answer(text: str) -> Response:
    return HTMLResponse(text, headers=_HEADERS | {"Content-Security-Policy": _policy(text)})


def _policy(text: str) -> str:
    """Only the page's own style and script run, and they reach this server alone."""
    allowed = {"default-src": "'none'", "connect-src": "'self'", "img-src": "data:"}
    allowed |= {"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
    for tag in ("style", "script"):
        for inside in re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL):
            digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
            allowed[f"{tag}-src"] = f"'sha256-{digest}'"
    return "; ".join(f"{kind} {source}" for kind, source in allowed.items())
