"""The cost of each method: a read is one statement and a write is one batch, whatever is stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage.models import Embedding
from tests.checks import assert_consistent, row_counts
from tests.raising import raises

from .spy import own_steps, spied

MODEL = "a-model"
VECTOR = [1.0] * 384
POINT = ms.Point(latitude=1.0, longitude=2.0)
BOX = ms.Box(south=0.0, west=1.0, north=2.0, east=3.0)
PERIOD = (datetime(2026, 1, 1, tzinfo=timezone.utc), datetime(2027, 1, 1, tzinfo=timezone.utc))


@pytest.fixture(scope="module")
def _database() -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(":memory:") as storage:
        yield storage


@pytest.fixture
def storage(_database: ms.MemoryStorage) -> ms.MemoryStorage:
    """An empty namespace: a new database for each of these tests would take longer than all of them."""
    return _database.in_namespace(str(uuid4()))


@pytest.fixture
def have(storage: ms.MemoryStorage) -> SimpleNamespace:
    """One of everything, saved; and one of everything that is new."""
    episodes = storage.episodes.save_many([_episode(n) for n in range(3)])
    patterns = storage.patterns.save_many([_pattern(), _pattern()])
    storage.embeddings.put("episode", episodes[0].id, VECTOR, model=MODEL)
    storage.summaries.put(episodes[1].id, "a summary")
    return SimpleNamespace(
        episode=episodes[0],
        id=episodes[0].id,
        other=episodes[1],
        step=episodes[0].steps[0].id,
        checkpoint=storage.episodes.checkpoint(episodes[0].id, "label", state={"next": "continue"}).id,
        pattern=patterns[0],
        pattern_ids=[pattern.id for pattern in patterns],
        place=storage.spatiotemporal.put(_place(episodes[0])),
        relationship=storage.relationships.add(episodes[0].id, episodes[1].id, "parent_child"),
        third=episodes[2].id,
    )


def _episode(number: int = 0, reward: float | None = None) -> ms.Episode:
    return ms.Episode(
        task_description=f"number {number}",
        tags=["tag"],
        metadata={"n": number},
        steps=[ms.Step(tool="a tool") for _ in range(3)],
        reward=None if reward is None else ms.RewardScore(total=reward),
    )


def _steps(count: int) -> list[ms.Step]:
    return [ms.Step(tool="a tool") for _ in range(count)]


def _checkpoints(have: Any) -> list[ms.models.Checkpoint]:
    return [ms.models.Checkpoint(episode_id=have.id, label=f"{number}") for number in range(50)]


def _pattern(number: float = 0.0) -> ms.ToolSequence:
    effectiveness = ms.models.Effectiveness(avg_reward_delta=number)
    return ms.ToolSequence(tools=["a", "b"], tags=["tag"], success_rate=number, effectiveness=effectiveness)


def _place(
    episode: ms.Episode, owner_type: ms.models.PlaceOwner = "episode", latitude: float = 1
) -> ms.SpatiotemporalEntry:
    owner_id = episode.id if owner_type == "episode" else episode.steps[0].id
    return ms.SpatiotemporalEntry(owner_type=owner_type, owner_id=owner_id, latitude=latitude, longitude=2)


def _embedding(have: Any) -> Embedding:
    return Embedding(owner_type="episode", owner_id=have.other.id, model=MODEL, vector=VECTOR)


def _relationships(have: Any) -> list[ms.Relationship]:
    kinds = ["blocks", "follows", *(f"kind-{n}" for n in range(50))]
    return [ms.Relationship(from_id=have.other.id, to_id=have.third, kind=kind) for kind in kinds]


Call = Callable[[ms.MemoryStorage, Any], object]

# Each read is one statement.
READS: dict[str, Call] = {
    "episodes.get": lambda s, have: s.episodes.get(have.id),
    "episodes.get without steps": lambda s, have: s.episodes.get(have.id, steps=False),
    "episodes.resolve_id": lambda s, have: s.episodes.resolve_id(have.id),
    "episodes.short_ids": lambda s, have: s.episodes.short_ids([have.id]),
    "episodes.erased_among": lambda s, have: s.episodes.erased_among([have.id]),
    "patterns.resolve_id": lambda s, have: s.patterns.resolve_id(have.pattern.id),
    "patterns.short_ids": lambda s, have: s.patterns.short_ids([have.pattern.id]),
    "patterns.erased_among": lambda s, have: s.patterns.erased_among([have.pattern.id]),
    "episodes.find": lambda s, have: s.episodes.find(have.id),
    "episodes.query": lambda s, have: s.episodes.query(tags_all=["tag"], text="number", metadata={"n": 1}),
    "episodes.count": lambda s, have: s.episodes.count(outcome="success"),
    "steps.get": lambda s, have: s.steps.get(have.step),
    "steps.find": lambda s, have: s.steps.find(have.step),
    "steps.range": lambda s, have: s.steps.range(have.id, 1, 2),
    "steps.latest": lambda s, have: s.steps.latest(have.id, 2),
    "checkpoints.get": lambda s, have: s.checkpoints.get(have.checkpoint),
    "checkpoints.find": lambda s, have: s.checkpoints.find(have.checkpoint),
    "checkpoints.query": lambda s, have: s.checkpoints.query(have.id),
    "checkpoints.count": lambda s, have: s.checkpoints.count(),
    "steps.count": lambda s, have: s.steps.count(),
    "steps.count of an episode": lambda s, have: s.steps.count(have.id),
    "patterns.get": lambda s, have: s.patterns.get(have.pattern.id),
    "patterns.get_many": lambda s, have: s.patterns.get_many(have.pattern_ids),
    "patterns.find": lambda s, have: s.patterns.find(have.pattern.id),
    "patterns.query": lambda s, have: s.patterns.query(kind="tool_sequence", tags_any=["tag"]),
    "patterns.count": lambda s, have: s.patterns.count(domain="general"),
    "embeddings.get": lambda s, have: s.embeddings.get("episode", have.id, model=MODEL),
    "embeddings.find": lambda s, have: s.embeddings.find("episode", have.id, model=MODEL),
    "embeddings.get_many": lambda s, have: s.embeddings.get_many("episode", [have.id, have.other.id], model=MODEL),
    "embeddings.models": lambda s, have: s.embeddings.models(),
    "episodes.similar_to": lambda s, have: s.episodes.similar_to(VECTOR, model=MODEL, outcome="success"),
    "episodes.search": lambda s, have: s.episodes.search("number", vector=VECTOR, model=MODEL, domain="general"),
    "patterns.similar_to": lambda s, have: s.patterns.similar_to(VECTOR, model=MODEL),
    "patterns.search": lambda s, have: s.patterns.search("tool", kind="tool_sequence"),
    "embeddings.count": lambda s, have: s.embeddings.count(),
    "spatiotemporal.get": lambda s, have: s.spatiotemporal.get(have.place.id),
    "spatiotemporal.find": lambda s, have: s.spatiotemporal.find(have.place.id),
    "spatiotemporal.for_owner": lambda s, have: s.spatiotemporal.for_owner("episode", have.id),
    "spatiotemporal.count": lambda s, have: s.spatiotemporal.count(),
    "spatiotemporal.within": lambda s, have: s.spatiotemporal.within(BOX, between=ms.Interval()),
    "spatiotemporal.within episodes": lambda s, have: s.spatiotemporal.episodes.within(BOX),
    "spatiotemporal.near": lambda s, have: s.spatiotemporal.near(POINT, 1000.0, domain="general"),
    "spatiotemporal.near episodes": lambda s, have: s.spatiotemporal.episodes.near(POINT, 1000.0),
    "spatiotemporal.nearest": lambda s, have: s.spatiotemporal.nearest(POINT, 1),
    "spatiotemporal.during": lambda s, have: s.spatiotemporal.during(ms.Interval()),
    "spatiotemporal.overlapping": lambda s, have: s.spatiotemporal.overlapping(ms.Interval()),
    "spatiotemporal.as_of": lambda s, have: s.spatiotemporal.as_of(have.episode.started_at),
    "spatiotemporal.timeline": lambda s, have: s.spatiotemporal.timeline("episode", have.id),
    "spatiotemporal.trajectory": lambda s, have: s.spatiotemporal.trajectory(have.id),
    "spatiotemporal.hierarchy": lambda s, have: s.spatiotemporal.hierarchy(unit="hour", tz="Europe/Berlin"),
    "spatiotemporal.diverse": lambda s, have: s.spatiotemporal.diverse(2),
    "analytics.summary": lambda s, have: s.analytics.summary(),
    "analytics.span": lambda s, have: s.analytics.span(),
    "analytics.by": lambda s, have: s.analytics.by("tool", domain="general"),
    "analytics.over_time": lambda s, have: s.analytics.over_time("week", tz="Europe/Berlin"),
    "analytics.by_stage": lambda s, have: s.analytics.by_stage(),
    "analytics.trend": lambda s, have: s.analytics.trend(),
    "analytics.tools": lambda s, have: s.analytics.tools(),
    "analytics.sequences": lambda s, have: s.analytics.sequences((1, 3)),
    "analytics.failures": lambda s, have: s.analytics.failures(),
    "analytics.compare": lambda s, have: s.analytics.compare(PERIOD, PERIOD, by="tool"),
    "analytics.effectiveness": lambda s, have: s.analytics.effectiveness(),
    "analytics.attribution": lambda s, have: s.analytics.attribution(),
    "analytics.unused": lambda s, have: s.analytics.unused(since=PERIOD[0]),
    "relationships.get": lambda s, have: s.relationships.get(have.relationship.id),
    "relationships.find": lambda s, have: s.relationships.find(have.relationship.id),
    "relationships.query": lambda s, have: s.relationships.query(have.id, kind="parent_child"),
    "relationships.ancestors": lambda s, have: s.relationships.ancestors(have.other.id, max_depth=1_000),
    "relationships.descendants": lambda s, have: s.relationships.descendants(have.id, None),
    "relationships.topological_order": lambda s, have: s.relationships.topological_order(have.id),
    "relationships.path": lambda s, have: s.relationships.path(have.id, have.other.id),
    "relationships.count": lambda s, have: s.relationships.count(),
    "summaries.get": lambda s, have: s.summaries.get(have.other.id),
    "summaries.find": lambda s, have: s.summaries.find(have.other.id),
    "retention.plan": lambda s, have: s.retention.plan(ms.RetentionPolicy(max_episodes=1)),
}

# Each page is one statement, and the end may be one more.
ITERATIONS: dict[str, Call] = {
    "episodes.iterate": lambda s, have: list(s.episodes.iterate()),
    "checkpoints.iterate": lambda s, have: list(s.checkpoints.iterate()),
    "steps.iterate": lambda s, have: list(s.steps.iterate(have.id)),
    "patterns.iterate": lambda s, have: list(s.patterns.iterate()),
    "embeddings.iterate": lambda s, have: list(s.embeddings.iterate()),
    "spatiotemporal.iterate": lambda s, have: list(s.spatiotemporal.iterate()),
    "relationships.iterate": lambda s, have: list(s.relationships.iterate()),
}

# Each write is one batch of a fixed number of statements, whatever the number of rows.
WRITES: dict[str, tuple[int, Call]] = {
    "episodes.save a new one": (3, lambda s, have: s.episodes.save(_episode())),
    "episodes.save a changed one": (3, lambda s, have: s.episodes.save(have.episode)),
    # A statement inserts 64 rows; three steps each are 150.
    "episodes.save_many": (5, lambda s, have: s.episodes.save_many([_episode() for _ in range(50)])),
    "episodes.append_step": (1, lambda s, have: s.episodes.append_step(have.id, ms.Step(tool="t"))),
    # A statement appends 64 steps; one checks their number, and one reads their numbers.
    "episodes.append_steps": (4, lambda s, have: s.episodes.append_steps(have.id, _steps(100))),
    "episodes.checkpoint": (1, lambda s, have: s.episodes.checkpoint(have.id, "label")),
    "checkpoints.delete": (1, lambda s, have: s.checkpoints.delete(have.checkpoint)),
    "episodes.complete": (3, lambda s, have: s.episodes.complete(have.id, ms.Success(verdict="done"))),
    "episodes.archive": (2, lambda s, have: s.episodes.archive(have.id)),
    "episodes.restore": (2, lambda s, have: s.episodes.restore(have.id)),
    "episodes.delete": (1, lambda s, have: s.episodes.delete(have.id)),
    "summaries.put": (3, lambda s, have: s.summaries.put(have.id, "what it came to")),
    "summaries.delete": (1, lambda s, have: s.summaries.delete(have.other.id)),
    "steps.delete": (2, lambda s, have: s.steps.delete(have.step)),
    "patterns.save a new one": (3, lambda s, have: s.patterns.save(_pattern())),
    "patterns.save a changed one": (2, lambda s, have: s.patterns.save(have.pattern)),
    "patterns.save_many": (3, lambda s, have: s.patterns.save_many([_pattern() for _ in range(50)])),
    "patterns.save a new one with long decimals": (
        5,
        lambda s, have: s.patterns.save(_pattern(1 / 3)),
    ),
    "patterns.record_retrieval": (1, lambda s, have: s.patterns.record_retrieval(have.pattern_ids)),
    "patterns.record_application": (1, lambda s, have: s.patterns.record_application(have.pattern.id, success=True)),
    "patterns.merge": (4, lambda s, have: s.patterns.merge(*have.pattern_ids)),
    "patterns.delete": (1, lambda s, have: s.patterns.delete(have.pattern.id)),
    "embeddings.put": (4, lambda s, have: s.embeddings.put("episode", have.other.id, VECTOR, model=MODEL)),
    "embeddings.put_many": (
        4,
        lambda s, have: s.embeddings.put_many(
            [("episode", one.id, VECTOR) for one in (have.episode, have.other)], model=MODEL
        ),
    ),
    "embeddings.delete": (1, lambda s, have: s.embeddings.delete("episode", have.id, model=MODEL)),
    "spatiotemporal.put": (2, lambda s, have: s.spatiotemporal.put(_place(have.other))),
    "spatiotemporal.put_many": (
        3,  # one for each kind of owner
        lambda s, have: s.spatiotemporal.put_many(
            [_place(have.other), *(_place(have.other, owner_type="step") for _ in range(50))]
        ),
    ),
    "spatiotemporal.put_many with long decimals": (
        3,
        lambda s, have: s.spatiotemporal.put_many([_place(have.other, latitude=n / 7) for n in range(50)]),
    ),
    "relationships.add": (2, lambda s, have: s.relationships.add(have.other.id, have.third, "blocks")),
    "relationships.add with a long decimal": (
        3,
        lambda s, have: s.relationships.add(have.id, have.third, "related_to", weight=1 / 3),
    ),
    # One for each of an acyclic kind, which has to see those before it, one for all others, and one that reads.
    "relationships.add_many": (4, lambda s, have: s.relationships.add_many(_relationships(have))),
    "relationships.delete": (1, lambda s, have: s.relationships.delete(have.relationship.id)),
    "spatiotemporal.delete": (1, lambda s, have: s.spatiotemporal.delete(have.place.id)),
}

# An import looks first which are there already.
IMPORTS: dict[str, tuple[int, Call]] = {
    "episodes.import_many": (5, lambda s, have: s.episodes.import_many([_episode() for _ in range(50)])),
    "checkpoints.import_many": (1, lambda s, have: s.checkpoints.import_many(_checkpoints(have))),
    "patterns.import_many": (3, lambda s, have: s.patterns.import_many([_pattern() for _ in range(50)])),
    "embeddings.import_many": (3, lambda s, have: s.embeddings.import_many([_embedding(have)])),
    "relationships.import_many": (3, lambda s, have: s.relationships.import_many(_relationships(have))),
    "spatiotemporal.import_many": (1, lambda s, have: s.spatiotemporal.import_many([_place(have.other)])),
}


@pytest.mark.parametrize("name", READS)
def test_a_read_is_one_statement(storage: ms.MemoryStorage, have: Any, name: str):
    with spied(storage.engine) as batches:
        assert READS[name](storage, have) is not None
    assert [(len(own_steps(batch)), batch.reads_only) for batch in batches] == [(1, True)]


@pytest.mark.parametrize("name", ITERATIONS)
def test_an_iteration_is_one_statement_a_page(storage: ms.MemoryStorage, have: Any, name: str):
    with spied(storage.engine) as batches:
        assert ITERATIONS[name](storage, have)
    assert {(len(own_steps(batch)), batch.reads_only) for batch in batches} == {(1, True)}
    assert len(batches) <= 2


@pytest.mark.parametrize("name", WRITES)
def test_a_write_is_one_batch(storage: ms.MemoryStorage, have: Any, name: str):
    statements, write = WRITES[name]
    with spied(storage.engine) as batches:
        write(storage, have)
    assert [(len(own_steps(batch)), batch.reads_only) for batch in batches] == [(statements, False)]


@pytest.mark.parametrize("name", IMPORTS)
def test_an_import_of_new_rows_is_one_batch(storage: ms.MemoryStorage, have: Any, name: str):
    statements, write = IMPORTS[name]
    with spied(storage.engine) as batches:
        write(storage, have)
    assert [(len(own_steps(batch)), batch.reads_only) for batch in batches] == [(statements, False)]


@pytest.mark.parametrize("name", [*READS, *WRITES, *IMPORTS])
def test_a_call_within_a_transaction_costs_the_same(storage: ms.MemoryStorage, have: Any, name: str):
    call = READS.get(name) or (WRITES.get(name) or IMPORTS[name])[1]
    with spied(storage.engine) as batches, storage.transaction() as tx:
        call(tx, have)
    assert len(batches) == 1


def test_the_tables_name_every_method(storage: ms.MemoryStorage):
    named = {name.split()[0] for name in (*READS, *ITERATIONS, *WRITES, *IMPORTS)}
    repositories = ("episodes", "steps", "patterns", "embeddings", "spatiotemporal", "analytics", "retention")
    repositories += ("relationships", "checkpoints", "summaries")
    methods = {
        f"{repository}.{method}"
        for repository in repositories
        for method in dir(getattr(storage, repository))
        if not method.startswith("_")
        # These have tests of their own.
        and method not in {"index", "embed", "reembed", "flush", "episodes", "apply", "learn", "handoff", "resume"}
        and method not in {"summarize", "summarize_many"}
    }
    assert methods == named


def test_a_handoff_is_five_reads_whatever_is_stored(storage: ms.MemoryStorage, have: Any):
    storage.episodes.append_steps(have.id, _steps(500))
    with spied(storage.engine) as batches:
        storage.episodes.handoff(have.id)  # of a server in one round trip
    assert len(batches) == 5


def test_resuming_is_one_read_and_one_batch(storage: ms.MemoryStorage, have: Any):
    with spied(storage.engine) as batches:
        storage.episodes.resume(have.checkpoint)
    assert len(batches) == 2


@pytest.fixture
def fresh() -> Iterator[ms.MemoryStorage]:
    """A database of its own: the full-text index now and then merges what many calls have added to it."""
    with ms.MemoryStorage.open(":memory:") as storage:
        yield storage


@pytest.mark.slow
def test_appending_step_10_000_costs_what_step_2_costs(fresh: ms.MemoryStorage):
    short = fresh.episodes.save(_with_steps(1))
    long = fresh.episodes.save(_with_steps(1, 1_000))
    for first in range(1_001, 10_000, 1_000):  # a save removes no step, and saving a few is faster than saving many
        long = fresh.episodes.save(long.model_copy(update={"steps": _with_steps(first, min(first + 999, 9_999)).steps}))

    second, ten_thousandth = _cost_of_appending(fresh, short, 2), _cost_of_appending(fresh, long, 10_000)
    assert second == ten_thousandth

    with raises(ms.ValidationError, field="steps", match="10,000 steps") as caught:
        fresh.episodes.append_step(long.id, ms.Step(tool="one too many"))
    assert caught.value.setting == "limits.steps_per_episode"
    assert fresh.steps.count(long.id) == 10_000
    assert_consistent(fresh.engine)


def _with_steps(first: int, last: int = 1) -> ms.Episode:
    steps = [ms.Step(tool="t", action=f"{n}", step_number=n) for n in range(first, last + 1)]
    return ms.Episode(task_description="it has steps", steps=steps)


def _cost_of_appending(storage: ms.MemoryStorage, episode: ms.Episode, number: int) -> dict[str, Any]:
    """The statements, the rows that they wrote (in shadow tables too), and how many rows there are more."""
    rows, written = row_counts(storage.engine), _rows_written(storage)
    with spied(storage.engine) as batches:
        assert storage.episodes.append_step(episode.id, ms.Step(tool="last")).step_number == number
    written = _rows_written(storage) - written
    more = {table: count - rows[table] for table, count in row_counts(storage.engine).items()}
    return {"statements": batches, "written": written, "more": more}


def _rows_written(storage: ms.MemoryStorage) -> int:
    # The pool gives the same connection again: no other thread uses it.
    with storage.engine.connect() as connection:
        return connection.exec_driver_sql("SELECT total_changes()").scalar_one()
