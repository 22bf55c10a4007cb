"""The facets that a change writes, and the effect of the revision of their triggers on stored rows."""

from __future__ import annotations

from typing import Any

import pytest

import memory_storage as ms
from memory_storage import migrate
from memory_storage.models import new_id
from tests.checks import assert_consistent, index_all

KEYS = 2_000
HEURISTIC = {"condition": "c", "action": "a"}
LOG = (
    "CREATE TABLE written (what TEXT, name TEXT, value TEXT)",
    "CREATE TRIGGER facets_added AFTER INSERT ON facets"
    " BEGIN INSERT INTO written VALUES ('+', NEW.name, NEW.value); END",
    "CREATE TRIGGER facets_removed AFTER DELETE ON facets"
    " BEGIN INSERT INTO written VALUES ('-', OLD.name, OLD.value); END",
    "CREATE TRIGGER facets_changed AFTER UPDATE ON facets"
    " BEGIN INSERT INTO written VALUES ('*', NEW.name, NEW.value); END",
)


def run(storage: ms.MemoryStorage, *statements: str) -> None:
    with storage.engine.begin() as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def rows(storage: ms.MemoryStorage, sql: str) -> list[tuple[Any, ...]]:
    with storage.engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql)]


def written(storage: ms.MemoryStorage) -> list[tuple[Any, ...]]:
    """The facets that were added (+) and removed (-) since the last call."""
    found = rows(storage, "SELECT what, name, value FROM written ORDER BY what DESC, name, value")
    run(storage, "DELETE FROM written")
    return found


@pytest.fixture
def logged(storage: ms.MemoryStorage) -> ms.MemoryStorage:
    """A storage that notes which facets are written."""
    run(storage, *LOG)
    return storage


def test_updating_an_episode_writes_only_changed_facets(logged):
    metadata = {f"key-{number}": number for number in range(KEYS)}
    saved = logged.episodes.save(ms.Episode(task_description="d", tags=["aa", "bb"], metadata=metadata))
    assert len(written(logged)) == KEYS + 2
    context = ms.TaskContext(tags=["aa", "cc"])
    longer, other = {**metadata, "new": "x"}, {**metadata, "key-7": 7.5}
    for update, expected in (
        ({"tags": ["aa", "bb", "dd"]}, [("+", "tag", "dd")]),
        ({"tags": ["dd", "bb"]}, [("-", "tag", "aa")]),
        ({"tags": ["bb", "dd"]}, []),
        ({"context": context}, [("+", "tag", "aa"), ("+", "tag", "cc")]),
        ({"tags": ["aa", "bb"]}, [("-", "tag", "dd")]),
        ({"context": ms.TaskContext(tags=["bb"])}, [("-", "tag", "cc")]),
        ({"metadata": longer}, [("+", "metadata.new", '"x"')]),
        (
            {"metadata": other},
            [("-", "metadata.key-7", "7"), ("-", "metadata.new", '"x"'), ("+", "metadata.key-7", "7.5")],
        ),
        ({"metadata": {**other, "list": [1]}}, []),
        ({"task_description": "changed"}, []),
    ):
        saved = logged.episodes.save(saved.model_copy(update=update))
        assert written(logged) == expected, update
    assert_consistent(logged.engine)


def test_what_touches_no_facet_writes_none(logged):
    saved = logged.episodes.save(ms.Episode(task_description="d", tags=["aa"], metadata={"a": 1, "b": None}))
    pattern = logged.patterns.save(ms.Heuristic(tags=["aa"], metadata={"a": 1}, **HEURISTIC))
    written(logged)
    step = logged.episodes.append_step(saved.id, ms.Step(tool="t"))
    logged.episodes.complete(saved.id, ms.Success(verdict="v"))
    logged.episodes.archive(saved.id)
    logged.episodes.restore(saved.id)
    logged.steps.delete(step.id)
    logged.patterns.record_retrieval(pattern.id)
    logged.patterns.record_application(pattern.id, success=True)
    assert written(logged) == []


def test_updating_a_pattern_writes_only_changed_facets(logged):
    first, second, third = (new_id() for _ in range(3))
    saved = logged.patterns.save(
        ms.Heuristic(tags=["aa"], evidence=[first, second], metadata={"a": 1, "b": 2}, **HEURISTIC)
    )
    other = logged.patterns.save(ms.Heuristic(tags=["aa", "bb"], evidence=[second], **HEURISTIC))
    written(logged)
    for update, expected in (
        ({"evidence": [second, third]}, [("-", "evidence", str(first)), ("+", "evidence", str(third))]),
        ({"tags": ["aa", "cc"]}, [("+", "tag", "cc")]),
        ({"metadata": {"a": 1}}, [("-", "metadata.b", "2")]),
    ):
        changed = logged.patterns.get(saved.id).model_copy(update=update)
        logged.patterns.save(changed)
        assert written(logged) == expected, update
    logged.patterns.merge(saved.id, other.id)
    assert [one for one in written(logged) if one[0] == "+"] == [("+", "tag", "bb")]
    assert_consistent(logged.engine)


def test_facets_of_rows_that_are_stored_go_up_and_down(storage):
    of_context = ms.TaskContext(tags=["aa", "context"])
    episode, _ = storage.episodes.save_many(
        [
            ms.Episode(task_description="d", tags=["aa"], context=of_context, metadata={"a": 1}),
            ms.Episode(task_description=""),
        ]
    )
    storage.in_namespace("other").episodes.save(ms.Episode(task_description="d", context=of_context))
    storage.patterns.save(ms.Heuristic(context=of_context, evidence=[episode.id], **HEURISTIC))
    facets = "SELECT namespace, owner_type, name, value, owner_seq FROM facets ORDER BY 1, 2, 3, 4, 5"
    index_all(storage.engine)
    after = rows(storage, facets)
    migrate.downgrade(storage.engine, "0007")
    before = rows(storage, facets)
    assert [(row[0], *row[1:4]) for row in before] == [
        ("default", "episode", "metadata.a", "1"),
        ("default", "episode", "tag", "aa"),
        ("default", "pattern", "evidence", str(episode.id)),
    ]
    migrate.upgrade(storage.engine)
    assert rows(storage, facets) == after
    assert_consistent(storage.engine)


def test_a_row_that_is_no_json_does_not_end_an_upgrade(storage):
    damaged, whole = storage.episodes.save_many(
        [ms.Episode(task_description="d", context=ms.TaskContext(tags=["aa"])) for _ in range(2)]
    )
    migrate.downgrade(storage.engine, "0007")
    triggers = rows(storage, "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' AND tbl_name = 'episodes'")
    run(
        storage,
        *(f"DROP TRIGGER {name}" for name, _ in triggers),
        f"UPDATE episodes SET document = 'no JSON' WHERE id = '{damaged.id}'",
        *(sql for _, sql in triggers),
    )
    migrate.upgrade(storage.engine)
    assert [one.id for one in storage.episodes.query(tags_any=["aa"])] == [whole.id]
    migrate.downgrade(storage.engine, "0007")
    assert rows(storage, "SELECT value FROM facets") == []
