"""CrewAI without telemetry, without its home directory, and with its own deprecations."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator

import pytest

import memory_storage as ms

os.environ |= {
    "CREWAI_DISABLE_TELEMETRY": "true",
    "CREWAI_TESTING": "true",  # it prints no panels
    "CREWAI_TRACING_ENABLED": "false",  # its tracer waits 5 s for the flow of each save
    "OTEL_SDK_DISABLED": "true",
}
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its dependencies
    import crewai.memory.storage.factory
    import crewai.memory.unified_memory

from memory_storage.integrations.crewai import MemoryStorageBackend

_ITS_OWN = (
    "ignore:datetime.datetime.utcnow:DeprecationWarning",
    "ignore::pydantic.warnings.PydanticDeprecationWarning",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let CrewAI call what is deprecated."""
    for item in items:
        if "integrations/crewai" in item.nodeid:
            for one in _ITS_OWN:
                item.add_marker(pytest.mark.filterwarnings(one))


@pytest.fixture(autouse=True)
def _no_home(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> None:
    monkeypatch.setenv("CREWAI_STORAGE_DIR", str(tmp_path))
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture(autouse=True)
def _no_factory() -> Iterator[None]:
    yield
    crewai.memory.storage.factory.set_memory_storage_factory(None)


@pytest.fixture(params=["memory", "file"])
def target(request: pytest.FixtureRequest) -> str:
    """What a storage is opened with."""
    return ":memory:" if request.param == "memory" else str(request.getfixturevalue("migrated_file"))


@pytest.fixture
def backend(storage: ms.MemoryStorage) -> MemoryStorageBackend:
    """A backend without records."""
    return MemoryStorageBackend(storage)
