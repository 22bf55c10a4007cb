"""The contract of the repositories, as tests that pytest runs on your `storage`.

    class TestMyStorage(Conformance):
        @pytest.fixture
        def storage(self):
            return MyStorage()

It needs `episodes`, `steps`, `patterns`, `embeddings`, `spatiotemporal`, `relationships`, `items`, `logs`, `analytics`,
`transaction`, `snapshot` and `in_namespace`. A storage that passes all tests can replace a MemoryStorage.

All tests may share one database that has other rows: each test uses its own namespace, whose name is random and begins
with `conformance-`, and deletes its rows at the end, even if it fails.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any
from uuid import uuid4

import pytest

from memory_storage.errors import ConflictError, MemoryStorageError, NotFoundError, ValidationError
from memory_storage.models import (
    Episode,
    Failure,
    GetItem,
    Heuristic,
    Playbook,
    PlaybookStep,
    PutItem,
    Reflection,
    RewardScore,
    SpatiotemporalEntry,
    Step,
    StepError,
    StepOk,
    StepTimeout,
    Success,
    TaskContext,
    new_id,
)

_AT = datetime(2025, 3, 30, 1, 2, 3, 456_789, tzinfo=timezone.utc)
_TEXT = '\u00e9 \U0001f469\u200d\U0001f680 \u2028 \'; DROP TABLE episodes; -- \\ %_*? "x" {"a": 1}'
_MODEL = "conformance"

# A storage is whatever has the attributes that these tests use, of any class.
_Storage = Any


class Conformance:
    """Subclass it with a fixture `storage`, which may return the same non-empty storage for all tests."""

    @pytest.fixture
    def isolated(self, storage: _Storage) -> Iterator[_Storage]:
        """A view of `storage` in a new namespace for this test, emptied at the end."""
        with _own_namespace(storage) as (_, view):
            yield view

    def test_what_is_saved_is_read_back_equal_by_every_method(self, isolated: _Storage) -> None:
        """To the microsecond, in every field."""
        saved = isolated.episodes.save(_episode())
        assert saved.version == 1
        assert saved.created_at is not None
        assert isolated.episodes.get(saved.id) == saved
        assert isolated.episodes.find(str(saved.id)) == saved
        assert list(isolated.episodes.query()) == list(isolated.episodes.iterate()) == [saved]
        assert [hit.item for hit in isolated.episodes.search("conformance")] == [saved]
        given = _episode(id=saved.id)
        for name in ("task_description", "context", "started_at", "tags", "metadata", "reward", "reflection"):
            assert getattr(saved, name) == getattr(given, name)
        assert [step.result for step in saved.steps] == [step.result for step in given.steps]

    def test_a_missing_one_is_none_or_an_error_that_names_it(self, isolated: _Storage) -> None:
        """`find` returns None, `get` raises, `delete` returns False."""
        missing = new_id()
        for repository in (
            isolated.episodes,
            isolated.steps,
            isolated.patterns,
            isolated.spatiotemporal,
            isolated.relationships,
        ):
            assert repository.find(missing) is None
            assert str(missing) in str(_raised(NotFoundError, partial(repository.get, missing)))
            assert repository.delete(missing) is False

    def test_a_stale_version_is_a_conflict_and_changes_nothing(self, isolated: _Storage) -> None:
        """Optimistic locking."""
        first = isolated.episodes.save(_episode())
        second = isolated.episodes.save(first.model_copy(update={"task_description": "changed"}))
        assert second.version == 2
        error = _raised(ConflictError, lambda: isolated.episodes.save(first))
        assert (error.expected, error.actual) == (1, 2)
        assert isolated.episodes.get(first.id) == second

    def test_to_save_a_new_one_again_is_harmless(self, isolated: _Storage) -> None:
        """A write may be repeated."""
        episode = _episode()
        assert isolated.episodes.save(episode) == isolated.episodes.save(episode)
        assert isolated.episodes.count() == 1

    def test_saving_without_steps_removes_none(self, isolated: _Storage) -> None:
        """`created_at` is not reset either."""
        saved = isolated.episodes.save(_episode())
        bare = isolated.episodes.get(saved.id, steps=False)
        again = isolated.episodes.save(bare.model_copy(update={"tags": ["other"]}))
        assert len(isolated.episodes.get(saved.id).steps) == len(saved.steps)
        assert again.created_at == saved.created_at

    def test_appended_steps_are_numbered_in_their_order(self, isolated: _Storage) -> None:
        """Appending the same step twice is idempotent."""
        episode = isolated.episodes.save(Episode(task_description="steps"))
        steps = [Step(tool=f"tool {n}") for n in range(5)]
        appended = [isolated.episodes.append_step(episode.id, step) for step in steps]
        assert [step.step_number for step in appended] == [1, 2, 3, 4, 5]
        assert isolated.episodes.append_step(episode.id, steps[2]) == appended[2]
        assert isolated.steps.range(episode.id, 2, 3) == appended[1:3]
        assert isolated.steps.latest(episode.id, 2) == appended[3:]
        assert isolated.steps.count(episode.id) == 5

    def test_many_steps_are_appended_all_or_none(self, isolated: _Storage) -> None:
        """A repetition appends none of them again."""
        episode = isolated.episodes.save(Episode(task_description="steps"))
        steps = [Step(tool=f"tool {n}", result=StepOk(output=_TEXT)) for n in range(100)]
        appended = isolated.episodes.append_steps(episode.id, steps[:60])
        assert [step.step_number for step in appended] == list(range(1, 61))
        assert isolated.episodes.append_steps(episode.id, steps)[:60] == appended
        assert isolated.episodes.get(episode.id).steps[:60] == appended
        changed = [Step(tool="new"), steps[0].model_copy(update={"tool": "changed"})]
        _raised(ConflictError, lambda: isolated.episodes.append_steps(episode.id, changed))
        assert isolated.steps.count(episode.id) == 100

    def test_a_checkpoint_is_handed_over_and_resumed(self, isolated: _Storage) -> None:
        """The new episode follows the other one; checkpoints are deleted with their episode."""
        episode = isolated.episodes.save(_episode())
        state = {"next": [_TEXT], "number": 0.1 + 0.2}
        checkpoint = isolated.episodes.checkpoint(episode.id, _TEXT, state=state)
        assert (checkpoint.step_number, checkpoint.state) == (3, state)
        assert isolated.checkpoints.get(checkpoint.id) == checkpoint
        assert isolated.checkpoints.query(episode.id).items == [checkpoint]
        handoff = isolated.episodes.handoff(episode.id)
        assert (handoff.checkpoint, handoff.state, handoff.steps) == (checkpoint, state, 3)
        assert handoff.next[0] == _TEXT
        resumed = isolated.episodes.resume(checkpoint.id)
        assert isolated.episodes.get(resumed.id) == resumed
        assert resumed.metadata["resumed_from_checkpoint"] == str(checkpoint.id)
        isolated.episodes.delete(episode.id)
        assert isolated.checkpoints.find(checkpoint.id) is None

    def test_buffered_steps_are_stored_by_a_flush(self, isolated: _Storage) -> None:
        """In their order, each once."""
        episode = isolated.episodes.save(Episode(task_description="steps"))
        with isolated.buffered_steps(episode.id) as buffer:
            for number in range(20):
                buffer.add(Step(tool=f"{number}"))
            buffer.flush()
            assert isolated.steps.count(episode.id) == 20
        assert [step.tool for step in isolated.steps.iterate(episode.id)] == [f"{number}" for number in range(20)]

    def test_an_episode_is_completed(self, isolated: _Storage) -> None:
        """With its outcome, reward and reflection."""
        episode = isolated.episodes.save(Episode(task_description="to complete", started_at=_AT))
        ended = isolated.episodes.complete(
            episode.id, Success(verdict=_TEXT), reward=0.75, reflection=Reflection(insights=[_TEXT]), completed_at=_AT
        )
        assert (ended.outcome, ended.completed_at) == (Success(verdict=_TEXT), _AT)
        assert ended.reward is not None
        assert ended.reward.total == 0.75
        assert isolated.episodes.get(episode.id) == ended

    def test_a_summary_is_stored_with_its_episode(self, isolated: _Storage) -> None:
        """It is found by its words, and removed without a trace."""
        episode = isolated.episodes.save(_episode())
        summary = isolated.summaries.put(episode.id, f"clockwork {_TEXT}", key_steps=[_TEXT], key_concepts=[_TEXT])
        assert isolated.summaries.get(episode.id) == isolated.episodes.get(episode.id).summary == summary
        assert isolated.episodes.count(text="clockwork") == 1
        again = isolated.summaries.put(episode.id, summary.text, key_steps=[_TEXT], key_concepts=[_TEXT])
        assert (again, isolated.episodes.get(episode.id).version) == (summary, 2)
        assert isolated.summaries.summarize(episode.id).created_by == "ExtractiveSummarizer"
        assert isolated.summaries.delete(episode.id) is True
        assert isolated.summaries.find(episode.id) is None
        assert isolated.episodes.count(text="clockwork") == 0

    def test_what_is_archived_is_left_out_until_it_is_restored(self, isolated: _Storage) -> None:
        """Queries select it by `archived`."""
        episode = isolated.episodes.save(_episode())
        assert isolated.episodes.archive(episode.id).archived_at is not None
        assert isolated.episodes.count() == 0
        assert isolated.episodes.count(archived=True) == isolated.episodes.count(archived=None) == 1
        isolated.episodes.restore(episode.id)
        assert isolated.episodes.count() == 1

    def test_filters_hold_together(self, isolated: _Storage) -> None:
        """Filters by tags, metadata, times and words."""
        saved = isolated.episodes.save(_episode())
        isolated.episodes.save(Episode(task_description="another"))
        matching: list[dict[str, Any]] = [
            {"tags_all": ["one", "two"]},
            {"tags_any": ["two", "absent"]},
            {"metadata": {"text": _TEXT}},
            {"domain": "web-api", "min_reward": 0.25},
            {"since": _AT, "until": _AT + timedelta(microseconds=1)},
            {"text": "conformance"},
        ]
        for filters in matching:
            assert [one.id for one in isolated.episodes.query(**filters)] == [saved.id], filters
            assert isolated.episodes.count(**filters) == 1, filters
        assert isolated.episodes.count(tags_all=["one", "absent"]) == 0

    def test_pages_show_each_one_once(self, isolated: _Storage) -> None:
        """In both directions, also for equal times."""
        saved = isolated.episodes.save_many(
            [Episode(task_description=f"{n}", started_at=_AT + timedelta(seconds=n // 3)) for n in range(10)]
        )
        for direction in ("newest_first", "oldest_first"):
            shown, cursor = [], None
            while True:
                page = isolated.episodes.query(limit=3, cursor=cursor, direction=direction)
                shown += [one.id for one in page]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert len(shown) == len(set(shown)) == 10
            assert set(shown) == {one.id for one in saved}

    def test_many_are_saved_all_or_none(self, isolated: _Storage) -> None:
        """If one is rejected, none is stored."""
        stale = isolated.episodes.save(_episode())
        isolated.episodes.save(stale)
        _raised(ConflictError, lambda: isolated.episodes.save_many([Episode(task_description="good"), stale]))
        assert isolated.episodes.count() == 1

    def test_an_error_in_a_transaction_discards_its_writes(self, isolated: _Storage) -> None:
        """A clean exit commits them."""

        def fail() -> None:
            with isolated.transaction() as tx:
                tx.episodes.save(Episode(task_description="discarded"))
                tx.patterns.save(Heuristic(condition="discarded", action="a"))
                raise MemoryStorageError("stop")

        _raised(MemoryStorageError, fail)
        assert isolated.episodes.count() == isolated.patterns.count() == 0
        with isolated.transaction() as tx:
            kept = tx.episodes.save(Episode(task_description="kept"))
        assert isolated.episodes.get(kept.id) == kept

    def test_a_snapshot_does_not_see_what_comes_later(self, isolated: _Storage) -> None:
        """A storage in memory may block writers until the snapshot ends."""
        isolated.episodes.save(Episode(task_description="earlier"))
        with isolated.snapshot() as view:
            assert view.episodes.count() == 1
        isolated.episodes.save(Episode(task_description="later"))
        with isolated.snapshot() as view:
            assert view.episodes.count() == 2

    def test_a_namespace_sees_nothing_of_another(self, storage: _Storage) -> None:
        """Independent of the names."""
        with _own_namespace(storage) as (name, own):
            episode = own.episodes.save(_episode())
            for suffix in ("2", "' OR '1'='1", "%"):
                other = storage.in_namespace(name + suffix)
                assert other.episodes.find(episode.id) is None
                assert other.episodes.count() == 0
                assert other.episodes.delete(episode.id) is False
            assert own.episodes.get(episode.id) == episode

    def test_counters_of_a_pattern_are_counted_by_the_store(self, isolated: _Storage) -> None:
        """No count is lost to a stale copy."""
        pattern = isolated.patterns.save(Heuristic(condition=_TEXT, action="a"))
        isolated.patterns.record_retrieval(pattern.id)
        isolated.patterns.record_application(pattern.id, success=True, reward_delta=0.5)
        isolated.patterns.record_application(pattern.id, success=False, reward_delta=0.0)
        found = isolated.patterns.get(pattern.id).effectiveness
        assert (found.times_retrieved, found.times_applied) == (1, 2)
        assert (found.success_when_applied, found.failure_when_applied) == (1, 1)
        assert abs(found.avg_reward_delta - 0.25) < 1e-12

    def test_what_succeeds_is_learned_and_what_is_deleted_is_not(self, isolated: _Storage) -> None:
        """Learning again counts what has changed since."""
        saved = isolated.episodes.save_many(
            [_run("look", "edit") for _ in range(5)] + [_run("guess") for _ in range(5)]
        )
        (pattern,) = (one for one in isolated.patterns.learn() if one.kind == "tool_sequence")
        assert (pattern.tools, pattern.occurrence_count, pattern.success_rate) == (["look", "edit"], 5, 1.0)
        isolated.episodes.delete(saved[0].id)
        isolated.episodes.save_many([_run("look", "edit") for _ in range(3)])
        isolated.patterns.learn()
        again = isolated.patterns.get(pattern.id)
        assert (again.occurrence_count, again.version) == (7, 2)

    def test_what_was_recalled_and_used_is_counted_and_found(self, isolated: _Storage) -> None:
        """Each pattern that was used is counted once, and episodes are found by what they used."""
        pattern = isolated.patterns.save(Heuristic(condition=_TEXT, action="a"))
        recall = isolated.recall(_TEXT)
        assert [one.item.id for one in recall] == [pattern.id]
        episode = isolated.episodes.save(_episode())
        outcome = Success(verdict="done")
        complete = isolated.episodes.complete(episode.id, outcome, recalled=recall, used=[pattern.id], rating=5)
        assert complete.recalled is not None
        assert (complete.recalled.used, complete.recalled.rating) == ([pattern.id], 5)
        assert [one.id for one in isolated.episodes.query(used=pattern.id)] == [episode.id]
        counted = isolated.patterns.get(pattern.id).effectiveness
        assert (counted.times_retrieved, counted.times_applied, counted.success_when_applied) == (1, 1, 1)
        (row,) = isolated.analytics.attribution(by="record")
        assert (row.shown, row.adoption.count, row.success_used.count) == (1, 1, 1)

    def test_a_playbook_keeps_its_steps_and_is_found_by_their_words(self, isolated: _Storage) -> None:
        """Each change is a version; a stale copy is rejected."""
        step = PlaybookStep(tool="kubectl", action=_TEXT, parameters={"n": 0.1}, on_error="uncordon")
        first = isolated.patterns.save(Playbook(name=_TEXT, steps=[step]))
        isolated.patterns.save(Heuristic(condition="c", action="a"))
        assert isolated.patterns.query(kind="playbook").items == [first]
        assert [hit.item.id for hit in isolated.patterns.search("uncordon")] == [first.id]
        second = isolated.patterns.save(first.model_copy(update={"steps": [PlaybookStep(action="reboot")]}))
        _raised(ConflictError, lambda: isolated.patterns.save(first))
        assert isolated.patterns.get(first.id) == second
        assert not isolated.patterns.search("uncordon")

    def test_the_nearest_vectors_come_first(self, isolated: _Storage) -> None:
        """Ordered by cosine, among those that match the filters."""
        saved = isolated.episodes.save_many([Episode(task_description=f"{n}", tags=[f"t{n % 2}"]) for n in range(4)])
        vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]
        rows = [("episode", one.id, vector) for one, vector in zip(saved, vectors, strict=True)]
        isolated.embeddings.put_many(rows, model=_MODEL)
        hits = isolated.episodes.similar_to([1.0, 0.0], model=_MODEL, k=3)
        assert [hit.item.id for hit in hits] == [one.id for one in saved[:3]]
        for hit, cosine in zip(hits, (1.0, 0.8, 0.0), strict=True):
            assert abs(hit.similarity - cosine) < 1e-6
        odd = isolated.episodes.similar_to([1.0, 0.0], model=_MODEL, k=3, tags_all=["t1"])
        assert [hit.item.id for hit in odd] == [saved[1].id, saved[3].id]

    def test_what_is_owned_goes_with_its_owner(self, isolated: _Storage) -> None:
        """Deleting an episode deletes its steps, embeddings, places and relationships."""
        episode = isolated.episodes.save(_episode())
        isolated.embeddings.put("episode", episode.id, [1.0, 0.0], model=_MODEL)
        place = isolated.spatiotemporal.put(
            SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, latitude=52.5, longitude=13.4, starts_at=_AT)
        )
        assert isolated.spatiotemporal.get(place.id) == place
        assert isolated.spatiotemporal.for_owner("episode", episode.id) == [place]
        other = isolated.episodes.save(Episode(task_description="child"))
        isolated.relationships.add(episode.id, other.id, "parent_child")
        assert isolated.episodes.delete(episode.id) is True
        assert isolated.relationships.count() == 0
        assert isolated.episodes.delete(other.id) is True
        assert not any(isolated.analytics.summary().rows.values())

    def test_relationships_are_walked_and_close_no_cycle(self, isolated: _Storage) -> None:
        """Ancestors and descendants come by their distance; a path is a shortest one."""
        ids = [one.id for one in isolated.episodes.save_many([Episode(task_description=f"{n}") for n in range(4)])]
        relationships = isolated.relationships
        edges = ((0, 1), (1, 2), (2, 3), (0, 2))
        added = [relationships.add(ids[one], ids[two], "parent_child", metadata={"x": _TEXT}) for one, two in edges]
        assert sorted(relationships.iterate(), key=lambda one: one.id) == sorted(added, key=lambda one: one.id)
        assert relationships.add(ids[0], ids[1], "parent_child", weight=0.1 + 0.2).id == added[0].id
        assert relationships.ancestors(ids[3], limit=1).items == relationships.ancestors(ids[3], max_depth=1).items
        assert {one.episode_id: one.depth for one in relationships.ancestors(ids[3])} == {
            ids[2]: 1,
            ids[1]: 2,
            ids[0]: 2,
        }
        assert [one.episode_id for one in relationships.topological_order(ids[0])] == ids
        assert relationships.path(ids[0], ids[3]) == [ids[0], ids[2], ids[3]]
        _raised(ValidationError, lambda: relationships.add(ids[3], ids[0], "parent_child"))
        assert {one.id for one in isolated.episodes.query(child_of=ids[0])} == {ids[1], ids[2]}
        assert [one.to_id for one in relationships.query(ids[1], edges="outgoing")] == [ids[2]]

    def test_an_item_is_stored_under_its_path_and_key(self, isolated: _Storage) -> None:
        """A second put keeps `created_at`; a batch reads before it writes."""
        path, value = ("users", _TEXT), {"text": _TEXT, "list": [1, 2.5, None, True]}
        first = isolated.items.put(path, _TEXT, value)
        assert isolated.items.get(path, _TEXT) == first
        assert (first.path, first.key, first.value, first.version) == (path, _TEXT, value, 1)
        read, _ = isolated.items.batch([GetItem(path=path, key=_TEXT), PutItem(path=path, key=_TEXT, value=2)])
        assert read == first
        second = isolated.items.get(path, _TEXT)
        assert (second.value, second.version, second.created_at) == (2, 2, first.created_at)
        _raised(ConflictError, lambda: isolated.items.put(path, _TEXT, 3, version=1))
        assert isolated.items.query(("users",)) == [second]
        assert isolated.items.paths() == [path]
        assert isolated.items.find(("users",), _TEXT) is None
        assert isolated.items.delete(path, _TEXT) is True
        assert isolated.items.count() == 0

    def test_an_item_is_found_once_by_its_nearest_vector(self, isolated: _Storage) -> None:
        """Of several vectors the nearest counts."""
        for key, vectors in (("a", {"x": [1.0, 0.0], "y": [0.6, 0.8]}), ("b", {"x": [-1.0, 0.0]})):
            isolated.items.put((), key, key, vectors=vectors, model=_MODEL)
        hits = isolated.items.search([0.0, 1.0], model=_MODEL)
        assert [hit.item.key for hit in hits] == ["a", "b"]
        assert abs(hits[0].score - 0.8) < 1e-6
        isolated.items.clear()

    def test_a_repeated_append_changes_nothing(self, isolated: _Storage) -> None:
        """Records are numbered in their order."""
        assert isolated.logs.append("log", [_TEXT, {"n": 1}], ids=["one", "two"]) == [1, 2]
        assert isolated.logs.append("log", [_TEXT, {"n": 1}], ids=["one", "two"]) == [1, 2]
        assert [record.value for record in isolated.logs.read("log")] == [_TEXT, {"n": 1}]
        last = isolated.logs.pop("log")
        assert (last.number, last.value) == (2, {"n": 1})
        assert isolated.logs.clear("log") == 1
        assert isolated.logs.pop("log") is None

    def test_bad_input_is_refused_and_nothing_is_stored(self, isolated: _Storage) -> None:
        """The error names the field."""
        attempts: dict[str, Callable[[], object]] = {
            "tags": lambda: isolated.episodes.save(Episode(task_description="t", tags=["one", "one"])),
            "id": lambda: isolated.episodes.get("no id"),
            "limit": lambda: isolated.episodes.query(limit=0),
            "cursor": lambda: isolated.episodes.query(cursor="nowhere"),
        }
        for field, attempt in attempts.items():
            assert field in _raised(ValidationError, attempt).field, field
        assert not any(isolated.analytics.summary().rows.values())


@contextmanager
def _own_namespace(storage: _Storage) -> Iterator[tuple[str, _Storage]]:
    """Yield the name of a new namespace and a view of it; delete its rows at the end."""
    name = f"conformance-{uuid4().hex}"
    view = storage.in_namespace(name)
    try:
        yield name, view
    finally:
        # Uses only methods of the contract: a storage without `forget` can be tested too.
        for repository, everything in ((view.episodes, {"archived": None}), (view.patterns, {})):
            for item in list(repository.iterate(**everything)):
                repository.delete(item.id)
        view.items.clear()
        for log in view.logs.list(limit=1_000):
            view.logs.clear(log.log)


def _episode(**fields: Any) -> Episode:
    return Episode(
        **{
            "task_description": f"conformance {_TEXT}",
            "context": TaskContext(domain="web-api", language="python"),
            "started_at": _AT,
            "tags": ["one", "two"],
            "metadata": {"text": _TEXT, "number": 2**53 + 1, "nested": {"list": [1, 2.5, None, True]}},
            "reward": RewardScore(total=0.1 + 0.2),
            "reflection": Reflection(insights=[_TEXT], generated_at=_AT),
            "steps": [
                Step(tool="a", action=_TEXT, parameters={"x": [_TEXT]}, result=StepOk(output=_TEXT), started_at=_AT),
                Step(tool="b", result=StepError(message=_TEXT), latency_ms=2**40, started_at=_AT),
                Step(tool="c", result=StepTimeout(), started_at=_AT),
            ],
            **fields,
        }
    )


def _run(*tools: str) -> Episode:
    """An episode that ended; it succeeded if it has several tools."""
    outcome = Success(verdict="done") if len(tools) > 1 else Failure(reason="wrong")
    return Episode(task_description="t", steps=[Step(tool=one) for one in tools], outcome=outcome)


def _raised(kind: type[Any], action: Callable[[], object]) -> Any:
    """Return the error of that kind that the action raises."""
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
