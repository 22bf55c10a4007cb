"""Every erasure is in the audit log and in the metrics: what was removed, by which actor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from datetime import timedelta

import pytest

import memory_storage as ms
from memory_storage.dbapi import tables_written
from memory_storage.monitoring._audit import digest_of_ids


@pytest.fixture
def memory(target: str) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(ms.Settings(database=target, logging={"audit": True})) as storage:
        yield storage.acting_as("alice")


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Callable[[str], list[logging.LogRecord]]:
    caplog.set_level(logging.INFO)
    return lambda operation: [
        one for one in caplog.records if one.name == "memory_storage.audit" and one.operation == operation
    ]


def _save(memory: ms.MemoryStorage, count: int) -> list[str]:
    saved = memory.episodes.save_many([ms.Episode(task_description=f"task {n}") for n in range(count)])
    return [str(one.id) for one in saved]


def test_erasing_an_episode_is_logged_with_ids_and_actor(memory, lines):
    (key,) = _save(memory, 1)
    pattern = memory.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[key]))
    memory.forget(episode=key)
    (line,) = lines("forget")
    assert (line.actor, line.result, set(line.ids)) == ("alice", "stored", {key, str(pattern.id)})
    assert {"episodes", "patterns"} <= set(line.tables)
    assert len(lines("scrub")) == 1
    metrics = memory.metrics()
    assert (metrics["forget"].count, metrics["scrub"].count) == (1, 1)


def test_erasing_a_namespace_is_logged_with_what_was_removed(memory, lines):
    person = memory.in_namespace("person")
    ids = _save(person, 3)
    memory.forget(namespace="person", scrub=False)
    (line,) = lines("forget")
    assert (line.actor, line.namespace, set(line.ids), line.id_count) == ("alice", "person", set(ids), 3)
    assert lines("scrub") == []


def test_retention_names_what_it_removed(memory, lines):
    ids = _save(memory, 120)
    memory.retention.apply(ms.RetentionPolicy(max_age=timedelta(0)))
    (line,) = lines("retention.apply")
    assert (line.id_count, len(line.ids), line.ids_digest) == (120, 100, digest_of_ids(ids))
    assert set(line.ids) <= set(ids)
    assert line.ids_digest in line.getMessage()


def test_an_erasure_that_fails_later_is_logged_with_ids(memory, lines, monkeypatch):
    (key,) = _save(memory, 1)
    from memory_storage import erasure

    def fail(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erasure.Eraser, "_result", fail)
    with pytest.raises(KeyboardInterrupt):
        memory.forget(episode=key)
    (line,) = lines("forget")
    assert line.ids == (key,)
    assert memory.metrics()["forget"].errors == {"KeyboardInterrupt": 1}


@pytest.mark.parametrize(
    ("sql", "tables"),
    [
        ("INSERT INTO a VALUES (1)", ("a",)),
        ("insert or replace into main.a (b) select b from c", ("a",)),
        ("REPLACE INTO a VALUES (1)", ("a",)),
        ("UPDATE OR IGNORE a SET b = 1", ("a",)),
        ('UPDATE "odd ""name""" SET b = 1', ('odd "name"',)),
        ("UPDATE [a b] SET c = 1", ("a b",)),
        ("DELETE FROM `a` WHERE b = 'INSERT INTO c'", ("a",)),
        ("WITH x AS (SELECT 1), y(z) AS (SELECT 2) INSERT INTO a SELECT * FROM x", ("a",)),
        ("WITH x AS (SELECT 1) SELECT * FROM x", ()),
        ("INSERT INTO a VALUES (1) ON CONFLICT (b) DO UPDATE SET c = 1", ("a",)),
        ("-- UPDATE b\n/* DELETE FROM c */ UPDATE a SET d = 1", ("a",)),
        ("CREATE TRIGGER t AFTER UPDATE OF b, c ON a BEGIN UPDATE d SET e = 1; END", ("a",)),
        ("CREATE TRIGGER t AFTER UPDATE OF vector_seq ON a WHEN 1 BEGIN DELETE FROM d; END", ("a",)),
        ("CREATE TABLE IF NOT EXISTS a (b)", ("a",)),
        ("CREATE UNIQUE INDEX i ON a (b)", ("a",)),
        ("DROP TABLE IF EXISTS main.a", ("a",)),
        ("DROP INDEX i", ()),
        ("ALTER TABLE a ADD COLUMN b", ("a",)),
        ("SELECT 'UPDATE a'", ()),
        ("VACUUM", ()),
    ],
)
def test_the_tables_of_a_statement_are_those_that_it_changes(sql, tables):
    assert tables_written(sql) == tables


def test_the_line_of_a_first_vector_has_no_table_called_of(memory, lines):
    (key,) = _save(memory, 1)
    memory.embeddings.put("episode", key, [1.0, 2.0], model="m")
    (line,) = lines("embeddings.put")
    assert "OF" not in line.tables
    assert {"embeddings", "vector_models"} <= set(line.tables)
