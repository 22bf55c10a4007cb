"""A web app over a memory: sync handlers, the repository injected, errors as HTTP statuses. Knows no SQL.

LIBSQL_DATABASE_PATH=memory.db uvicorn examples.webapp.app:app
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Any
from uuid import UUID

from fastapi import Body, Depends, FastAPI, Path, Request
from fastapi.responses import JSONResponse

import memory_storage as ms

_STATUS: dict[type[ms.MemoryStorageError], int] = {
    ms.NotFoundError: 404,
    ms.ConflictError: 409,
    ms.ValidationError: 422,
    ms.UnavailableError: 503,
    ms.CommitUnknownError: 503,
}


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    with ms.MemoryStorage.open() as storage:  # from the environment
        app.state.storage = storage
        yield


app = FastAPI(title="An agent's memory", lifespan=_lifespan)


def storage_of(request: Request) -> ms.MemoryStorage:
    """The one that the app has opened; threads share it."""
    found: ms.MemoryStorage = request.app.state.storage
    return found


def episodes_of(
    storage: Annotated[ms.MemoryStorage, Depends(storage_of)], user: Annotated[str, Path(max_length=100)]
) -> ms.EpisodeRepository:
    """The episodes of one user, who sees no other's."""
    return storage.in_namespace(f"user:{user}").episodes


Episodes = Annotated[ms.EpisodeRepository, Depends(episodes_of)]


@app.exception_handler(ms.MemoryStorageError)
def refuse(_: Request, error: ms.MemoryStorageError) -> JSONResponse:
    """The status that says whose turn it is: 4xx the caller's, 503 to try again later."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)


@app.put("/users/{user}/episodes/{episode_id}")
def save(episodes: Episodes, episode_id: UUID, episode: Annotated[dict[str, Any], Body()]) -> ms.Episode:
    """Insert or update. The id is the client's, so a call whose answer was lost can be repeated."""
    return episodes.save(ms.Episode(**{**episode, "id": episode_id}))


@app.put("/users/{user}/episodes/{episode_id}/steps/{step_id}")
def append(episodes: Episodes, episode_id: UUID, step_id: UUID, step: Annotated[dict[str, Any], Body()]) -> ms.Step:
    """Append a step; to repeat it is harmless."""
    return episodes.append_step(episode_id, ms.Step(**{**step, "id": step_id}))


@app.put("/users/{user}/episodes/{episode_id}/outcome")
def complete(episodes: Episodes, episode_id: UUID, verdict: Annotated[str, Body(embed=True)]) -> ms.Episode:
    """Say that it went well."""
    return episodes.complete(episode_id, ms.Success(verdict=verdict))


@app.get("/users/{user}/episodes/{episode_id}")
def get(episodes: Episodes, episode_id: UUID) -> ms.Episode:
    """One, with its steps."""
    return episodes.get(episode_id)


@app.get("/users/{user}/episodes")
def query(episodes: Episodes, outcome: str | None = None, limit: int = 20) -> list[ms.Episode]:
    """The newest ones, without their steps."""
    return episodes.query(outcome=outcome, limit=limit, steps=False).items


@app.get("/health")
def health(storage: Annotated[ms.MemoryStorage, Depends(storage_of)]) -> dict[str, int]:
    """What the pool does. It asks the database nothing: an app whose database is away is up."""
    pool: Any = storage.engine.pool
    return {"checked_out": pool.checkedout(), "pool_size": pool.size()}
