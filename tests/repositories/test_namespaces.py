"""No method of any repository returns, or changes, a row of another namespace."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.models import Relationship, new_id
from memory_storage.sql.session import Repository
from tests.backends import in_memory
from tests.checks import assert_consistent, dump
from tests.raising import raises

NAMES = (
    "default",
    "Default",
    "defaul",
    "default2",
    "default ",
    " default",
    "default/1",
    "default:1",
    "user:4",
    "user:42",
    "%",
    "_______",
    "*",
    "?",
    "[d]efault",
    "def%",
    "'",
    '"',
    "''",
    "default' OR '1'='1",
    "`",
    "\\",
    "-",
    ",",
    "|",
    "\n",
    "\x01",
    "d\u0435fault",
    "de\u0301fault",
    "d\u00e9fault",
    "de\u200bfault",
    "\uff44efault",
    "\U0001f600",
    "x" * 200,
    "x" * 199,
    "null",
    "0",
)
EMBEDDER = ms.HashingEmbedder()
REPOSITORIES = ("episodes", "steps", "patterns", "embeddings", "spatiotemporal", "analytics", "retention")
REPOSITORIES += ("items", "logs", "relationships", "checkpoints", "summaries")
VECTOR = [0.5] * 384
NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)
ALWAYS = ms.Interval()
PATH = ("shared",)
HERE = ms.Point(latitude=1.0, longitude=1.0)
EARTH = ms.Box(south=-90.0, west=-180.0, north=90.0, east=180.0)
EVERYTHING = ms.RetentionPolicy(max_episodes=0, max_age=timedelta(0), min_reward=9.0, keep_pattern_sources=False)
ARCHIVED = ms.RetentionPolicy(max_bytes=0, keep_tagged=["shared"], archive=True)
ALL_TIME = (datetime.min.replace(tzinfo=timezone.utc), datetime.max.replace(tzinfo=timezone.utc))
_namespace = itertools.count()


@dataclasses.dataclass
class Ids:
    """The ids that both namespaces use, and one of each that only the other one has."""

    episode: Any = dataclasses.field(default_factory=new_id)
    checkpoint: Any = dataclasses.field(default_factory=new_id)
    step: Any = dataclasses.field(default_factory=new_id)
    pattern: Any = dataclasses.field(default_factory=new_id)
    second_pattern: Any = dataclasses.field(default_factory=new_id)
    place: Any = dataclasses.field(default_factory=new_id)
    relationship: Any = dataclasses.field(default_factory=new_id)


def _fill(memory: ms.MemoryStorage, ids: Ids, owner: str) -> None:
    """One row of each kind, with the owner's name in every string field."""
    memory.episodes.save(
        ms.Episode(
            id=ids.episode,
            task_description=f"words {owner}",
            tags=["shared", owner],
            metadata={"owner": owner},
            reward=ms.RewardScore(total=1.0),
            steps=[ms.Step(id=ids.step, tool=owner, action=f"words {owner}")],
        )
    )
    memory.checkpoints.import_many([_checkpoint(ids, owner)])
    memory.summaries.put(ids.episode, f"summary {owner}", key_steps=[owner], key_concepts=[owner])
    for key in (ids.pattern, ids.second_pattern):
        memory.patterns.save(ms.Heuristic(id=key, condition=owner, action=owner, tags=["shared"]))
    for owner_type, key in (("episode", ids.episode), ("step", ids.step), ("pattern", ids.pattern)):
        memory.embeddings.put(owner_type, key, VECTOR, model="m")
    memory.spatiotemporal.put(
        ms.SpatiotemporalEntry(
            id=ids.place,
            owner_type="episode",
            owner_id=ids.episode,
            latitude=1.0,
            longitude=1.0,
            place_name=owner,
            starts_at=NOON - timedelta(hours=1),
            ends_at=NOON + timedelta(hours=1),
        )
    )
    memory.items.put(PATH, "key", owner, ttl=1e6, vectors={"f": VECTOR}, model="m")
    memory.logs.append("log", [owner], ids=["id"])
    other = memory.episodes.save(ms.Episode(task_description=owner))
    memory.relationships.add_many([_relationship(ids.relationship, ids.episode, other.id, owner)])


def _relationship(key: Any, from_id: Any, to_id: Any, owner: str) -> Relationship:
    return Relationship(id=key, from_id=from_id, to_id=to_id, kind="parent_child", metadata={"owner": owner})


def _checkpoint(ids: Ids, owner: str) -> ms.models.Checkpoint:
    return ms.models.Checkpoint(id=ids.checkpoint, episode_id=ids.episode, label="shared", state={"owner": owner})


def _new_episode() -> ms.Episode:
    return ms.Episode(task_description="mine", tags=["shared"], steps=[ms.Step(tool="mine")])


# Every public method, called so that it would meet the other one's rows if it could. `i` are the ids of those rows.
CALLS: dict[str, list[Callable[[ms.MemoryStorage, Ids], Any]]] = {
    "episodes.save": [lambda m, i: m.episodes.save(_new_episode().model_copy(update={"id": i.episode}))],
    "episodes.save_many": [lambda m, i: m.episodes.save_many([_new_episode(), ms.Episode(task_description="mine")])],
    "episodes.import_many": [lambda m, i: m.episodes.import_many([ms.Episode(id=i.episode, task_description="mine")])],
    "episodes.append_step": [lambda m, i: m.episodes.append_step(i.episode, ms.Step(id=i.step, tool="mine"))],
    "episodes.append_steps": [
        lambda m, i: m.episodes.append_steps(i.episode, [ms.Step(id=i.step, tool="mine"), ms.Step(tool="mine")])
    ],
    "episodes.checkpoint": [lambda m, i: m.episodes.checkpoint(i.episode, "mine")],
    "episodes.handoff": [
        lambda m, i: m.episodes.handoff(i.episode),
        lambda m, i: m.episodes.handoff(_checkpoint(i, "mine")),
    ],
    "episodes.resume": [lambda m, i: m.episodes.resume(i.checkpoint)],
    "checkpoints.get": [lambda m, i: m.checkpoints.get(i.checkpoint)],
    "checkpoints.find": [lambda m, i: m.checkpoints.find(i.checkpoint)],
    "checkpoints.query": [lambda m, i: m.checkpoints.query(i.episode)],
    "checkpoints.iterate": [lambda m, i: list(m.checkpoints.iterate())],
    "checkpoints.count": [lambda m, i: m.checkpoints.count(), lambda m, i: m.checkpoints.count(i.episode)],
    "checkpoints.delete": [lambda m, i: m.checkpoints.delete(i.checkpoint)],
    "checkpoints.import_many": [lambda m, i: m.checkpoints.import_many([_checkpoint(i, "mine")])],
    "episodes.complete": [lambda m, i: m.episodes.complete(i.episode, ms.Success(verdict="mine"), reward=2.0)],
    "episodes.archive": [lambda m, i: m.episodes.archive(i.episode)],
    "episodes.restore": [lambda m, i: m.episodes.restore(i.episode)],
    "episodes.resolve_id": [lambda m, i: m.episodes.resolve_id(i.episode)],
    "episodes.short_ids": [lambda m, i: set(m.episodes.short_ids([i.episode]).values())],
    "episodes.erased_among": [lambda m, i: m.episodes.erased_among([i.episode])],
    "patterns.resolve_id": [lambda m, i: m.patterns.resolve_id(i.pattern)],
    "patterns.short_ids": [lambda m, i: set(m.patterns.short_ids([i.pattern]).values())],
    "patterns.erased_among": [lambda m, i: m.patterns.erased_among([i.pattern])],
    "episodes.delete": [lambda m, i: m.episodes.delete(i.episode)],
    "episodes.get": [lambda m, i: m.episodes.get(i.episode), lambda m, i: m.episodes.get(i.episode, steps=False)],
    "episodes.find": [lambda m, i: m.episodes.find(i.episode), lambda m, i: m.episodes.find(i.episode, steps=False)],
    "episodes.query": [
        lambda m, i: m.episodes.query(),
        lambda m, i: m.episodes.query(archived=None, steps=False),
        lambda m, i: m.episodes.query(text="words"),
        lambda m, i: m.episodes.query(tags_all=["shared"], tags_any=["shared"]),
        lambda m, i: m.episodes.query(metadata={"owner": "theirs"}),
        lambda m, i: m.episodes.query(min_reward=0.0, completed=False, domain="general"),
    ],
    "episodes.iterate": [lambda m, i: list(m.episodes.iterate(archived=None))],
    "episodes.count": [lambda m, i: m.episodes.count(archived=None), lambda m, i: m.episodes.count(text="words")],
    "steps.get": [lambda m, i: m.steps.get(i.step)],
    "steps.find": [lambda m, i: m.steps.find(i.step)],
    "steps.range": [lambda m, i: m.steps.range(i.episode)],
    "steps.latest": [lambda m, i: m.steps.latest(i.episode)],
    "steps.iterate": [lambda m, i: list(m.steps.iterate(i.episode))],
    "steps.count": [lambda m, i: m.steps.count(), lambda m, i: m.steps.count(i.episode)],
    "steps.delete": [lambda m, i: m.steps.delete(i.step)],
    "patterns.save": [lambda m, i: m.patterns.save(ms.Heuristic(id=i.pattern, condition="mine", action="mine"))],
    "patterns.save_many": [lambda m, i: m.patterns.save_many([ms.Heuristic(condition="mine", action="mine")])],
    "patterns.import_many": [
        lambda m, i: m.patterns.import_many([ms.Heuristic(id=i.pattern, condition="mine", action="mine")])
    ],
    "patterns.record_retrieval": [
        lambda m, i: m.patterns.record_retrieval(i.pattern),
        lambda m, i: m.patterns.record_retrieval([i.pattern, i.second_pattern]),
    ],
    "patterns.record_application": [lambda m, i: m.patterns.record_application(i.pattern, success=True)],
    "patterns.merge": [
        lambda m, i: m.patterns.merge(i.pattern, i.second_pattern),
        lambda m, i: m.patterns.merge(
            m.patterns.save(ms.Heuristic(condition="mine", action="mine")).id, i.second_pattern
        ),
    ],
    "patterns.learn": [
        lambda m, i: m.patterns.learn(lengths=(1, 1), min_episodes=1, min_lift=0.0, success_reward=0.0),
        lambda m, i: m.patterns.learn(tags_any=["shared"]),
    ],
    "patterns.get": [lambda m, i: m.patterns.get(i.pattern)],
    "patterns.get_many": [lambda m, i: m.patterns.get_many([i.pattern, i.second_pattern])],
    "patterns.find": [lambda m, i: m.patterns.find(i.pattern)],
    "patterns.query": [
        lambda m, i: m.patterns.query(),
        lambda m, i: m.patterns.query(tags_any=["shared"], kind="heuristic", domain="general"),
    ],
    "patterns.iterate": [lambda m, i: list(m.patterns.iterate())],
    "patterns.count": [lambda m, i: m.patterns.count(), lambda m, i: m.patterns.count(tags_all=["shared"])],
    "patterns.delete": [lambda m, i: m.patterns.delete(i.pattern)],
    "embeddings.put": [lambda m, i: m.embeddings.put("episode", i.episode, [0.25] * 384, model="m")],
    "embeddings.put_many": [lambda m, i: m.embeddings.put_many([("pattern", i.pattern, [0.25] * 384)], model="m")],
    "embeddings.import_many": [
        lambda m, i: m.embeddings.import_many(
            [ms.models.Embedding(owner_type="step", owner_id=i.step, model="m", vector=[0.25] * 384)]
        )
    ],
    "embeddings.get_many": [lambda m, i: m.embeddings.get_many("episode", [i.episode], model="m")],
    "embeddings.models": [lambda m, i: m.embeddings.models()],
    "embeddings.embed": [lambda m, i: m.embeddings.embed(EMBEDDER, owner_type="pattern")],
    "embeddings.flush": [lambda m, i: _with_embedder(m).embeddings.flush()],
    "embeddings.reembed": [lambda m, i: m.embeddings.reembed("m", EMBEDDER)],
    "episodes.similar_to": [
        lambda m, i: m.episodes.similar_to(VECTOR, model="m", k=50),
        lambda m, i: m.episodes.similar_to(VECTOR, model="m", mode="index", tags_any=["shared"], archived=None),
    ],
    "episodes.search": [
        lambda m, i: m.episodes.search("words"),
        lambda m, i: m.episodes.search("words theirs", vector=VECTOR, model="m"),
    ],
    "patterns.similar_to": [lambda m, i: m.patterns.similar_to(VECTOR, model="m")],
    "patterns.search": [lambda m, i: m.patterns.search("words theirs", vector=VECTOR, model="m")],
    "embeddings.get": [lambda m, i: m.embeddings.get("episode", i.episode, model="m")],
    "embeddings.find": [lambda m, i: m.embeddings.find("step", i.step, model="m")],
    "embeddings.iterate": [lambda m, i: list(m.embeddings.iterate())],
    "embeddings.count": [lambda m, i: m.embeddings.count()],
    "embeddings.delete": [lambda m, i: m.embeddings.delete("episode", i.episode, model="m")],
    "spatiotemporal.put": [
        lambda m, i: m.spatiotemporal.put(
            ms.SpatiotemporalEntry(id=i.place, owner_type="episode", owner_id=i.episode, place_name="mine")
        )
    ],
    "spatiotemporal.put_many": [
        lambda m, i: m.spatiotemporal.put_many(
            [ms.SpatiotemporalEntry(id=i.place, owner_type="step", owner_id=i.step, place_name="mine")]
        )
    ],
    "spatiotemporal.within": [
        lambda m, i: m.spatiotemporal.within(EARTH),
        lambda m, i: m.spatiotemporal.within(EARTH, between=ALWAYS, archived=None),
        lambda m, i: m.spatiotemporal.episodes.within(EARTH),
    ],
    "spatiotemporal.near": [
        lambda m, i: m.spatiotemporal.near(HERE, 1e9),
        lambda m, i: m.spatiotemporal.episodes.near(HERE, 10.0, tags_any=["shared"]),
    ],
    "spatiotemporal.nearest": [
        lambda m, i: m.spatiotemporal.nearest(HERE),
        lambda m, i: m.spatiotemporal.episodes.nearest(HERE, 1, text="words"),
    ],
    "spatiotemporal.during": [
        lambda m, i: m.spatiotemporal.during(ALWAYS),
        lambda m, i: m.spatiotemporal.episodes.during(ALWAYS),
    ],
    "spatiotemporal.overlapping": [
        lambda m, i: m.spatiotemporal.overlapping(ALWAYS),
        lambda m, i: m.spatiotemporal.episodes.overlapping(ALWAYS),
    ],
    "spatiotemporal.as_of": [
        lambda m, i: m.spatiotemporal.as_of(NOON),
        lambda m, i: m.spatiotemporal.episodes.as_of(NOON),
    ],
    "spatiotemporal.timeline": [lambda m, i: m.spatiotemporal.timeline("episode", i.episode)],
    "spatiotemporal.trajectory": [lambda m, i: m.spatiotemporal.trajectory(i.episode)],
    "spatiotemporal.hierarchy": [lambda m, i: m.spatiotemporal.hierarchy()],
    "spatiotemporal.diverse": [lambda m, i: m.spatiotemporal.diverse()],
    "spatiotemporal.import_many": [
        lambda m, i: m.spatiotemporal.import_many(
            [ms.SpatiotemporalEntry(id=i.place, owner_type="episode", owner_id=i.episode, place_name="mine")]
        )
    ],
    "spatiotemporal.get": [lambda m, i: m.spatiotemporal.get(i.place)],
    "spatiotemporal.find": [lambda m, i: m.spatiotemporal.find(i.place)],
    "spatiotemporal.for_owner": [lambda m, i: m.spatiotemporal.for_owner("episode", i.episode)],
    "spatiotemporal.iterate": [lambda m, i: list(m.spatiotemporal.iterate())],
    "spatiotemporal.count": [lambda m, i: m.spatiotemporal.count()],
    "spatiotemporal.delete": [lambda m, i: m.spatiotemporal.delete(i.place)],
    "items.put": [
        lambda m, i: m.items.put(PATH, "key", "mine", version=0),
        lambda m, i: m.items.put(PATH, "key", "mine", vectors={"f": [0.25] * 384}, model="m"),
    ],
    "items.put_many": [lambda m, i: m.items.put_many([ms.models.PutItem(path=PATH, key="key", value="mine")])],
    "items.get": [lambda m, i: m.items.get(PATH, "key"), lambda m, i: m.items.get(PATH, "key", refresh=True)],
    "items.find": [lambda m, i: m.items.find(PATH, "key"), lambda m, i: m.items.find(PATH, "key", refresh=True)],
    "items.get_many": [lambda m, i: [one for one in m.items.get_many([(PATH, "key")]) if one]],
    "items.delete": [lambda m, i: m.items.delete(PATH, "key")],
    "items.delete_many": [lambda m, i: m.items.delete_many([(PATH, "key")])],
    "items.clear": [lambda m, i: m.items.clear(), lambda m, i: m.items.clear(PATH)],
    "items.delete_expired": [lambda m, i: m.items.delete_expired(ALL_TIME[1])],
    "items.query": [
        lambda m, i: m.items.query(),
        lambda m, i: m.items.query(PATH, newest_first=True, refresh=True),
    ],
    "items.search": [
        lambda m, i: m.items.search(VECTOR, model="m"),
        lambda m, i: m.items.search(VECTOR, model="m", prefix=PATH, refresh=True),
    ],
    "items.paths": [
        lambda m, i: m.items.paths(),
        lambda m, i: m.items.paths(prefix=[None], suffix=PATH, max_depth=1),
    ],
    "items.iterate": [lambda m, i: list(m.items.iterate())],
    "items.iterate_vectors": [lambda m, i: list(m.items.iterate_vectors())],
    "items.count": [lambda m, i: m.items.count(), lambda m, i: m.items.count(PATH)],
    "items.batch": [
        lambda m, i: m.items.batch(
            [
                ms.models.GetItem(path=PATH, key="key", refresh=True),
                ms.models.QueryItems(refresh=True),
                ms.models.SearchItems(vector=VECTOR, model="m"),
                ms.models.ListPaths(),
                ms.models.DeleteItem(path=PATH, key="key"),
            ]
        )
    ],
    "items.import_many": [lambda m, i: m.items.import_many([ms.models.Item(path=PATH, key="key", value="mine")])],
    "items.import_vectors": [
        lambda m, i: m.items.import_vectors(
            [ms.models.ItemVector(path=PATH, key="key", model="m", field="g", vector=VECTOR)]
        )
    ],
    "logs.append": [lambda m, i: m.logs.append("log", ["mine"], ids=["id"])],
    "logs.read": [lambda m, i: m.logs.read("log"), lambda m, i: m.logs.read("log", latest=9)],
    "logs.iterate": [lambda m, i: list(m.logs.iterate()), lambda m, i: list(m.logs.iterate("log"))],
    "logs.pop": [lambda m, i: m.logs.pop("log")],
    "logs.clear": [lambda m, i: m.logs.clear("log")],
    "logs.list": [lambda m, i: m.logs.list(), lambda m, i: m.logs.list("lo")],
    "logs.count": [lambda m, i: m.logs.count(), lambda m, i: m.logs.count("log")],
    "logs.import_many": [
        lambda m, i: m.logs.import_many([ms.models.LogRecord(log="log", number=1, id="id", value="mine")])
    ],
    "relationships.add": [lambda m, i: m.relationships.add(i.episode, new_id(), "blocks", metadata={"owner": "mine"})],
    "relationships.add_many": [
        lambda m, i: m.relationships.add_many([_relationship(i.relationship, i.episode, new_id(), "mine")])
    ],
    "relationships.import_many": [
        lambda m, i: m.relationships.import_many([_relationship(i.relationship, i.episode, new_id(), "mine")])
    ],
    "relationships.get": [lambda m, i: m.relationships.get(i.relationship)],
    "relationships.find": [lambda m, i: m.relationships.find(i.relationship)],
    "relationships.delete": [lambda m, i: m.relationships.delete(i.relationship)],
    "relationships.query": [
        lambda m, i: m.relationships.query(i.episode),
        lambda m, i: m.relationships.query(i.episode, edges="outgoing", kind="parent_child"),
    ],
    "relationships.ancestors": [lambda m, i: m.relationships.ancestors(i.episode, None)],
    "relationships.descendants": [
        lambda m, i: m.relationships.descendants(i.episode),
        lambda m, i: m.relationships.descendants(i.episode, None),
    ],
    "relationships.topological_order": [lambda m, i: m.relationships.topological_order(i.episode)],
    "relationships.path": [lambda m, i: m.relationships.path(i.episode, i.episode)],
    "relationships.iterate": [lambda m, i: list(m.relationships.iterate())],
    "relationships.count": [lambda m, i: m.relationships.count()],
    "summaries.put": [lambda m, i: m.summaries.put(i.episode, "mine")],
    "summaries.get": [lambda m, i: m.summaries.get(i.episode)],
    "summaries.find": [lambda m, i: m.summaries.find(i.episode)],
    "summaries.delete": [lambda m, i: m.summaries.delete(i.episode)],
    "summaries.summarize": [lambda m, i: m.summaries.summarize(i.episode)],
    "summaries.summarize_many": [lambda m, i: m.summaries.summarize_many(replace=True, text="words")],
    "analytics.summary": [lambda m, i: m.analytics.summary()],
    "retention.plan": [lambda m, i: m.retention.plan(EVERYTHING), lambda m, i: m.retention.plan(ARCHIVED)],
    "retention.apply": [lambda m, i: m.retention.apply(EVERYTHING), lambda m, i: m.retention.apply(ARCHIVED)],
    "analytics.span": [lambda m, i: m.analytics.span()],
    "analytics.by": [
        lambda m, i: m.analytics.by("tool"),
        lambda m, i: m.analytics.by("tag", archived=None, text="words"),
        lambda m, i: m.analytics.by("domain", success_reward=0.0),
    ],
    "analytics.over_time": [
        lambda m, i: m.analytics.over_time("week"),
        lambda m, i: m.analytics.over_time("day", tz="Europe/Berlin", tags_any=["shared"]),
    ],
    "analytics.by_stage": [lambda m, i: m.analytics.by_stage()],
    "analytics.trend": [lambda m, i: m.analytics.trend()],
    "analytics.tools": [lambda m, i: m.analytics.tools()],
    "analytics.sequences": [lambda m, i: m.analytics.sequences(1, min_episodes=1, success_reward=0.0)],
    "analytics.failures": [lambda m, i: m.analytics.failures()],
    "analytics.compare": [lambda m, i: m.analytics.compare(ALL_TIME, ALL_TIME, by="tool")],
    "analytics.effectiveness": [lambda m, i: m.analytics.effectiveness()],
    "analytics.attribution": [
        lambda m, i: m.analytics.attribution(),
        lambda m, i: m.analytics.attribution("kind", unit="week"),
    ],
    "analytics.unused": [lambda m, i: m.analytics.unused(since=ALL_TIME[1])],
}
READING = {
    *("get", "find", "query", "iterate", "count", "range", "latest", "of", "delete"),
    *("ancestors", "descendants", "topological_order", "path"),
    *("within", "near", "nearest", "during", "overlapping", "as_of", "timeline", "trajectory", "hierarchy", "diverse"),
}
NOTHING: tuple[Any, ...] = (None, False, 0, [], ms.Page([]))


def _public_methods(storage: ms.MemoryStorage) -> Iterator[str]:
    for name in REPOSITORIES:
        repository = getattr(storage, name)
        for method in dir(repository):  # without the old names, which warn
            if not method.startswith("_") and inspect.ismethod(getattr(repository, method)):
                yield f"{name}.{method}"


def _with_embedder(memory: ms.MemoryStorage) -> ms.MemoryStorage:
    settings = memory.settings.model_copy(update={"embed": "manually"})
    return ms.MemoryStorage(memory.engine, settings, embedder=EMBEDDER)


def _outcome_of(call: Callable[[ms.MemoryStorage, Ids], Any], memory: ms.MemoryStorage, ids: Ids) -> Any:
    try:
        return call(memory, ids)
    except (ms.NotFoundError, ms.ConflictError) as error:
        return error
    except ms.ValidationError as error:
        if "it was erased" not in str(error):  # what retention has removed does not come back
            raise
        return error


def test_every_public_repository_method_has_a_case_here(storage):
    found = {name for name in dir(storage) if isinstance(getattr(storage, name), Repository)}
    assert found == {*REPOSITORIES, "conflicts"}  # which come from a sync: see tests/sync
    assert set(_public_methods(storage)) == set(CALLS)


@pytest.mark.whole_database
def test_an_empty_namespace_stays_empty_next_to_a_full_one(storage):
    ids = Ids()
    _fill(storage, ids, "theirs")
    before = dump(storage.engine, namespace="default")
    for method, calls in CALLS.items():
        for call in calls:
            given_back = _outcome_of(call, storage.in_namespace(f"mine {next(_namespace)}"), ids)
            assert "theirs" not in repr(given_back), method
            if method.split(".")[1] in READING:
                assert isinstance(given_back, ms.NotFoundError) or given_back in NOTHING, method
            assert dump(storage.engine, namespace="default") == before, method
    assert_consistent(storage.engine)


@pytest.mark.whole_database
@settings(max_examples=40)
@example(
    names=["default", "Default"], calls=[*CALLS["episodes.save"], *CALLS["retention.apply"], *CALLS["episodes.save"]]
)
@given(
    names=st.lists(st.sampled_from(NAMES), min_size=2, max_size=2, unique=True),
    calls=st.lists(st.sampled_from([call for calls in CALLS.values() for call in calls]), min_size=3, max_size=12),
)
@pytest.mark.slow
def test_a_namespace_never_changes_or_shows_another(storage, names, calls):
    mine, other = (storage.in_namespace(name) for name in names)
    ids = Ids()  # the same in both
    _fill(mine, ids, "mine")
    _fill(other, ids, "theirs")
    before = dump(storage.engine, namespace=names[1])
    for call in calls:
        assert "theirs" not in repr(_outcome_of(call, mine, ids))
    assert dump(storage.engine, namespace=names[1]) == before
    for memory in (mine, other):
        for episode in list(memory.episodes.iterate(archived=None, steps=False)):
            memory.episodes.delete(episode.id)
        for pattern in list(memory.patterns.iterate()):
            memory.patterns.delete(pattern.id)
        memory.items.clear()
        for log in memory.logs.list():
            memory.logs.clear(log.log)
    assert not any(dump(storage.engine).values())


@pytest.mark.whole_database
def test_rows_are_counted_for_each_of_many_hostile_names(storage):
    ids = Ids()
    for name in NAMES:
        _fill(storage.in_namespace(name), ids, "alice")
    for name in NAMES:
        memory = storage.in_namespace(name)
        assert memory.analytics.summary().rows == {
            "episodes": 2,
            "steps": 1,
            "patterns": 2,
            "embeddings": 3,
            "places": 1,
            "items": 1,
            "records": 1,
            "relationships": 1,
            "checkpoints": 1,
        }
        assert memory.episodes.count(text="words") == memory.episodes.count(tags_all=["shared"]) == 1
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_a_transaction_and_a_snapshot_stay_in_their_namespace(storage):
    ids = Ids()
    _fill(storage, ids, "theirs")
    mine = storage.in_namespace("mine")
    with mine.transaction() as tx:
        assert tx.namespace == "mine"
        assert tx.episodes.find(ids.episode) is None
        tx.episodes.save(ms.Episode(id=ids.episode, task_description="mine"))
    with mine.snapshot() as view:
        assert [episode.task_description for episode in view.episodes.iterate()] == ["mine"]
    assert storage.episodes.get(ids.episode).task_description == "words theirs"
    assert mine.in_namespace("default").episodes.get(ids.episode) == storage.episodes.get(ids.episode)


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "\ud800", "a\udfff", None, 5, b"default", ["default"]])
@in_memory
def test_what_cannot_be_a_namespace_is_refused(storage, name):
    with raises(ms.ValidationError, field="namespace") as caught:
        storage.in_namespace(name)
    assert (caught.value.field, caught.value.value) == ("namespace", name)
