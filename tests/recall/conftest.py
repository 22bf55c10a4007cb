"""A storage with an embedder on each backend, and a small memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

import memory_storage as ms

EMBEDDER = ms.HashingEmbedder()


@pytest.fixture
def storage(target: Any) -> Iterator[ms.MemoryStorage]:
    """An empty storage with an embedder, on each backend."""
    with ms.MemoryStorage.open(target, embedder=EMBEDDER) as opened:
        yield opened


def ok(tool: str, output: str = "done", **fields: Any) -> ms.Step:
    return ms.Step(tool=tool, result=ms.StepOk(output=output), **fields)


def error(tool: str, message: str = "it broke", **fields: Any) -> ms.Step:
    return ms.Step(tool=tool, result=ms.StepError(message=message), **fields)


def success(task: str, *steps: ms.Step, **fields: Any) -> ms.Episode:
    return ms.Episode(
        **{"task_description": task, "outcome": ms.Success(verdict="it works"), "steps": list(steps), **fields}
    )


def failure(task: str, *steps: ms.Step, **fields: Any) -> ms.Episode:
    return ms.Episode(
        **{"task_description": task, "outcome": ms.Failure(reason="it does not"), "steps": list(steps), **fields}
    )


@pytest.fixture
def login(storage: ms.MemoryStorage) -> dict[str, Any]:
    """A success and a failure about logins, another success, and a pattern; with vectors."""
    episodes = storage.episodes.save_many(
        [
            success("Fix the flaky login test", error("pytest", "assert 1 == 2"), ok("edit"), ok("pytest", "1 passed")),
            failure("Fix the slow login page", ok("profile"), error("deploy", "no permission")),
            success("Refund a damaged order", ok("refund")),
        ]
    )
    pattern = storage.patterns.save(
        ms.Heuristic(condition="a flaky login test", action="freeze the clock", success_rate=0.8, occurrence_count=5)
    )
    storage.embeddings.embed(EMBEDDER)
    return {"success": episodes[0], "failure": episodes[1], "other": episodes[2], "pattern": pattern}
