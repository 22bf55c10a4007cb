"""Two processes with one local engine each write to one file: nothing is lost or duplicated, also after kills."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

import pytest

import memory_storage as ms
from memory_storage import dbapi, doctor
from tests.backends import needs_libsql
from tests.checks import assert_consistent

from .processes import killed, together
from .work import ENGINES, append_until, insert_until_killed, save_until_killed, settings_of, write_with_engine

pytestmark = needs_libsql
WRITES = 10_000  # of both processes together
KILLS = 4
KEY = "a key for both engines"

other_engine = pytest.mark.parametrize(("engine", "other"), [ENGINES, ENGINES[::-1]])
encrypted_or_not = pytest.mark.parametrize("key", [None, KEY], ids=["plain", "encrypted"])


def _assert_is_whole(path: Path, key: str | None) -> None:
    """Both engines find every index in agreement with its rows, and the doctor finds nothing."""
    for engine in ENGINES:
        settings = settings_of(path, engine, key)
        with ms.MemoryStorage.open(settings) as storage:
            assert_consistent(storage.engine)
        assert doctor.check(settings).findings == []


def test_ten_thousand_writes_of_two_engines_are_stored_once(database: Path):
    with ms.MemoryStorage.open(settings_of(database, "sqlite")) as storage:
        shared = [storage.episodes.save(ms.Episode(task_description=f"shared {n}")).id for n in range(40)]
        pattern = storage.patterns.save(ms.Heuristic(condition="if", action="then")).id

    calls = [(database, engine, WRITES // 2, shared, pattern) for engine in ENGINES]
    acknowledged = together(write_with_engine, calls, timeout=300)

    def of_both(kind: str) -> list[str]:
        return sorted(str(one) for answer in acknowledged for one in answer[kind])

    with ms.MemoryStorage.open(settings_of(database, "libsql")) as storage:
        appended = [(step.tool, str(step.id)) for episode in shared for step in storage.steps.iterate(episode)]
        for episode in shared:
            numbers = [step.step_number for step in storage.steps.iterate(episode)]
            assert numbers == list(range(1, len(numbers) + 1))
        episodes = [str(one.id) for one in storage.episodes.iterate(steps=False) if one.tags]
        places = [str(one.id) for one in storage.spatiotemporal.iterate()]
        applied = storage.patterns.get(pattern).effectiveness.times_applied
        for engine in ENGINES:
            assert storage.episodes.count(text=f"by{engine}") == WRITES // 20
    assert sorted(key for _, key in appended) == of_both("steps")
    assert sorted(episodes) == of_both("episodes")
    assert sorted(places) == of_both("places")
    assert applied + len(appended) + len(episodes) + len(places) == WRITES
    turns = sum(one[0] != following[0] for one, following in pairwise(appended))
    assert turns > WRITES // 100, "the processes have written one after the other"
    _assert_is_whole(database, None)


@pytest.mark.parametrize(("engine", "other", "key"), [(*ENGINES, None), (*ENGINES[::-1], KEY)])
def test_kills_of_one_engine_take_nothing_from_the_other(database: Path, tmp_path: Path, engine, other, key):
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    moments, done = random.Random(seed), tmp_path / "done"
    with ms.MemoryStorage.open(settings_of(database, engine, key)) as storage:
        shared = storage.episodes.save(ms.Episode(task_description="shared")).id
    with ThreadPoolExecutor(1) as threads:
        appending = threads.submit(together, append_until, [(database, other, key, shared, done)])
        try:
            counts = [
                len(
                    killed(
                        save_until_killed,
                        *(database, engine, key, f"{seed} {number}"),
                        after=moments.uniform(0.01, 0.15),
                        from_first_byte=True,
                    )
                )
                for number in range(KILLS)
            ]
        finally:
            done.touch()
        (appended,) = appending.result()
    with ms.MemoryStorage.open(settings_of(database, engine, key)) as storage:
        assert [str(step.id) for step in storage.steps.iterate(shared)] == appended
        stored = {one.id for one in storage.episodes.iterate(steps=False)} - {shared}
    for number, count in enumerate(counts):
        ids = [uuid5(NAMESPACE_OID, f"{seed} {number} {n}") for n in range(count + 1)]
        assert stored >= set(ids[:count])
        stored -= set(ids)  # the one after may have been committed and not acknowledged
    assert stored == set()
    assert appended
    _assert_is_whole(database, key)


@other_engine
@encrypted_or_not
def test_a_log_that_a_killed_engine_left_is_read_by_the_other(database: Path, engine, other, key):
    connection = dbapi.connect(str(database), local_engine=other, encryption_key=key)
    connection.execute("CREATE TABLE t (x, y)")
    connection.commit()
    connection.close()
    count = len(killed(insert_until_killed, database, engine, key, after=0.1, from_first_byte=True))
    assert Path(f"{database}-wal").stat().st_size > database.stat().st_size
    for name in (other, engine):
        connection = dbapi.connect(str(database), local_engine=name, encryption_key=key)
        rows = [row[0] for row in connection.execute("SELECT x FROM t ORDER BY x")]
        assert rows == list(range(len(rows)))
        assert len(rows) - count in {0, 1}
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        connection.close()
