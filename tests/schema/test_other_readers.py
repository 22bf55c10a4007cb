"""Older SQLite libraries read the tables, and the revision that spells words brings older databases up to date."""

from __future__ import annotations

import re
import sqlite3
from pathlib import Path

from sqlalchemy import Engine

import memory_storage as ms
from memory_storage import migrate
from memory_storage.schema.words import words_of_episode
from tests.checks import assert_consistent

# Functions that SQLite 3.40, of Debian 12, lacks: those of 3.41 to 3.50.
NEWER = ("unhex", "octet_length", "timediff", "concat", "concat_ws", "string_agg", "if", "unistr", "unistr_quote")
NEWER_JSON = ("json_error_position", "jsonb", "json_pretty", "json_array_insert")


def _statements(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL").scalars())


def test_the_schema_uses_no_function_newer_than_sqlite_3_40(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.embeddings.put("episode", storage.episodes.save(_episode()).id, [1.0, 2.0], model="m")
        statements = _statements(storage.engine)
    newer = re.compile(rf"\b({'|'.join((*NEWER, *NEWER_JSON))})\s*\(|\bjsonb_\w+\s*\(", re.IGNORECASE)
    assert [sql for sql in statements if newer.search(sql)] == []


def _episode() -> ms.Episode:
    return ms.Episode(
        task_description="retry 接続",
        outcome=ms.Failure(reason="late", error_details="e"),
        steps=[ms.Step(tool="t", result=ms.StepOk(output="接続 done"))],
    )


def test_another_sqlite_counts_and_searches_every_table(database: Path):
    with ms.MemoryStorage.open(str(database)) as storage:
        storage.episodes.save(_episode())
        storage.patterns.save(ms.Heuristic(condition="late 接続", action="a"))
    with sqlite3.connect(database) as connection:  # the driver has closed the file
        names = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")]
        counts = {name: connection.execute(f"SELECT count(*) FROM [{name}]").fetchone()[0] for name in names}
        for name, texts in (("episode", 2), ("pattern", 1)):
            found = connection.execute(f"SELECT * FROM {name}_words WHERE {name}_words MATCH ?", ('"接\x7f続"',))
            assert len(found.fetchall()) == texts, name
    connection.close()
    names = ("episode_words", "episode_text", "episode_texts", "step_text", "episode_head_text", "pattern_words")
    assert [counts[name] for name in names] == [2, 2, 2, 1, 1, 1]


def test_rows_of_an_older_database_are_spelled_by_the_upgrade(storage: ms.MemoryStorage):
    saved = storage.episodes.save_many([_episode() for _ in range(3)])
    plain = storage.episodes.save(ms.Episode(task_description="plain"))
    pattern = storage.patterns.save(ms.Heuristic(condition="late 接続", action="a", tags=["再試行"]))
    migrate.downgrade(storage.engine, "0006")
    assert all("words" not in sql.split("(")[1] for sql in _statements(storage.engine) if "TABLE episodes" in sql[:20])
    migrate.upgrade(storage.engine)
    assert {one.id for one in storage.episodes.query(text="接続")} == {one.id for one in saved}
    assert [one.id for one in storage.episodes.query(text="plain")] == [plain.id]
    assert [hit.item.id for hit in storage.patterns.search("再試行")] == [pattern.id]
    with storage.engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT document, words FROM episodes ORDER BY seq").all()
    assert [words for _, words in stored] == [words_of_episode(document) for document, _ in stored]
    assert_consistent(storage.engine)
