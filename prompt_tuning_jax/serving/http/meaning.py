"""/v1/prompts/{name}/nearest: the vocabulary's pieces that a prompt's rows are nearest to."""

import asyncio
import functools
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from jaxtyping import Float
from pydantic import BaseModel, Field

from prompt_tuning_jax.interpretation.findings import readable
from prompt_tuning_jax.interpretation.nearest import find_neighbours
from prompt_tuning_jax.model import FrozenModel
from prompt_tuning_jax.serving.http.errors import documented
from prompt_tuning_jax.serving.library import PromptLibrary
from prompt_tuning_jax.serving.requests import Overloaded

_WAITING = 4  # who may wait for a search, which is work for a whole core


class Near(BaseModel):
    """A piece of the vocabulary: `film` begins a word, `…s` continues one."""

    piece: str
    cosine: float


class Row(BaseModel):
    """A row of the prompt."""

    norm: float
    nearest: list[Near]


class Nearest(BaseModel):
    """Each row's nearest pieces, the nearest first."""

    name: str
    rows: list[Row] = Field(description="In the order of the prompt's rows.")


class _Search:
    def __init__(self, model: FrozenModel, library: PromptLibrary):
        self._model, self._library = model, library
        self._vocabulary = model.text_vocabulary("serve")

    @functools.cached_property
    def _table(self) -> Float[np.ndarray, "V D"]:
        """The pieces' embeddings: taken from the device when somebody first asks."""
        return np.asarray(self._model.embeddings[: self._vocabulary.size], np.float32)

    def __call__(self, name: str, count: int) -> Nearest:
        values = self._library.get(name).values
        found = find_neighbours(values, self._table, min(count, len(self._table))).cosine
        norms = np.linalg.norm(values, axis=1).tolist()
        rows = [
            Row(norm=norm, nearest=[self._near(*each) for each in zip(ids, near, strict=True)])
            for norm, ids, near in zip(norms, found.ids, found.values, strict=True)
        ]
        return Nearest(name=name, rows=rows)

    def _near(self, token: int, cosine: float) -> Near:
        piece = readable(self._vocabulary.id_to_piece(int(token)))
        return Near(piece=piece, cosine=float(cosine))


def nearest_routes(model: FrozenModel, library: PromptLibrary) -> APIRouter:
    """To be included before the routes of which a name is the last part."""
    router, search = APIRouter(tags=["prompts"]), _Search(model, library)
    one_at_a_time, waiting = asyncio.Lock(), 0

    @router.get(
        "/v1/prompts/{name:path}/nearest",
        responses=documented(422, 429),
        summary="What its rows are nearest to",
    )
    async def nearest(name: str, count: Annotated[int, Query(ge=1, le=50)] = 5) -> Nearest:
        nonlocal waiting
        library.version(name)  # unknown names need not wait
        if waiting >= _WAITING:
            raise Overloaded(waiting, 2)
        waiting += 1
        try:
            async with one_at_a_time:
                return await asyncio.to_thread(search, name, count)
        finally:
            waiting -= 1

    return router
