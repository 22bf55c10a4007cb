"""A recorder on a tracer provider of a test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from opentelemetry import context
from opentelemetry.sdk.trace import TracerProvider

import memory_storage as ms
from memory_storage.integrations.otel import EpisodeRecorder


@pytest.fixture(autouse=True)
def _no_current_span() -> Iterator[None]:
    """Whatever another test has left as the current span is no parent here."""
    token = context.attach(context.Context())
    yield
    context.detach(token)


@pytest.fixture
def target() -> str:
    """The recorder calls one method of a repository, which is tested on each backend."""
    return ":memory:"


@pytest.fixture
def recorder(storage: ms.MemoryStorage) -> EpisodeRecorder:
    return EpisodeRecorder(storage)


@pytest.fixture
def provider(recorder: EpisodeRecorder) -> Iterator[TracerProvider]:
    made = TracerProvider(shutdown_on_exit=False)
    made.add_span_processor(recorder)
    yield made
    made.shutdown()


@pytest.fixture
def recorded(storage: ms.MemoryStorage, recorder: EpisodeRecorder) -> Callable[[], list[ms.Episode]]:
    """Return the episodes, the oldest first, once the recorder has saved them."""

    def saved() -> list[ms.Episode]:
        assert recorder.force_flush()
        return storage.episodes.query(direction="oldest_first").items

    return saved
