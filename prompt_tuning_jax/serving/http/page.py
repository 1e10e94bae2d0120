"""The page at `/`: one file, which asks for nothing from elsewhere and may not."""

import base64
import hashlib
import re
from pathlib import Path

from fastapi import APIRouter, Response
from fastapi.responses import HTMLResponse

_FILE = Path(__file__).with_name("page.html")


def page_routes() -> APIRouter:
    router, text = APIRouter(), _FILE.read_text(encoding="utf-8")
    headers = {
        "Content-Security-Policy": _policy(text),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }

    @router.get("/", include_in_schema=False)
    async def page() -> Response:
        return HTMLResponse(text, headers=headers)

    return router


def _policy(text: str) -> str:
    """Only the page's own style and script run, and they reach this server alone."""
    allowed = {"default-src": "'none'", "connect-src": "'self'", "img-src": "data:"}
    allowed |= {"base-uri": "'none'", "form-action": "'none'", "frame-ancestors": "'none'"}
    for tag in ("style", "script"):
        (inside,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        allowed[f"{tag}-src"] = f"'sha256-{digest}'"
    return "; ".join(f"{kind} {source}" for kind, source in allowed.items())
