"""The fixtures that every test may use: a storage on each backend, and things to put into it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

import memory_storage as ms

# Time limits fail on a busy machine for no fault of the code; a fixture may serve all the examples of one test.
settings.register_profile(
    "default",
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("default")


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TURSO_DATABASE_URL", "TURSO_AUTH_TOKEN", "LIBSQL_DATABASE_PATH"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """The path of a file that is not there yet."""
    return tmp_path / "memory.db"


@pytest.fixture(params=["memory", "file"])
def storage(request: pytest.FixtureRequest, database: Path) -> Iterator[ms.MemoryStorage]:
    """An empty storage, on each backend."""
    target = ":memory:" if request.param == "memory" else database
    with ms.MemoryStorage.open(target) as opened:
        yield opened


@pytest.fixture
def make_episode() -> Callable[..., ms.Episode]:
    """An episode with some steps, and whatever else is asked for."""

    def make(steps: int = 2, **fields: object) -> ms.Episode:
        done = [
            ms.Step(tool=f"tool-{number % 3}", action=f"action {number}", result=ms.StepOk(output=f"output {number}"))
            for number in range(1, steps + 1)
        ]
        return ms.Episode(**{"task_description": "Fix the flaky token refresh", "steps": done, **fields})

    return make
