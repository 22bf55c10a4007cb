"""Replicas of a database on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms

Open = Callable[..., ms.MemoryStorage]


@pytest.fixture
def replica(migrated_server_url: str, tmp_path: Path) -> Iterator[Open]:
    """Open a replica by its name, with settings."""
    with ExitStack() as opened:

        def open_one(name: str, **settings: Any) -> ms.MemoryStorage:
            values = {"database": str(tmp_path / f"{name}.db"), "sync_url": migrated_server_url, "sync_writer": name}
            return opened.enter_context(ms.MemoryStorage.open(ms.Settings(**{**values, **settings})))

        yield open_one
