"""A web app with synchronous handlers, injected repositories, and errors mapped to HTTP statuses.

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
    """Return the storage that the app opened; threads share it."""
    storage: ms.MemoryStorage = request.app.state.storage
    return storage


def episodes_of(
    storage: Annotated[ms.MemoryStorage, Depends(storage_of)], user: Annotated[str, Path(max_length=100)]
) -> ms.EpisodeRepository:
    """Return the episodes of one user; those of other users are in other namespaces."""
    return storage.in_namespace(f"user:{user}").episodes


Episodes = Annotated[ms.EpisodeRepository, Depends(episodes_of)]


@app.exception_handler(ms.MemoryStorageError)
def refuse(_: Request, error: ms.MemoryStorageError) -> JSONResponse:
    """Map an error to a status: 4xx for an invalid request, 503 for one to retry later."""
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return JSONResponse({"error": type(error).__name__, "detail": str(error)}, status)


@app.put("/users/{user}/episodes/{episode_id}")
def save(episodes: Episodes, episode_id: UUID, episode: Annotated[dict[str, Any], Body()]) -> ms.Episode:
    """Insert or update an episode. The ID is the client's, so a request without a response can be repeated."""
    return episodes.save(ms.Episode(**{**episode, "id": episode_id}))


@app.put("/users/{user}/episodes/{episode_id}/steps/{step_id}")
def append(episodes: Episodes, episode_id: UUID, step_id: UUID, step: Annotated[dict[str, Any], Body()]) -> ms.Step:
    """Append a step. Idempotent by its ID."""
    return episodes.append_step(episode_id, ms.Step(**{**step, "id": step_id}))


@app.put("/users/{user}/episodes/{episode_id}/outcome")
def complete(episodes: Episodes, episode_id: UUID, verdict: Annotated[str, Body(embed=True)]) -> ms.Episode:
    """Complete the episode as a success."""
    return episodes.complete(episode_id, ms.Success(verdict=verdict))


@app.get("/users/{user}/episodes/{episode_id}")
def get(episodes: Episodes, episode_id: UUID) -> ms.Episode:
    """Return one episode with its steps."""
    return episodes.get(episode_id)


@app.get("/users/{user}/episodes")
def query(episodes: Episodes, outcome: str | None = None, limit: int = 20) -> list[ms.Episode]:
    """Return the newest episodes, without their steps."""
    return episodes.query(outcome=outcome, limit=limit, steps=False).items


@app.get("/health")
def health(storage: Annotated[ms.MemoryStorage, Depends(storage_of)]) -> dict[str, int]:
    """Report the pool. Does not query the database: the app is up even if its database is not."""
    pool: Any = storage.engine.pool
    return {"checked_out": pool.checkedout(), "pool_size": pool.size()}
