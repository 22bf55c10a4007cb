"""What a revision does before its transaction: it is resumed after an interruption, and other programs may write."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

import memory_storage as ms
from memory_storage import migrate
from memory_storage.engine import make_engine
from tests.checks import assert_consistent

COUNT = 1_200


@pytest.fixture
def engine(database: Path) -> Any:
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save_many(
            [
                ms.Episode(task_description=f"alpha {number}", steps=[ms.Step(tool="bravo"), ms.Step(tool="接続")])
                for number in range(COUNT)
            ]
        )
    engine = make_engine(ms.Settings(database=str(database)))
    migrate.downgrade(engine, "0008")
    yield engine
    engine.dispose()


def _prepare(engine: Engine) -> Any:
    script = ScriptDirectory.from_config(migrate.config()).get_revision("0009")
    assert script is not None
    return script.module.prepare(engine)


@pytest.mark.slow
def test_an_interrupted_preparation_is_resumed_and_shows_its_progress(engine: Engine, database: Path):
    started = _prepare(engine)
    assert [next(started), next(started)] == [(0, COUNT), (500, COUNT)]
    started.close()
    seen: list[tuple[str, int, int]] = []
    migrate.upgrade(engine, progress=lambda *place: seen.append(place))
    assert seen == [("revision 0009", 0, COUNT - 500), *seen[1:]]
    _assert_all_found(database, COUNT)


@pytest.mark.slow
def test_programs_of_the_version_before_may_write_during_the_preparation(engine: Engine, database: Path):
    started = _prepare(engine)
    next(started), next(started)
    with engine.begin() as connection:  # as they write: the document is whole, and words are in three indexes
        connection.exec_driver_sql("DELETE FROM episodes WHERE seq IN (1, 1200)")
        for seq in (2, 1100):
            connection.exec_driver_sql(
                "UPDATE episodes SET document = json_set(document, '$.task_description', 'alpha zulu') WHERE seq = ?",
                (seq,),
            )
        connection.exec_driver_sql("UPDATE steps SET output = 'kilo', status = 'ok' WHERE seq IN (9, 2000)")
    with engine.connect() as connection:
        found = connection.exec_driver_sql("SELECT count(*) FROM episodes_fts WHERE episodes_fts MATCH 'zulu'")
        assert found.scalar_one() == 2
    started.close()
    migrate.upgrade(engine)
    _assert_all_found(database, COUNT - 2)
    with ms.MemoryStorage.open(str(database)) as storage:
        assert [storage.episodes.count(text=text) for text in ("zulu", "kilo", "zulu alpha")] == [2, 2, 2]


def test_a_small_database_needs_no_preparation(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save(ms.Episode(task_description="alpha", steps=[ms.Step(tool="bravo 接続")]))
        migrate.downgrade(storage.engine, "0008")
        assert list(_prepare(storage.engine)) == []
    _assert_all_found(database, 1)


def _assert_all_found(database: Path, count: int) -> None:
    with ms.MemoryStorage.open(str(database)) as storage:
        assert [storage.episodes.count(text=text) for text in ("alpha", "bravo", "接続")] == [count] * 3
        assert_consistent(storage.engine)
