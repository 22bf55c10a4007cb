"""Every method that changes a row enforces the limits of `save`, so all stored rows can be saved and imported again."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings

import memory_storage as ms
from memory_storage.importers import export_lines, import_stream
from memory_storage.importers import json_records as importer_records
from memory_storage.models import new_id
from tests import strategies as made
from tests.checks import assert_consistent, dump

pytestmark = pytest.mark.whole_database  # the columns are read by SQL

HEURISTIC = {"condition": "c", "action": "a"}
GOOD = ms.Success(verdict="v" * 500, artifacts=["é", '"quoted"'])


def limited(storage: ms.MemoryStorage, **limits: Any) -> ms.MemoryStorage:
    """The same database under other limits."""
    settings = storage.settings.model_copy(update={"limits": ms.Limits(**limits)})
    return ms.MemoryStorage(storage.engine, settings)


def stored_bytes(storage: ms.MemoryStorage, table: str, key: UUID) -> int:
    with storage.engine.connect() as connection:
        sql = f"SELECT octet_length(document) FROM {table} WHERE id = ?"
        return int(connection.exec_driver_sql(sql, (str(key),)).scalar_one())


def refused(storage: ms.MemoryStorage, call: Callable[[], object]) -> ms.ValidationError:
    before = dump(storage.engine)
    with pytest.raises(ms.ValidationError) as caught:
        call()
    assert dump(storage.engine) == before
    return caught.value


def assert_over_bytes(error: ms.ValidationError, limit: int, actual: int, field: str = "document") -> None:
    assert (error.field, error.value, error.setting) == (field, actual, "limits.document_bytes")
    assert f"{limit:,} bytes of JSON" in error.limit


def assert_takes_its_own_export(storage: ms.MemoryStorage, target: ms.MemoryStorage) -> None:
    report = import_stream(target, io.BytesIO("\n".join(export_lines(storage)).encode()))
    assert (report.failed, report.unchanged) == ([], 0)


@settings(max_examples=20)
@given(episode=made.episodes())
def test_an_episode_is_measured_as_it_is_stored(storage, episode):
    namespace = str(new_id())
    saved = storage.in_namespace(namespace).episodes.save(episode)
    with storage.engine.connect() as connection:
        sql = "SELECT octet_length(document) FROM episodes WHERE namespace = ?"
        size = connection.exec_driver_sql(sql, (namespace,)).scalar_one()
    again = limited(storage, document_bytes=size).in_namespace(namespace).episodes.save(saved)
    with pytest.raises(ms.ValidationError) as caught:
        limited(storage, document_bytes=size - 1).in_namespace(namespace).episodes.save(again)
    assert_over_bytes(caught.value, size - 1, size)


def test_patterns_and_places_are_measured_as_stored(storage, make_episode):
    owner = storage.episodes.save(make_episode())
    pattern = storage.patterns.save(ms.Heuristic(metadata={"a": 1.5, "é": [1e300, None]}, **HEURISTIC))
    place = storage.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type="episode", owner_id=owner.id, place_name="é"))
    for _ in range(3):
        storage.patterns.record_application(pattern.id, success=True, reward_delta=0.1)
        storage.patterns.record_retrieval(pattern.id)
    pattern = storage.patterns.get(pattern.id)
    for table, value, write in (
        ("patterns", pattern, lambda memory: memory.patterns.save),
        ("spatiotemporal_index", place, lambda memory: memory.spatiotemporal.put),
    ):
        size = stored_bytes(storage, table, value.id)
        again = write(limited(storage, document_bytes=size))(value)
        error = refused(storage, lambda w=write, s=size, a=again: w(limited(storage, document_bytes=s - 1))(a))
        assert_over_bytes(error, size - 1, size)


@pytest.mark.parametrize("moment", [None, "now"])
def test_a_completion_keeps_the_limit_of_a_document(storage, make_episode, moment):
    tried, kept = (storage.episodes.save(make_episode(metadata={"a": "x" * 1_000})) for _ in range(2))
    ends = {} if moment is None else {"completed_at": max(tried.started_at, kept.started_at) + timedelta(hours=1)}
    ending = {"reward": 0.1, "reflection": ms.Reflection(insights=["i" * 100]), **ends}
    storage.episodes.complete(tried.id, GOOD, **ending)
    size = stored_bytes(storage, "episodes", tried.id)
    if moment is None:  # the digits of the moment
        size += 8
    small = limited(storage, document_bytes=size - 100)
    error = refused(storage, lambda: small.episodes.complete(kept.id, GOOD, **ending))
    assert abs(error.value - size) <= 8
    assert_over_bytes(error, size - 100, error.value)
    exact = limited(storage, document_bytes=size)
    ended = exact.episodes.complete(kept.id, GOOD, **ending)
    assert exact.episodes.save(ended).outcome == GOOD
    assert_consistent(storage.engine)


def test_a_refused_completion_leaves_its_transaction_usable(storage, make_episode):
    kept = storage.episodes.save(make_episode(metadata={"a": "x" * 1_000}))
    small = limited(storage, document_bytes=1_500)
    with small.transaction() as tx:
        with pytest.raises(ms.ValidationError) as caught:
            tx.episodes.complete(kept.id, GOOD)
        assert caught.value.field == "document"
        ended = tx.episodes.complete(kept.id, ms.Success(verdict="v"))
    assert small.episodes.get(kept.id) == ended


def test_a_merge_keeps_the_limit_of_tags(storage):
    one, other, third = storage.patterns.save_many(
        [ms.Heuristic(tags=tags, **HEURISTIC) for tags in (["aa", "bb"], ["bb", "cc"], ["aa", "bb"])]
    )
    small = limited(storage, tags=2)
    error = refused(storage, lambda: small.patterns.merge(one.id, other.id))
    assert (error.field, error.value, error.setting) == ("tags", 3, "limits.tags")
    merged = small.patterns.merge(one.id, third.id)
    assert small.patterns.save(merged).tags == ["aa", "bb"]


def test_a_merge_keeps_the_limit_of_a_document(storage):
    def pair() -> list[ms.Heuristic]:
        drafts = [ms.Heuristic(evidence=[new_id() for _ in range(20)], **HEURISTIC) for _ in range(2)]
        return storage.patterns.save_many(drafts)

    (a, b), (c, d) = pair(), pair()
    size = stored_bytes(storage, "patterns", storage.patterns.merge(a.id, b.id).id)
    small = limited(storage, document_bytes=size - 1)
    assert_over_bytes(refused(storage, lambda: small.patterns.merge(c.id, d.id)), size - 1, size)
    exact = limited(storage, document_bytes=size)
    merged = exact.patterns.merge(c.id, d.id)
    assert exact.patterns.save(merged).evidence == merged.evidence
    assert_consistent(storage.engine)


def test_learning_keeps_the_limit_of_a_document(storage):
    def succeed() -> None:
        steps = [ms.Step(tool=tool, result=ms.StepOk()) for tool in ("look", "edit")]
        good = [ms.Episode(task_description="t", steps=steps, outcome=GOOD) for _ in range(5)]
        bad = ms.Episode(task_description="t", outcome=ms.Failure(reason="r"))
        renewed = [ms.Step(**{**step.model_dump(), "id": new_id()}) for step in steps]
        storage.episodes.save_many(
            [
                bad,
                *(
                    one.model_copy(update={"steps": [step.model_copy(update={"id": new_id()}) for step in renewed]})
                    for one in good
                ),
            ]
        )

    succeed()
    (learned,) = storage.patterns.learn()
    large = storage.patterns.save(learned.model_copy(update={"metadata": {"note": "x" * 1_000}}))
    size = stored_bytes(storage, "patterns", large.id)
    small = limited(storage, document_bytes=size + 100)
    assert small.patterns.learn() == [large]  # nothing new
    succeed()
    error = refused(storage, lambda: small.patterns.learn())
    (grown,) = storage.patterns.learn()
    assert_over_bytes(error, size + 100, stored_bytes(storage, "patterns", large.id), f"patterns.{large.id}")
    assert len(grown.evidence) == 10


def test_rows_changed_up_to_a_limit_can_be_exported_and_imported(storage, make_episode):
    episode = storage.episodes.save(make_episode(metadata={"a": "x" * 1_000}))
    pattern, other = storage.patterns.save_many([ms.Heuristic(tags=[tag], **HEURISTIC) for tag in ("aa", "bb")])
    moment = episode.started_at
    storage.episodes.append_step(episode.id, ms.Step(tool="t", metadata={"a": "x" * 989}))
    storage.episodes.complete(episode.id, GOOD, reward=1.0, completed_at=moment)
    storage.patterns.merge(pattern.id, other.id)
    storage.patterns.record_application(pattern.id, success=False, reward_delta=0.1)
    size = stored_bytes(storage, "episodes", episode.id)
    exact = limited(storage, document_bytes=size, tags=2, step_bytes=1_000, steps_per_episode=3)
    assert exact.episodes.save(exact.episodes.get(episode.id)).version == 3
    assert exact.patterns.save(exact.patterns.get(pattern.id)).version == 3
    with ms.MemoryStorage.open(exact.settings.model_copy(update={"database": ":memory:"})) as target:
        assert_takes_its_own_export(exact, target)
        assert target.episodes.get(episode.id) == exact.episodes.get(episode.id)


def test_an_export_line_may_be_longer_than_a_transcripts(monkeypatch):
    monkeypatch.setattr(importer_records, "LINE_BYTES", 2_000)
    with ms.MemoryStorage.open(":memory:") as storage, ms.MemoryStorage.open(":memory:") as target:
        steps = [ms.Step(tool="t", result=ms.StepOk(output="x" * 500)) for _ in range(10)]
        episode = storage.episodes.save(ms.Episode(task_description="large", steps=steps))
        assert_takes_its_own_export(storage, target)
        assert target.episodes.get(episode.id) == episode
        small, large = (b'{"messages": [{"role": "user", "content": "' + b"x" * n + b'"}]}\n' for n in (1, 3_000))
        report = import_stream(target, io.BytesIO(small + large))
        assert [(problem.line, problem.message) for problem in report.failed] == [
            (2, "the line has more than 2,000 bytes")
        ]
