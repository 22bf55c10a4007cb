"""Rows stored by an older version can be saved: newer rules apply only to new or changed values."""

from __future__ import annotations

import io
from datetime import datetime, timedelta, timezone

import pytest

import memory_storage as ms
from memory_storage.importers import import_stream
from tests.checks import assert_consistent

pytestmark = pytest.mark.whole_database  # the rows are written by SQL

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=timezone.utc)
EARLIER = START - timedelta(hours=1)
HEURISTIC = {"condition": "c", "action": "a"}


def micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=timezone.utc)) // timedelta(microseconds=1)


def run_sql(storage: ms.MemoryStorage, sql: str, *values: object) -> None:
    with storage.engine.begin() as connection:
        assert connection.exec_driver_sql(sql, values).rowcount == 1


@pytest.fixture
def reversed_one(storage) -> ms.Episode:
    """An episode that ends before it starts."""
    saved = storage.episodes.save(ms.Episode(task_description="task", started_at=START, completed_at=START))
    run_sql(
        storage,
        "UPDATE episodes SET completed_at = ?, document = json_set(document, '$.completed_at', ?) WHERE id = ?",
        *(micros(EARLIER), EARLIER.isoformat(), str(saved.id)),
    )
    found = storage.episodes.get(saved.id)
    assert found.completed_at == EARLIER
    return found


@pytest.fixture
def doubled(storage) -> ms.Heuristic:
    """A pattern that names an episode twice in its evidence."""
    source = storage.episodes.save(ms.Episode(task_description="source"))
    saved = storage.patterns.save(ms.Heuristic(evidence=[source.id], **HEURISTIC))
    run_sql(
        storage,
        "UPDATE patterns SET document = json_set(document, '$.evidence', json_array(?, ?)) WHERE id = ?",
        *(str(source.id), str(source.id), str(saved.id)),
    )
    found = storage.patterns.get(saved.id)
    assert found.evidence == [source.id, source.id]
    return found


def refused_field(save, *arguments) -> str:
    with pytest.raises(ms.ValidationError) as caught:
        save(*arguments)
    return caught.value.field


def test_reversed_times_are_saved_as_they_are(storage, reversed_one):
    again = storage.episodes.save(reversed_one)
    assert (again.version, again.completed_at) == (2, EARLIER)
    tagged = storage.episodes.save(again.model_copy(update={"tags": ["tagged"]}))
    assert storage.episodes.get(tagged.id).tags == ["tagged"]
    new = ms.Episode(task_description="new")
    assert [one.version for one in storage.episodes.save_many([new, tagged])] == [1, 4]
    assert_consistent(storage.engine)


def test_a_save_can_correct_reversed_times(storage, reversed_one):
    repaired = storage.episodes.save(reversed_one.model_copy(update={"completed_at": START}))
    assert repaired.completed_at == START
    assert refused_field(storage.episodes.save, repaired.model_copy(update={"completed_at": EARLIER})) == "completed_at"


@pytest.mark.parametrize(
    "change", [{"completed_at": START - timedelta(microseconds=1)}, {"started_at": START + timedelta(seconds=1)}]
)
def test_times_that_changed_and_are_reversed_are_refused(storage, reversed_one, change):
    worse = reversed_one.model_copy(update=change)
    assert refused_field(storage.episodes.save, worse) == "completed_at"
    new = ms.Episode(task_description="new")
    assert refused_field(storage.episodes.save_many, [new, worse]) == "episodes.1.completed_at"
    assert storage.episodes.get(reversed_one.id) == reversed_one
    assert storage.episodes.find(new.id) is None


def test_reversed_times_of_another_namespace_excuse_nothing(storage, reversed_one):
    other = storage.in_namespace("other")
    copy = reversed_one.model_copy(update={"version": 0, "created_at": None})
    assert refused_field(other.episodes.save, copy) == "completed_at"


def test_a_stale_copy_with_reversed_times_is_a_conflict(storage, reversed_one):
    storage.episodes.save(reversed_one)
    with pytest.raises(ms.ConflictError) as caught:
        storage.episodes.save(reversed_one)
    assert (caught.value.expected, caught.value.actual) == (1, 2)


def test_reversed_times_do_not_stop_other_writes(storage, reversed_one):
    key = reversed_one.id
    storage.episodes.append_step(key, ms.Step(tool="t"))
    assert storage.episodes.archive(key).completed_at == EARLIER
    storage.episodes.restore(key)
    ended = storage.episodes.complete(key, ms.Success(verdict="v"), completed_at=EARLIER)
    assert ended.completed_at == EARLIER
    refused = {"completed_at": START - timedelta(seconds=1)}
    with pytest.raises(ms.ValidationError) as caught:
        storage.episodes.complete(key, ms.Success(verdict="v"), **refused)
    assert caught.value.field == "completed_at"
    assert storage.episodes.complete(key, ms.Success(verdict="v")).completed_at > START
    assert_consistent(storage.engine)


def test_a_session_with_reversed_times_may_grow(storage):
    def imported(*messages: str) -> None:
        content = ",".join(f'{{"role": "user", "content": "{text}"}}' for text in messages)
        import_stream(storage, io.BytesIO(f'{{"id": "s1", "messages": [{content}]}}'.encode()), id_field="id")

    imported("hello")
    run_sql(
        storage,
        "UPDATE episodes SET completed_at = started_at - 1, document = json_set(document, '$.completed_at', ?)",
        (storage.episodes.query().items[0].started_at - timedelta(microseconds=1)).isoformat(),
    )
    imported("hello", "again")
    (grown,) = storage.episodes.query()
    assert len(grown.metadata["conversation"]) == 2
    assert grown.completed_at < grown.started_at


def test_evidence_that_was_doubled_is_saved_as_it_is(storage, doubled):
    again = storage.patterns.save(doubled)
    assert (again.version, again.evidence) == (2, doubled.evidence)
    changed = storage.patterns.save_many([ms.Heuristic(**HEURISTIC), again.model_copy(update={"action": "b"})])
    assert [one.version for one in changed] == [1, 3]
    assert_consistent(storage.engine)


def test_evidence_that_changed_and_is_doubled_is_refused(storage, doubled):
    worse = doubled.model_copy(update={"evidence": [*doubled.evidence, doubled.evidence[0]]})
    assert refused_field(storage.patterns.save, worse) == "evidence"
    assert refused_field(storage.patterns.save_many, [ms.Heuristic(**HEURISTIC), worse]) == "patterns.1.evidence"
    repaired = storage.patterns.save(doubled.model_copy(update={"evidence": doubled.evidence[:1]}))
    assert repaired.evidence == doubled.evidence[:1]
    assert (
        refused_field(storage.patterns.save, repaired.model_copy(update={"evidence": doubled.evidence})) == "evidence"
    )
