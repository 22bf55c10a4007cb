"""Export and import: every field is equal afterwards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.importers import ImportReport, export_lines, import_file, import_stream
from memory_storage.models import Relationship, new_id
from tests import strategies
from tests.raising import raises

from .transcripts import REAL, write_airline

PAST = datetime(2020, 2, 3, 4, 5, 6, 789_012, tzinfo=timezone.utc)


class Clock:
    """Every look at it is a second later: a new timestamp differs."""

    def __init__(self) -> None:
        self.now = PAST

    def __call__(self) -> datetime:
        self.now += timedelta(seconds=1)
        return self.now


@pytest.fixture
def full(make_episode) -> Iterator[ms.MemoryStorage]:
    """A storage with some of everything, changed in every way."""
    with ms.MemoryStorage.open(":memory:", now=Clock()) as storage:
        fill(storage, make_episode)
        yield storage


@pytest.fixture
def other(tmp_path) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(tmp_path / "other.db") as storage:
        yield storage


def fill(storage: ms.MemoryStorage, make_episode: Any) -> None:
    first = storage.episodes.save(make_episode(3, started_at=PAST, tags=["auth"], metadata={"run": 1.5, "ü": None}))
    changed = storage.episodes.save(first.model_copy(update={"artifacts": ["patch.diff"]}))
    storage.episodes.complete(changed.id, ms.Abstained(reason="no way"), reward=0.25, reflection=ms.Reflection())
    storage.episodes.append_step(first.id, ms.Step(tool="late", result=ms.StepTimeout(), tokens_used=3))
    away = storage.episodes.save(make_episode(0, started_at=PAST.astimezone(timezone(timedelta(hours=5)))))
    storage.episodes.archive(away.id)
    pattern = storage.patterns.save(ms.Heuristic(condition="flaky", action="retry", success_rate=1 / 3))
    storage.patterns.save(ms.ToolSequence(tools=["a", "b"], evidence=[first.id], avg_latency_ms=7))
    storage.patterns.record_retrieval(pattern.id)
    storage.patterns.record_application(pattern.id, success=True, reward_delta=0.1)
    for owner, owner_id in (("episode", first.id), ("step", first.steps[0].id), ("pattern", pattern.id)):
        storage.embeddings.put(owner, owner_id, [1 / 3, *[0.25] * 383], model="small")
    storage.embeddings.put("episode", first.id, [0.1] * 1536, model="large")
    storage.embeddings.put("episode", first.id, [0.2] * 1536, model="large")
    storage.spatiotemporal.put(
        ms.SpatiotemporalEntry(owner_type="episode", owner_id=first.id, latitude=52.5, longitude=13.4, starts_at=PAST)
    )
    storage.spatiotemporal.put(
        ms.SpatiotemporalEntry(owner_type="step", owner_id=first.steps[1].id, place_name="Zürich", metadata={"a": [1]})
    )
    storage.relationships.add(away.id, first.id, "parent_child", weight=1 / 3, metadata={"ü": [None, 1.5]})
    storage.relationships.add(first.id, away.id, "related_to")
    storage.items.put(("a", "b\x01"), "k", {"x": [1 / 3, None]}, ttl=1e9, vectors={"f": [1 / 3], "g": [2]}, model="m")
    storage.items.put((), "k", 1)
    storage.items.put((), "k", "ü")
    storage.logs.append("log", [1, {"a": 2**60}], ids=["one", "two"])
    storage.logs.append("another", [None])


def everything(storage: ms.MemoryStorage) -> dict[str, list[Any]]:
    return {
        "episodes": sorted(storage.episodes.iterate(archived=None), key=lambda one: one.id),
        "patterns": sorted(storage.patterns.iterate(), key=lambda one: one.id),
        "embeddings": list(storage.embeddings.iterate()),
        "places": list(storage.spatiotemporal.iterate()),
        "relationships": list(storage.relationships.iterate()),
        "items": list(storage.items.iterate()),
        "item_vectors": list(storage.items.iterate_vectors()),
        "records": list(storage.logs.iterate()),
    }


def exported(storage: ms.MemoryStorage) -> io.BytesIO:
    return io.BytesIO("".join(line + "\n" for line in export_lines(storage)).encode())


def test_exported_and_imported_rows_are_equal_in_every_field(full, other):
    held = everything(full)
    assert [len(values) for values in held.values()] == [2, 2, 4, 2, 2, 2, 2, 3]
    assert import_stream(other, exported(full)) == ImportReport(19, 0)
    assert everything(other) == held
    assert other.analytics.summary() == full.analytics.summary()


def test_to_import_an_export_again_changes_nothing(full, other):
    import_stream(other, exported(full))
    held = everything(other)
    assert import_stream(other, exported(full)) == ImportReport(0, 19)
    assert everything(other) == held


def test_an_export_of_the_import_is_the_same_export(full, other):
    import_stream(other, exported(full), strict=True)
    assert sorted(exported(other).getvalue().splitlines()) == sorted(exported(full).getvalue().splitlines())


@pytest.mark.parametrize("source", ["made", "real"] if REAL.exists() else ["made"])
@pytest.mark.slow
def test_the_airline_runs_survive_export_and_import(source, full, other, tmp_path):
    path = REAL if source == "real" else write_airline(tmp_path / "runs.jsonl")
    import_file(full, path)
    report = import_stream(other, exported(full))
    assert (report.imported, report.failed) == (219, [])
    assert everything(other) == everything(full)


@settings(max_examples=15)
@given(
    episodes=st.lists(strategies.stored_episodes(), max_size=3, unique_by=lambda episode: episode.id),
    patterns=st.lists(strategies.patterns, max_size=3, unique_by=lambda pattern: pattern.id),
)
@pytest.mark.slow
def test_whatever_can_be_stored_survives_export_and_import(episodes, patterns):
    with ms.MemoryStorage.open(":memory:") as storage, ms.MemoryStorage.open(":memory:") as other:
        try:
            storage.episodes.import_many(episodes)
            storage.patterns.import_many(patterns)
        except (ms.ValidationError, ms.ConflictError):
            return
        assert import_stream(other, exported(storage)).failed == []
        assert everything(other) == everything(storage)


def test_one_namespace_is_exported_and_fits_into_another(full, other, make_episode):
    full.in_namespace("else").episodes.save(make_episode())
    import_stream(other.in_namespace("copy"), exported(full))
    assert everything(other.in_namespace("copy")) == everything(full)
    assert other.episodes.count() == 0


def test_writes_during_an_export_are_not_in_it(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode())
        lines = export_lines(storage)
        start = [next(lines), next(lines)]
        late = storage.episodes.save(make_episode())
        storage.embeddings.put("episode", late.id, [1.0] * 384, model="small")
        storage.patterns.save(ms.Heuristic(condition="a", action="b"))
        kinds = [json.loads(line)["kind"] for line in [*start, *lines]]
    assert kinds == ["header", "episode", "end"]


def test_an_export_can_be_left_in_the_middle(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode())
        lines = export_lines(storage)
        next(lines)
        next(lines)
        lines.close()
        storage.episodes.save(make_episode())
        assert storage.episodes.count() == 2


def lines_of(storage: ms.MemoryStorage) -> list[str]:
    return list(export_lines(storage))


def import_lines(storage: ms.MemoryStorage, lines: list[str], **options: Any) -> ImportReport:
    return import_stream(storage, io.BytesIO("\n".join(lines).encode()), **options)


def test_an_export_that_was_cut_off_is_reported(full, other):
    report = import_lines(other, lines_of(full)[:-1])
    assert report.imported == 19
    assert [problem.line for problem in report.failed] == [21]
    assert "truncated" in report.failed[0].message


def test_an_export_with_a_missing_line_is_reported(full, other):
    lines = lines_of(full)
    report = import_lines(other, lines[:-2] + lines[-1:])
    assert report.imported == 18
    assert "counts 19 values, but there are 18" in report.failed[0].message


def test_orphans_are_reported_and_the_rest_is_imported(full, other):
    lines = lines_of(full)
    kept = [line for line in lines if '"kind": "pattern"' not in line]
    report = import_lines(other, kept)
    assert report.imported == 16
    assert ["no pattern" in problem.message for problem in report.failed] == [True, False]
    assert other.embeddings.count() == 3


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ('{"kind": "wish", "value": {}}', "kind: one of episode"),
        ('{"kind": "episode"}', "kind: one of episode"),
        ('{"kind": "episode", "value": {"task": "x"}}', "task: no such field"),
        ('{"kind": "episode", "value": {"task_description": "x", "version": -1}}', "version"),
        ('{"kind": "pattern", "value": []}', "got []"),
        ("oops", "not JSON"),
    ],
)
def test_an_invalid_line_of_an_export_is_reported(full, other, line, problem):
    lines = lines_of(full)
    report = import_lines(other, [*lines[:2], line, *lines[2:-1], '{"kind": "end", "count": 20}'])
    assert report.imported == 19
    assert [found.line for found in report.failed] == [3]
    assert problem in report.failed[0].message


def test_the_version_of_an_export_is_the_least_that_has_its_kinds(storage):
    def version() -> int:
        return json.loads(next(iter(export_lines(storage))))["format_version"]

    one, other = storage.episodes.save_many([ms.Episode(task_description="t") for _ in range(2)])
    assert version() == 1
    storage.logs.append("log", [1])
    assert version() == 2
    storage.relationships.add(one.id, other.id, "follows")
    assert version() == 3
    header = json.loads(next(iter(export_lines(storage, domain="general"))))
    assert header["format_version"] == 1


def test_a_relationship_that_closes_a_cycle_or_has_no_episode_is_reported(storage, other):
    one, two = storage.episodes.save_many([ms.Episode(task_description="t") for _ in range(2)])
    storage.relationships.add(one.id, two.id, "follows")
    lines = lines_of(storage)
    (number,) = [n for n, line in enumerate(lines) if '"kind": "relationship"' in line]
    back = Relationship(from_id=two.id, to_id=one.id, kind="follows").model_dump_json()
    lost = Relationship(from_id=two.id, to_id=new_id(), kind="follows").model_dump_json()
    more = [f'{{"kind": "relationship", "value": {value}}}' for value in (back, lost)]
    end = '{"kind": "end", "count": 5}'
    report = import_lines(other, [*lines[: number + 1], *more, *lines[number + 1 : -1], end])
    assert (report.imported, [problem.line for problem in report.failed]) == (3, [number + 2, number + 3])
    assert "close a cycle" in report.failed[0].message
    assert list(other.relationships.iterate()) == list(storage.relationships.iterate())


def test_checkpoints_are_exported_and_imported_equal(storage, other):
    key = storage.episodes.save(ms.Episode(task_description="t", steps=[ms.Step(tool="t")])).id
    stored = storage.episodes.checkpoint(key, "label", state={"next": ["ü"], "x": 0.1 + 0.2, "big": 2**60})
    text = exported(storage).getvalue()
    assert json.loads(text.splitlines()[0])["format_version"] == 3
    assert import_stream(other, io.BytesIO(text)) == ImportReport(2, 0)
    assert import_stream(other, io.BytesIO(text)) == ImportReport(0, 2)
    assert list(other.checkpoints.iterate()) == [stored]
    lines = text.decode().splitlines()
    lost = [line for line in lines if '"kind": "episode"' not in line]
    with ms.MemoryStorage.open(":memory:") as empty:
        report = import_stream(empty, io.BytesIO("\n".join(lost[:-1]).encode()))
        assert report.imported == 0
        assert any(f"no episode {key}" in problem.message for problem in report.failed)
    assert '"checkpoint"' not in "".join(export_lines(storage, domain="general"))


def test_a_later_version_of_the_format_is_refused(other):
    header = '{"kind": "header", "format": "memory-storage", "format_version": 4}'
    with raises(ms.ValidationError, field="format_version", match="upgrade it"):
        import_lines(other, [header])


@pytest.mark.parametrize("first", ["", "oops", '{"kind": "episode", "value": {}}', '{"kind": "header"}'])
def test_what_has_no_header_is_no_export(other, first):
    with raises(ms.ValidationError, field="file", match="begins with a header line"):
        import_lines(other, [first], format="export")


def test_an_export_is_no_transcript(full, other):
    with raises(ms.ValidationError, field="file", match="use --format export"):
        import_lines(other, lines_of(full), format="openai-chat")


def test_embeddings_and_places_are_iterated_over_pages(storage, make_episode):
    episodes = storage.episodes.save_many([make_episode(0) for _ in range(230)])
    storage.embeddings.put_many([("episode", episode.id, [1.0] * 384) for episode in episodes], model="small")
    entries = [
        storage.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, place_name="here"))
        for episode in episodes
    ]
    ids = sorted(str(episode.id) for episode in episodes)
    assert [str(embedding.owner_id) for embedding in storage.embeddings.iterate()] == ids
    assert list(storage.spatiotemporal.iterate()) == sorted(entries, key=lambda entry: entry.id)
    assert list(storage.in_namespace("else").embeddings.iterate()) == []


def test_the_same_embedding_or_place_twice_is_refused(full, other):
    embedding, place = next(full.embeddings.iterate()), next(full.spatiotemporal.iterate())
    with raises(ms.ValidationError, field="embeddings", match="each owner and model once"):
        other.embeddings.import_many([embedding, embedding])
    with raises(ms.ValidationError, field="places", match="each id once"):
        other.spatiotemporal.import_many([place, place])


def test_an_embedding_or_place_without_its_owner_is_refused(full, other):
    with raises(ms.NotFoundError, kind="episode"):
        other.embeddings.import_many(list(full.embeddings.iterate()))
    with raises(ms.NotFoundError, kind="episode"):
        other.spatiotemporal.import_many(list(full.spatiotemporal.iterate()))
    assert (other.embeddings.count(), other.spatiotemporal.count()) == (0, 0)
