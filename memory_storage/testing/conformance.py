"""What anything that offers the repositories has to keep, as tests that pytest runs on a `storage` of yours.

    class TestMyStorage(Conformance):
        @pytest.fixture
        def storage(self):
            return MyStorage()  # an empty one

It needs `episodes`, `steps`, `patterns`, `embeddings`, `spatiotemporal`, `analytics`, `transaction`, `snapshot` and
`in_namespace`. Each test is a promise; a storage that breaks none of them can stand in for a MemoryStorage.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

from memory_storage.errors import ConflictError, MemoryStorageError, NotFoundError, ValidationError
from memory_storage.models import (
    Episode,
    Heuristic,
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

# What it has to offer is what these tests use: it need not be of any class.
_Storage = Any


class Conformance:
    """Subclass it with a fixture `storage` that gives an empty one for each test."""

    def test_what_is_saved_is_read_back_equal_by_every_method(self, storage: _Storage) -> None:
        """To the microsecond, in every field."""
        saved = storage.episodes.save(_episode())
        assert saved.version == 1
        assert saved.created_at is not None
        assert storage.episodes.get(saved.id) == saved
        assert storage.episodes.find(str(saved.id)) == saved
        assert list(storage.episodes.query()) == list(storage.episodes.iterate()) == [saved]
        assert [hit.item for hit in storage.episodes.search("conformance")] == [saved]
        given = _episode(id=saved.id)
        for name in ("task_description", "context", "started_at", "tags", "metadata", "reward", "reflection"):
            assert getattr(saved, name) == getattr(given, name)
        assert [step.result for step in saved.steps] == [step.result for step in given.steps]

    def test_a_missing_one_is_none_or_an_error_that_names_it(self, storage: _Storage) -> None:
        """`find` gives None, `get` raises, `delete` says that it was not there."""
        missing = new_id()
        for repository in (storage.episodes, storage.steps, storage.patterns, storage.spatiotemporal):
            assert repository.find(missing) is None
            assert str(missing) in str(_raised(NotFoundError, partial(repository.get, missing)))
            assert repository.delete(missing) is False

    def test_a_stale_version_is_a_conflict_and_changes_nothing(self, storage: _Storage) -> None:
        """Optimistic locking."""
        first = storage.episodes.save(_episode())
        second = storage.episodes.save(first.model_copy(update={"task_description": "changed"}))
        assert second.version == 2
        error = _raised(ConflictError, lambda: storage.episodes.save(first))
        assert (error.expected, error.actual) == (1, 2)
        assert storage.episodes.get(first.id) == second

    def test_to_save_a_new_one_again_is_harmless(self, storage: _Storage) -> None:
        """So a write may be repeated."""
        episode = _episode()
        assert storage.episodes.save(episode) == storage.episodes.save(episode)
        assert storage.episodes.count() == 1

    def test_saving_without_steps_removes_none(self, storage: _Storage) -> None:
        """Nor does it reset `created_at`."""
        saved = storage.episodes.save(_episode())
        bare = storage.episodes.get(saved.id, steps=False)
        again = storage.episodes.save(bare.model_copy(update={"tags": ["other"]}))
        assert len(storage.episodes.get(saved.id).steps) == len(saved.steps)
        assert again.created_at == saved.created_at

    def test_appended_steps_are_numbered_in_their_order(self, storage: _Storage) -> None:
        """To append one again is harmless."""
        episode = storage.episodes.save(Episode(task_description="steps"))
        steps = [Step(tool=f"tool {n}") for n in range(5)]
        appended = [storage.episodes.append_step(episode.id, step) for step in steps]
        assert [step.step_number for step in appended] == [1, 2, 3, 4, 5]
        assert storage.episodes.append_step(episode.id, steps[2]) == appended[2]
        assert storage.steps.range(episode.id, 2, 3) == appended[1:3]
        assert storage.steps.latest(episode.id, 2) == appended[3:]
        assert storage.steps.count(episode.id) == 5

    def test_an_episode_is_completed(self, storage: _Storage) -> None:
        """With its outcome, reward and reflection."""
        episode = storage.episodes.save(Episode(task_description="to complete", started_at=_AT))
        ended = storage.episodes.complete(
            episode.id, Success(verdict=_TEXT), reward=0.75, reflection=Reflection(insights=[_TEXT]), completed_at=_AT
        )
        assert (ended.outcome, ended.completed_at) == (Success(verdict=_TEXT), _AT)
        assert ended.reward is not None
        assert ended.reward.total == 0.75
        assert storage.episodes.get(episode.id) == ended

    def test_what_is_archived_is_left_out_until_it_is_restored(self, storage: _Storage) -> None:
        """Queries ask for it by `archived`."""
        episode = storage.episodes.save(_episode())
        assert storage.episodes.archive(episode.id).archived_at is not None
        assert storage.episodes.count() == 0
        assert storage.episodes.count(archived=True) == storage.episodes.count(archived=None) == 1
        storage.episodes.restore(episode.id)
        assert storage.episodes.count() == 1

    def test_filters_hold_together(self, storage: _Storage) -> None:
        """Tags, metadata, times, words."""
        saved = storage.episodes.save(_episode())
        storage.episodes.save(Episode(task_description="another"))
        matching: list[dict[str, Any]] = [
            {"tags_all": ["one", "two"]},
            {"tags_any": ["two", "absent"]},
            {"metadata": {"text": _TEXT}},
            {"domain": "web-api", "min_reward": 0.25},
            {"since": _AT, "until": _AT + timedelta(microseconds=1)},
            {"text": "conformance"},
        ]
        for filters in matching:
            assert [one.id for one in storage.episodes.query(**filters)] == [saved.id], filters
            assert storage.episodes.count(**filters) == 1, filters
        assert storage.episodes.count(tags_all=["one", "absent"]) == 0

    def test_pages_show_each_one_once(self, storage: _Storage) -> None:
        """In both directions, those of one moment too."""
        saved = storage.episodes.save_many(
            [Episode(task_description=f"{n}", started_at=_AT + timedelta(seconds=n // 3)) for n in range(10)]
        )
        for direction in ("newest_first", "oldest_first"):
            shown, cursor = [], None
            while True:
                page = storage.episodes.query(limit=3, cursor=cursor, direction=direction)
                shown += [one.id for one in page]
                cursor = page.next_cursor
                if cursor is None:
                    break
            assert len(shown) == len(set(shown)) == 10
            assert set(shown) == {one.id for one in saved}

    def test_many_are_saved_all_or_none(self, storage: _Storage) -> None:
        """One that is refused keeps the others out."""
        stale = storage.episodes.save(_episode())
        storage.episodes.save(stale)
        _raised(ConflictError, lambda: storage.episodes.save_many([Episode(task_description="good"), stale]))
        assert storage.episodes.count() == 1

    def test_an_error_in_a_transaction_discards_its_writes(self, storage: _Storage) -> None:
        """And a clean exit keeps them."""

        def fail() -> None:
            with storage.transaction() as tx:
                tx.episodes.save(Episode(task_description="discarded"))
                tx.patterns.save(Heuristic(condition="discarded", action="a"))
                raise MemoryStorageError("stop")

        _raised(MemoryStorageError, fail)
        assert storage.episodes.count() == storage.patterns.count() == 0
        with storage.transaction() as tx:
            kept = tx.episodes.save(Episode(task_description="kept"))
        assert storage.episodes.get(kept.id) == kept

    def test_a_snapshot_does_not_see_what_comes_later(self, storage: _Storage) -> None:
        """Though a storage in memory may keep writers waiting until it ends."""
        storage.episodes.save(Episode(task_description="earlier"))
        with storage.snapshot() as view:
            assert view.episodes.count() == 1
        storage.episodes.save(Episode(task_description="later"))
        with storage.snapshot() as view:
            assert view.episodes.count() == 2

    def test_a_namespace_sees_nothing_of_another(self, storage: _Storage) -> None:
        """Whatever the names are."""
        episode = storage.episodes.save(_episode())
        for name in ("other", "default2", "' OR '1'='1", "%"):
            other = storage.in_namespace(name)
            assert other.episodes.find(episode.id) is None
            assert other.episodes.count() == 0
            assert other.episodes.delete(episode.id) is False
        assert storage.episodes.get(episode.id) == episode

    def test_counters_of_a_pattern_are_counted_by_the_store(self, storage: _Storage) -> None:
        """No count is lost to a stale copy."""
        pattern = storage.patterns.save(Heuristic(condition=_TEXT, action="a"))
        storage.patterns.record_retrieval(pattern.id)
        storage.patterns.record_application(pattern.id, success=True, reward_delta=0.5)
        storage.patterns.record_application(pattern.id, success=False, reward_delta=0.0)
        found = storage.patterns.get(pattern.id).effectiveness
        assert (found.times_retrieved, found.times_applied) == (1, 2)
        assert (found.success_when_applied, found.failure_when_applied) == (1, 1)
        assert abs(found.avg_reward_delta - 0.25) < 1e-12

    def test_the_nearest_vectors_come_first(self, storage: _Storage) -> None:
        """By the cosine, for which the filters hold."""
        saved = storage.episodes.save_many([Episode(task_description=f"{n}", tags=[f"t{n % 2}"]) for n in range(4)])
        vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [-1.0, 0.0]]
        rows = [("episode", one.id, vector) for one, vector in zip(saved, vectors, strict=True)]
        storage.embeddings.put_many(rows, model=_MODEL)
        hits = storage.episodes.similar_to([1.0, 0.0], model=_MODEL, k=3)
        assert [hit.item.id for hit in hits] == [one.id for one in saved[:3]]
        for hit, cosine in zip(hits, (1.0, 0.8, 0.0), strict=True):
            assert abs(hit.similarity - cosine) < 1e-6
        odd = storage.episodes.similar_to([1.0, 0.0], model=_MODEL, k=3, tags_all=["t1"])
        assert [hit.item.id for hit in odd] == [saved[1].id, saved[3].id]

    def test_what_is_owned_goes_with_its_owner(self, storage: _Storage) -> None:
        """Steps, embeddings and places."""
        episode = storage.episodes.save(_episode())
        storage.embeddings.put("episode", episode.id, [1.0, 0.0], model=_MODEL)
        place = storage.spatiotemporal.put(
            SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, latitude=52.5, longitude=13.4, starts_at=_AT)
        )
        assert storage.spatiotemporal.get(place.id) == place
        assert storage.spatiotemporal.of("episode", episode.id) == [place]
        assert storage.episodes.delete(episode.id) is True
        assert not any(storage.analytics.summary().rows.values())

    def test_bad_input_is_refused_and_nothing_is_stored(self, storage: _Storage) -> None:
        """The error names the field."""
        attempts: dict[str, Callable[[], object]] = {
            "tags": lambda: storage.episodes.save(Episode(task_description="t", tags=["one", "one"])),
            "id": lambda: storage.episodes.get("no id"),
            "limit": lambda: storage.episodes.query(limit=0),
            "cursor": lambda: storage.episodes.query(cursor="nowhere"),
        }
        for field, attempt in attempts.items():
            assert field in _raised(ValidationError, attempt).field, field
        assert not any(storage.analytics.summary().rows.values())


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


def _raised(kind: type[Any], action: Callable[[], object]) -> Any:
    """The error of that kind which the action raises."""
    try:
        action()
    except kind as error:
        return error
    raise AssertionError(f"no {kind.__name__} was raised")
