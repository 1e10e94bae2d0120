"""The page at `/docs`: all that the schema has, each link with its end, nothing that is markup."""

import re

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field

from prompt_tuning_jax.serving.http.page import page_routes
from prompt_tuning_jax.serving.http.reference import reference


class Inner(BaseModel):
    """One `text` & <more>."""

    kind: str = Field(pattern="x", min_length=2, max_length=9)


class Asked(BaseModel):
    rate: float | None = Field(0.5, ge=0, le=1, description="From <b>0</b> to `1`.")
    steps: int = Field(ge=3)
    inner: list[Inner]
    names: dict[str, float] = Field(default_factory=dict)
    flag: bool = False


@pytest.fixture(scope="module")
def app():
    app = FastAPI(title="A <title>", description="About `all`.", docs_url=None)
    app.include_router(page_routes(app.openapi))

    @app.post(
        "/ask/{name}", tags=["asking"], summary="Asks", responses={503: {"description": "No"}}
    )
    async def ask(name: str, asked: Asked, limit: int = 20) -> Inner:
        raise NotImplementedError

    return app


@pytest.fixture(scope="module")
def page(app):
    return TestClient(app).get("/docs").text


def row(page, name):
    """What stands beside a field's name, without markup."""
    (found,) = re.findall(rf"<tr><th><code>{name}</code></th><td>(.*?)</td></tr>", page)
    return re.sub(r"<.*?>", " ", found).strip()


def test_a_field_has_its_kind_its_bounds_and_what_is_said_of_it(app):
    body = reference(app.openapi()).partition("<h2>Objects</h2>")[0]
    assert row(body, "rate").startswith("number or null, 0 to 1, default 0.5")
    assert row(body, "steps") == "integer, required, at least 3"
    assert re.sub(r"\s+", " ", row(body, "inner")) == "list of Inner , required"
    assert row(body, "names") == "object of number"
    assert row(body, "flag") == "boolean, default false"
    assert re.sub(r"\s+", " ", row(body, "limit")) == "integer, default 20 In the query."
    assert "Errors: 503 No, 422 Validation Error." in body


def test_an_object_is_described_once_and_every_link_has_its_end(page):
    assert page.count('<article id="Inner">') == 1
    assert row(page, "kind") == "string, required, 2 to 9 characters"
    ends = re.findall(r'id="([^"]+)"', page)
    assert len(ends) == len(set(ends))
    assert set(re.findall(r'href="#([^"]+)"', page)) <= set(ends)
    assert "post-ask-name" in ends


def test_what_is_said_is_no_markup(page):
    assert "<h1>A &lt;title&gt;</h1>" in page
    assert "One <code>text</code> &amp; &lt;more&gt;." in page
    assert "From &lt;b&gt;0&lt;/b&gt; to <code>1</code>." in page
