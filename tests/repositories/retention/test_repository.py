"""A policy removes what plain Python selects, with its reason; removed rows stay removed, and all others stay."""

from __future__ import annotations

import gc
import itertools
import json
import pickle
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.repositories.retention import erasure
from memory_storage.repositories.retention.deletion import BatchSizer
from memory_storage.repositories.retention.erasure import erase_namespace
from tests.checks import assert_consistent, dump, row_counts
from tests.raising import raises
from tests.schema.spy import spied

NOW = datetime(2025, 6, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
_number = itertools.count()

TAGS = ("keep", "me", "other")
OUTCOMES = (None, ms.Success(verdict="v"), ms.Failure(reason="r"), ms.PartialSuccess(verdict="v"))

episodes = st.builds(
    lambda days, reward, outcome, tags, output, archived, source: (
        ms.Episode(
            task_description="a task",
            started_at=NOW - days * DAY,
            reward=None if reward is None else ms.RewardScore(total=reward),
            outcome=outcome,
            tags=tags,
            steps=[ms.Step(tool="t", result=ms.StepOk(output=output))] if output else [],
        ),
        archived,
        source,
    ),
    days=st.integers(-1, 6),
    reward=st.none() | st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    outcome=st.sampled_from(OUTCOMES),
    tags=st.lists(st.sampled_from(TAGS), unique=True, max_size=2),
    output=st.sampled_from(["", "x", "é" * 400]),
    archived=st.booleans(),
    source=st.booleans(),
)
policies = st.builds(
    lambda **fields: ms.RetentionPolicy(**{"max_episodes": 3, **{k: v for k, v in fields.items() if v is not None}}),
    max_age=st.none() | st.integers(0, 7).map(lambda days: days * DAY),
    min_reward=st.none() | st.sampled_from([0.25, 0.5, 2.0]),
    max_episodes=st.integers(0, 9),
    max_bytes=st.none() | st.integers(0, 9_000),
    only_failed=st.booleans(),
    keep_pattern_sources=st.booleans(),
    keep_tagged=st.lists(st.sampled_from(TAGS), unique=True, max_size=2),
    archive=st.booleans(),
)


def _alone(storage: ms.MemoryStorage) -> ms.MemoryStorage:
    return storage.in_namespace(f"example {next(_number)}")


def _bytes_of(memory: ms.MemoryStorage) -> dict[str, int]:
    """The sizes of the stored texts, counted here and not there."""
    sizes: dict[str, int] = {}
    tables = dump(memory.engine, namespace=memory.namespace)
    for row in tables["episodes"]:
        sizes[row[2]] = len(row[-2].encode())  # the last column has the words of other scripts
    for row in tables["steps"]:
        sizes[row[2]] += len(row[-2].encode()) + len((row[-3] or "").encode())
    return sizes


def _kept(policy: ms.RetentionPolicy, one: ms.Episode, sources: set[object]) -> bool:
    fine = policy.only_failed and not isinstance(one.outcome, ms.Failure)
    source = policy.keep_pattern_sources and one.id in sources
    return fine or source or bool(set(policy.keep_tagged) & set(one.tags))


def _rule(policy: ms.RetentionPolicy, one: ms.Episode) -> str | None:
    if policy.max_age is not None and one.started_at < NOW - policy.max_age:
        return "max_age"
    poor = policy.min_reward is not None and one.reward is not None and one.reward.total < policy.min_reward
    return "min_reward" if poor else None


def _expected(
    policy: ms.RetentionPolicy, stored: list[ms.Episode], sources: set[object], sizes: dict[str, int]
) -> list[tuple[object, str]]:
    """In plain Python, what goes and why."""
    stored = sorted(stored, key=lambda one: (one.started_at, str(one.id)))
    stored = [one for one in stored if not (policy.archive and one.archived_at)]
    free = [one for one in stored if not _kept(policy, one, sources)]
    gone = {one.id: rule for one in free if (rule := _rule(policy, one))}
    for rule, most, size in (
        ("max_episodes", policy.max_episodes, lambda one: 1),
        ("max_bytes", policy.max_bytes, lambda one: sizes[str(one.id)]),
    ):
        left = sum(size(one) for one in stored if one.id not in gone)
        for one in free:
            if most is not None and left > most and one.id not in gone:
                gone[one.id] = rule
                left -= size(one)
    return [(one.id, gone[one.id]) for one in stored if one.id in gone]


@pytest.mark.whole_database
@settings(max_examples=120)
@given(given=st.lists(episodes, max_size=9), policy=policies)
@pytest.mark.slow
def test_a_retention_plan_equals_plain_python_and_the_result(storage, given, policy):
    memory = _alone(storage)
    stored = memory.episodes.save_many([one for one, _, _ in given])
    stored = [
        memory.episodes.archive(one.id) if archived else one
        for one, (_, archived, _) in zip(stored, given, strict=True)
    ]
    sources = {one.id for one, (_, _, source) in zip(stored, given, strict=True) if source}
    if sources:
        memory.patterns.save(ms.Heuristic(condition="c", action="a", evidence=sorted(sources)))
    before = dump(memory.engine, namespace=memory.namespace)
    sizes = _bytes_of(memory)

    plan = memory.retention.plan(policy, now=NOW)
    assert [(item.id, item.reason) for item in plan] == _expected(policy, stored, sources, sizes)
    assert [item.bytes for item in plan] == [sizes[str(item.id)] for item in plan]
    assert plan == memory.retention.plan(policy, now=NOW)
    assert dump(memory.engine, namespace=memory.namespace) == before

    done = memory.retention.apply(plan, sleep=lambda _: None)
    assert done == ms.models.RetentionResult(len(plan), plan.bytes, [])
    planned = {item.id for item in plan}
    if policy.archive:
        archived = {one.id for one in memory.episodes.iterate(archived=True)}
        assert archived == planned | {one.id for one in stored if one.archived_at}
    else:
        assert {one.id for one in memory.episodes.iterate(archived=None)} == {one.id for one in stored} - planned
    assert len(memory.retention.plan(policy, now=NOW)) == 0


@pytest.mark.whole_database
def test_what_the_test_above_leaves_is_consistent(storage, make_episode):
    saved = storage.episodes.save_many([make_episode(tags=["shared"]) for _ in range(30)])
    for one in saved:
        storage.embeddings.put("episode", one.id, [1.0, 2.0, float(one.id.int % 97)], model="m")
        storage.spatiotemporal.put(
            ms.SpatiotemporalEntry(owner_type="step", owner_id=one.steps[0].id, latitude=1.0, longitude=2.0)
        )
    assert storage.retention.apply(ms.RetentionPolicy(max_episodes=4)).removed == 26
    assert_consistent(storage.engine)
    rows = row_counts(storage.engine)
    assert (rows["episodes"], rows["steps"], rows["embeddings"], rows["spatiotemporal_index"]) == (4, 8, 4, 4)


def test_episodes_protected_after_the_plan_are_skipped(storage, make_episode):
    old = [make_episode(started_at=NOW - 9 * DAY, reward=ms.RewardScore(total=0.1)) for _ in range(5)]
    a, b, c, d, e = storage.episodes.save_many(old)
    policy = ms.RetentionPolicy(min_reward=0.5, max_episodes=0, keep_tagged=["keep"])
    plan = storage.retention.plan(policy, now=NOW)
    assert len(plan) == 5
    storage.episodes.save(a.model_copy(update={"tags": ["keep"]}))
    storage.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[b.id]))
    storage.episodes.complete(c.id, ms.Success(verdict="v"), reward=0.9)
    storage.episodes.delete(d.id)
    done = storage.retention.apply(plan)
    assert (done.removed, set(done.skipped)) == (1, {a.id, b.id, c.id, d.id})
    assert storage.episodes.find(e.id) is None
    again = storage.episodes.get(a.id)
    assert storage.episodes.save(again.model_copy(update={"version": 0, "tags": again.tags})) == again


@pytest.mark.whole_database
def test_evidence_can_be_evicted_once_no_pattern_names_it(storage, make_episode):
    source = storage.episodes.save(make_episode())
    policy = ms.RetentionPolicy(max_episodes=0)
    pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[source.id]))
    assert len(storage.retention.plan(policy)) == 0
    pattern = storage.patterns.save(pattern.model_copy(update={"evidence": []}))
    assert len(storage.retention.plan(policy)) == 1
    storage.patterns.save(pattern.model_copy(update={"evidence": [source.id], "tags": ["other"]}))
    assert len(storage.retention.plan(policy)) == 0
    storage.patterns.delete(pattern.id)
    assert len(storage.retention.plan(policy)) == 1
    assert_consistent(storage.engine)


def test_a_stale_copy_does_not_restore_an_expired_episode(storage, make_episode):
    saved = storage.episodes.save(make_episode())
    storage.retention.apply(ms.RetentionPolicy(max_episodes=0))
    with pytest.raises(ms.ConflictError):
        storage.episodes.save(saved)
    with raises(ms.ValidationError, field="id", match="forgotten"):
        storage.episodes.save(saved.model_copy(update={"version": 0}))
    with raises(ms.ValidationError, field="id", match="forgotten"):
        storage.episodes.save_many([make_episode(), saved.model_copy(update={"version": 0})])
    other = make_episode(version=3)
    assert storage.episodes.import_many([saved, other, saved.model_copy(update={"id": make_episode().id, "steps": []})])
    assert storage.episodes.find(saved.id) is None
    assert storage.episodes.get(other.id).version == 3
    assert storage.in_namespace("another").episodes.import_many([saved]) == 1


def test_a_deleted_episode_can_be_imported_again(storage, make_episode):
    saved = storage.episodes.save(make_episode())
    storage.episodes.delete(saved.id)
    assert storage.episodes.import_many([saved]) == 1


def test_saves_and_imports_leave_an_episode_archived(storage, make_episode):
    saved = storage.episodes.save(make_episode(started_at=NOW - DAY))
    assert storage.retention.apply(ms.RetentionPolicy(max_age=timedelta(0), archive=True)).removed == 1
    storage.episodes.import_many([saved])
    storage.episodes.save(saved.model_copy(update={"tags": ["changed"]}))
    assert storage.episodes.count() == 0
    assert storage.episodes.get(saved.id).archived_at is not None


def _long(steps: int = 400) -> ms.Episode:
    return ms.Episode(
        task_description="long",
        started_at=NOW,
        steps=[ms.Step(tool="t", result=ms.StepOk(output=f"words {n} " * 40)) for n in range(steps)],
    )


@pytest.mark.whole_database
def test_a_large_episode_is_deleted_in_batches(storage, make_episode):
    _, other = storage.episodes.save_many([_long(), make_episode(started_at=NOW + DAY)])
    pauses: list[float] = []
    done = storage.retention.apply(ms.RetentionPolicy(max_episodes=1), sleep=pauses.append)
    assert (done.removed, done.skipped) == (1, [])
    assert len(pauses) >= 4
    assert [one.id for one in storage.episodes.iterate(archived=None)] == [other.id]
    assert_consistent(storage.engine)


class _Killed(BaseException):
    pass


@pytest.mark.whole_database
def test_a_half_deleted_episode_is_finished_by_the_next_run(storage):
    long = storage.episodes.save(_long())
    policy = ms.RetentionPolicy(max_bytes=1_000)
    calls = itertools.count()

    def killed(_: float) -> None:
        if next(calls) == 3:
            raise _Killed

    with pytest.raises(_Killed):
        storage.retention.apply(policy, sleep=killed)
    assert storage.episodes.count() == 0
    assert 0 < storage.steps.count(long.id) < 400
    assert_consistent(storage.engine)
    plan = storage.retention.plan(ms.RetentionPolicy(max_bytes=10**9))
    assert [(item.id, item.reason) for item in plan] == [(long.id, "unfinished")]
    assert storage.retention.apply(plan).removed == 1
    assert row_counts(storage.engine)["steps"] == 0
    assert_consistent(storage.engine)


def test_deleting_an_unfinished_episode_leaves_no_mark(storage, make_episode):
    long = storage.episodes.save(_long())

    def killed(_: float) -> None:
        raise _Killed

    with pytest.raises(_Killed):
        storage.retention.apply(ms.RetentionPolicy(max_episodes=0), sleep=killed)
    storage.episodes.delete(long.id)
    storage.episodes.save(make_episode())
    assert len(storage.retention.plan(ms.RetentionPolicy(max_episodes=9))) == 0


def test_progress_gets_the_number_done_and_the_total(storage, make_episode):
    storage.episodes.save_many([make_episode() for _ in range(60)])
    reported: list[tuple[int, int]] = []
    storage.retention.apply(ms.RetentionPolicy(max_episodes=10), progress=lambda *done: reported.append(done))
    assert reported[-1] == (50, 50)
    assert reported == sorted(reported)


def test_an_interrupted_run_repeated_equals_one_run(storage, make_episode):
    one, other = storage.in_namespace("one"), storage.in_namespace("other")
    saved = [make_episode(started_at=NOW - n * DAY, reward=ms.RewardScore(total=n % 3 / 2)) for n in range(90)]
    for memory in (one, other):
        memory.episodes.import_many(saved)
    policy = ms.RetentionPolicy(max_age=80 * DAY, min_reward=0.4, max_bytes=20_000)
    calls = itertools.count()

    def killed(_: float) -> None:
        if next(calls) == 1:
            raise _Killed

    one.retention.apply(one.retention.plan(policy, now=NOW), sleep=lambda _: None)
    with pytest.raises(_Killed):
        other.retention.apply(other.retention.plan(policy, now=NOW), sleep=killed)
    other.retention.apply(other.retention.plan(policy, now=NOW))
    left = [{one.id for one in memory.episodes.iterate()} for memory in (one, other)]
    assert left[0] == left[1]
    assert len(left[0]) < 90


def test_within_a_transaction_it_is_refused(storage):
    with storage.transaction() as tx:
        with raises(ms.MemoryStorageError, match="call it on the storage"):
            tx.retention.apply(ms.RetentionPolicy(max_episodes=0))
        assert len(tx.retention.plan(ms.RetentionPolicy(max_episodes=0))) == 0


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({}, ""),
        ({"only_failed": True}, ""),
        ({"max_age": timedelta(seconds=-1)}, "max_age"),
        ({"max_episodes": -1}, "max_episodes"),
        ({"max_bytes": 1.5}, "max_bytes"),
        ({"min_reward": float("nan")}, "min_reward"),
        ({"max_episodes": 1, "archive": 1}, "archive"),
        ({"max_episodes": 1, "surprise": 1}, "surprise"),
    ],
)
def test_a_policy_that_cannot_be_is_refused(fields, field):
    with pytest.raises(ms.ValidationError) as caught:
        ms.RetentionPolicy(**fields)
    assert caught.value.field == field


def test_the_longest_age_there_is_lets_nothing_go(storage, make_episode):
    storage.episodes.save(make_episode(started_at=datetime.min.replace(tzinfo=timezone.utc)))
    assert len(storage.retention.plan(ms.RetentionPolicy(max_age=timedelta.max))) == 0


def test_only_a_digest_is_kept_of_an_erased_row(storage, make_episode):
    saved = storage.episodes.save(make_episode())
    storage.retention.apply(ms.RetentionPolicy(max_episodes=0))
    with storage.engine.connect() as connection:
        ((digest, row),) = connection.exec_driver_sql("SELECT * FROM forgotten").all()
    assert (len(digest), row) == (16, None)
    assert saved.id.bytes not in digest
    assert json.dumps(str(saved.id)) not in repr(digest)


def test_a_plan_has_no_objects_for_the_collector_to_visit(storage, make_episode):
    storage.episodes.save_many([make_episode() for _ in range(300)])
    policy = ms.RetentionPolicy(max_episodes=0)
    storage.retention.plan(policy)
    gc.collect()
    before = len(gc.get_objects())
    plan = storage.retention.plan(policy)
    gc.collect()
    assert len(plan) == 300
    assert len(gc.get_objects()) - before < 100


def test_the_items_of_a_plan_behave_as_a_list(storage, make_episode):
    storage.episodes.save_many([make_episode() for _ in range(5)])
    plan = storage.retention.plan(ms.RetentionPolicy(max_episodes=0))
    listed = list(plan)
    assert plan.items == listed == [plan.items[number] for number in range(5)]
    assert plan.items != listed[:4]
    assert plan.items != "another"
    assert (plan.items[-1], plan.items[1:3], plan.items[::-1]) == (listed[-1], listed[1:3], listed[::-1])
    assert listed[3] in plan.items
    assert repr(plan.items) == repr(listed)
    assert pickle.loads(pickle.dumps(plan)) == plan
    assert plan.bytes == sum(one.bytes for one in listed)
    with pytest.raises(IndexError):
        _ = plan.items[5]
    same = ms.models.RetentionPlan(plan.policy, plan.now, listed)
    assert same == plan
    assert storage.retention.apply(same, sleep=lambda _: None).removed == 5


def test_what_a_writer_saves_during_an_erasure_is_erased(storage, make_episode):
    storage.episodes.save_many([make_episode() for _ in range(60)])
    storage.episodes.save_many([make_episode(started_at=NOW) for _ in range(9)])  # with one start
    calls = itertools.count()

    def save_one(_: float) -> None:
        if next(calls) < 3:
            storage.episodes.save(make_episode())

    erased = erase_namespace(storage.retention._session, BatchSizer(sleep=save_one))
    assert erased.episodes == 72
    assert storage.episodes.count(archived=None) == 0


def test_an_erasure_reads_the_episodes_in_pages(storage, make_episode, monkeypatch):
    monkeypatch.setattr(erasure, "_ROWS_PER_PAGE", 10)
    storage.episodes.save_many([make_episode(started_at=NOW - n % 3 * DAY) for n in range(35)])
    with spied(storage.engine) as batches:
        erased = erase_namespace(storage.retention._session, BatchSizer(sleep=lambda _: None))
    pages = [step for batch in batches for step in batch.steps if "'forgotten'" in step.sql]
    assert erased.episodes == 35
    assert len(pages) == 5  # and the one after the last
