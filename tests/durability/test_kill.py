"""A writer killed at any time: acknowledged writes are stored, and the others are stored completely or not at all.

Each of the local engines writes, and each recovers what itself and the other has left.
"""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from tests.backends import needs_libsql
from tests.checks import assert_consistent, dump, index_all

from .processes import killed
from .work import ENGINES, settings_of, write_until_killed
from .writes import Writer, now

pytestmark = needs_libsql
KILLS = int(os.environ.get("MEMORY_STORAGE_TEST_KILLS", "40"))


@pytest.mark.slow
def test_a_killed_writer_loses_no_acknowledged_write(database: Path):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments = random.Random(seed)
    acknowledged = begun = 0
    with ms.MemoryStorage.open(":memory:", now=now) as memory:
        for number in range(KILLS):
            name = f"{seed}-{number}"
            opening = number % 10 == 0  # the others are killed when they have begun to write
            durability = "full" if number % 2 else "normal"  # it writes more, and a kill is no power cut
            engine, other = ENGINES if number // 2 % 2 else ENGINES[::-1]
            after = moments.uniform(0, 0.15)
            written = len(
                killed(write_until_killed, database, engine, name, durability, after=after, from_first_byte=not opening)
            )
            acknowledged += written
            reader = engine if number // 4 % 2 else other
            with ms.MemoryStorage.open(settings_of(database, reader, namespace=name, durability="normal")) as storage:
                assert_consistent(storage.engine)
                begun += _is_whole(storage, Writer(memory.in_namespace(name), name), written, memory)
                _empty(storage)
            _empty(memory.in_namespace(name))
    print(f"{acknowledged} writes acknowledged; in {begun} of {KILLS} kills one more was there")
    assert acknowledged > KILLS


def _is_whole(storage: ms.MemoryStorage, writer: Writer, acknowledged: int, memory: ms.MemoryStorage) -> bool:
    """Whether the write after the last acknowledged one is there too; AssertionError if it is so in part."""
    found = _content(storage, storage.namespace)
    list(writer.run(acknowledged))
    if found == _content(memory, storage.namespace):
        return False
    list(writer.run(acknowledged + 1))
    assert found == _content(memory, storage.namespace)
    return True


def _content(storage: ms.MemoryStorage, namespace: str) -> dict[str, list[tuple[Any, ...]]]:
    """All rows without their local numbers, which two stores need not share."""
    index_all(storage.engine)
    tables = dump(storage.engine, namespace=namespace)
    facets = [row[:-1] for row in tables.pop("facets")]
    return {"facets": sorted(facets), **{name: [row[1:] for row in _sorted(rows)] for name, rows in tables.items()}}


def _sorted(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    return sorted(rows, key=lambda row: repr(row[1:]))


def _empty(storage: ms.MemoryStorage) -> None:
    for episode in list(storage.episodes.iterate(steps=False, archived=None)):
        storage.episodes.delete(episode.id)
    for pattern in list(storage.patterns.iterate()):
        storage.patterns.delete(pattern.id)
