"""The round trips of each call, counted by a proxy, equal those in the reference."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage.repositories.episodes.recalls import keep
from memory_storage.sql.session import Repository
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.repositories.test_namespaces import ALL_TIME, REPOSITORIES, _public_methods

REFERENCE = (Path(__file__).parents[2] / "docs" / "reference" / "round-trips.md").read_text()
VECTOR = [0.5] * 384
ALWAYS = ms.Interval()
HERE = ms.Point(latitude=1.0, longitude=1.0)
EARTH = ms.Box(south=-90.0, west=-180.0, north=90.0, east=180.0)


def _episode(steps: int = 20, **fields: Any) -> ms.Episode:
    return ms.Episode(task_description="words", steps=[ms.Step(tool="t") for _ in range(steps)], **fields)


def _heuristic() -> ms.Heuristic:
    return ms.Heuristic(condition="c", action="a", effectiveness=ms.models.Effectiveness(avg_reward_delta=0.1))


def _episodes(count: int = 100) -> list[ms.Episode]:
    return [_episode() for _ in range(count)]


class Known:
    """What is stored, and was recalled, before each call."""

    def __init__(self, memory: ms.MemoryStorage) -> None:
        self.episode, self.other = memory.episodes.save_many([_episode(), _episode(reward=ms.RewardScore(total=1.0))])
        self.checkpoint = memory.episodes.checkpoint(self.episode.id, "known", state={"next": "continue"})
        self.patterns = memory.patterns.save_many([_heuristic() for _ in range(4)])
        memory.summaries.put(self.other.id, "words")
        self.other = memory.episodes.complete(self.other.id, ms.Success(verdict="words"))
        self.place = memory.spatiotemporal.put(self.new_place())
        memory.embeddings.put("episode", self.episode.id, VECTOR, model="m")
        memory.items.put(("a",), "known", 1, ttl=1e6)
        memory.logs.append("log", [1, 2])
        self.relationship = memory.relationships.add(self.episode.id, self.other.id, "parent_child")

        items = [ms.RecalledItem("pattern", one, 0.5) for one in self.patterns]
        self.recall = ms.Recall(id=uuid4(), task="t", items=tuple(items), namespace=memory.namespace)
        self.kept = ms.Recall(id=uuid4(), task="t", items=tuple(items), namespace=memory.namespace)
        keep(memory.episodes._session, self.kept)  # as another process does

    def new_place(self) -> ms.SpatiotemporalEntry:
        return ms.SpatiotemporalEntry(owner_type="episode", owner_id=self.episode.id, latitude=1.0, longitude=1.0)

    def relationships(self) -> list[ms.Relationship]:
        ends = {"from_id": self.episode.id, "to_id": self.other.id}
        return [ms.Relationship(**ends, kind=f"kind-{n}", weight=n / 7) for n in range(50)] + [
            ms.Relationship(**ends, kind=kind) for kind in ("blocks", "follows", "depends_on")
        ]

    def of_step(self) -> ms.SpatiotemporalEntry:
        return ms.SpatiotemporalEntry(owner_type="step", owner_id=self.episode.steps[0].id, place_name="here")

    def vectors(self) -> list[tuple[str, Any, list[float]]]:
        return [("step", step.id, VECTOR) for step in self.episode.steps]

    def embeddings(self) -> list[ms.models.Embedding]:
        return [
            ms.models.Embedding(owner_type="step", owner_id=step.id, model="m", vector=VECTOR)
            for step in self.episode.steps
        ]


OTHERS = {
    "episodes.resume",
    "embeddings.iterate",
    "embeddings.embed",
    "embeddings.flush",
    "embeddings.reembed",
    "patterns.learn",
    "retention.apply",
    "summaries.summarize",
    "summaries.summarize_many",
}

Case = Callable[[ms.MemoryStorage, Known], Any]

CASES: dict[str, list[Case]] = {
    "episodes.save": [
        lambda m, k: m.episodes.save(_episode()),
        lambda m, k: m.episodes.save(k.episode.model_copy(update={"tags": ["changed"]})),
    ],
    "episodes.save_many": [
        lambda m, k: m.episodes.save_many(_episodes()),
        lambda m, k: m.episodes.save_many([k.episode, k.other, *_episodes(50)]),
    ],
    "episodes.import_many": [lambda m, k: m.episodes.import_many(_episodes())],
    "episodes.append_step": [lambda m, k: m.episodes.append_step(k.episode.id, ms.Step(tool="t"))],
    "episodes.append_steps": [
        lambda m, k: m.episodes.append_steps(k.episode.id, [ms.Step(tool="t") for _ in range(1_000)])
    ],
    "episodes.checkpoint": [
        lambda m, k: m.episodes.checkpoint(k.episode.id, "label", state={"a": 1}),
        lambda m, k: m.episodes.checkpoint(k.episode.id, "label", step_number=7),
    ],
    "episodes.handoff": [
        lambda m, k: m.episodes.handoff(k.episode.id),
        lambda m, k: m.episodes.handoff(k.checkpoint),
    ],
    "checkpoints.get": [lambda m, k: m.checkpoints.get(k.checkpoint.id)],
    "checkpoints.find": [lambda m, k: m.checkpoints.find(k.checkpoint.id)],
    "checkpoints.query": [lambda m, k: m.checkpoints.query(k.episode.id)],
    "checkpoints.iterate": [lambda m, k: list(m.checkpoints.iterate())],
    "checkpoints.count": [lambda m, k: m.checkpoints.count()],
    "checkpoints.delete": [lambda m, k: m.checkpoints.delete(k.checkpoint.id)],
    "checkpoints.import_many": [
        lambda m, k: m.checkpoints.import_many(
            [ms.models.Checkpoint(episode_id=k.episode.id, label=f"{n}") for n in range(100)]
        )
    ],
    "episodes.complete": [
        lambda m, k: m.episodes.complete(k.episode.id, ms.Success(verdict="v"), reward=1.0),
        lambda m, k: m.episodes.complete(k.episode.id, ms.Success(verdict="v"), recalled=k.recall),
        lambda m, k: m.episodes.complete(k.other.id, ms.Success(verdict="v"), recalled=k.kept.id, used=[], rating=1),
    ],
    "episodes.archive": [lambda m, k: m.episodes.archive(k.episode.id)],
    "episodes.restore": [lambda m, k: m.episodes.restore(k.episode.id)],
    "episodes.resolve_id": [lambda m, k: m.episodes.resolve_id(k.episode.id)],
    "episodes.short_ids": [lambda m, k: m.episodes.short_ids([k.episode.id, k.other.id])],
    "episodes.erased_among": [lambda m, k: m.episodes.erased_among([k.episode.id])],
    "patterns.resolve_id": [lambda m, k: m.patterns.resolve_id(k.patterns[0].id)],
    "patterns.short_ids": [lambda m, k: m.patterns.short_ids([one.id for one in k.patterns])],
    "patterns.erased_among": [lambda m, k: m.patterns.erased_among([one.id for one in k.patterns])],
    "episodes.delete": [lambda m, k: m.episodes.delete(k.other.id)],
    "episodes.get": [lambda m, k: m.episodes.get(k.episode.id).steps[-1]],
    "episodes.find": [lambda m, k: m.episodes.find(k.episode.id, steps=False)],
    "episodes.query": [
        lambda m, k: [episode.steps for episode in m.episodes.query()],
        lambda m, k: m.episodes.query(text="words", tags_any=["x"], metadata={"a": 1}, limit=1),
    ],
    "episodes.iterate": [lambda m, k: list(m.episodes.iterate())],
    "episodes.count": [lambda m, k: m.episodes.count(text="words")],
    "steps.get": [lambda m, k: m.steps.get(k.episode.steps[0].id)],
    "steps.find": [lambda m, k: m.steps.find(k.episode.steps[0].id)],
    "steps.range": [lambda m, k: m.steps.range(k.episode.id, 2, 5)],
    "steps.latest": [lambda m, k: m.steps.latest(k.episode.id)],
    "steps.iterate": [lambda m, k: list(m.steps.iterate(k.episode.id))],
    "steps.count": [lambda m, k: m.steps.count()],
    "steps.delete": [lambda m, k: m.steps.delete(k.episode.steps[-1].id)],
    "patterns.save": [
        lambda m, k: m.patterns.save(_heuristic()),
        lambda m, k: m.patterns.save(k.patterns[0]),
        lambda m, k: m.patterns.save(ms.Playbook.from_patterns("p", k.patterns)),
    ],
    "patterns.save_many": [lambda m, k: m.patterns.save_many([_heuristic() for _ in range(100)])],
    "patterns.import_many": [lambda m, k: m.patterns.import_many([_heuristic() for _ in range(100)])],
    "patterns.record_retrieval": [lambda m, k: m.patterns.record_retrieval([one.id for one in k.patterns])],
    "patterns.record_application": [lambda m, k: m.patterns.record_application(k.patterns[0].id, success=True)],
    "patterns.merge": [lambda m, k: m.patterns.merge(k.patterns[0].id, k.patterns[1].id)],
    "patterns.get": [lambda m, k: m.patterns.get(k.patterns[0].id)],
    "patterns.get_many": [lambda m, k: m.patterns.get_many([one.id for one in k.patterns])],
    "patterns.find": [lambda m, k: m.patterns.find(k.patterns[0].id)],
    "patterns.query": [lambda m, k: m.patterns.query(kind="heuristic")],
    "patterns.iterate": [lambda m, k: list(m.patterns.iterate())],
    "patterns.count": [lambda m, k: m.patterns.count()],
    "patterns.delete": [lambda m, k: m.patterns.delete(k.patterns[0].id)],
    "embeddings.put": [lambda m, k: m.embeddings.put("episode", k.episode.id, VECTOR, model="m")],
    "embeddings.put_many": [lambda m, k: m.embeddings.put_many(k.vectors(), model="m")],
    "embeddings.import_many": [lambda m, k: m.embeddings.import_many(k.embeddings())],
    "embeddings.get_many": [lambda m, k: m.embeddings.get_many("episode", [k.episode.id], model="m")],
    "embeddings.models": [lambda m, k: m.embeddings.models()],
    "episodes.similar_to": [
        lambda m, k: m.episodes.similar_to(VECTOR, model="m"),
        lambda m, k: m.episodes.similar_to(VECTOR, model="m", outcome="success", tags_any=["a"]),
    ],
    "episodes.search": [
        lambda m, k: m.episodes.search("words"),
        lambda m, k: m.episodes.search("words", vector=VECTOR, model="m", explain=True),
    ],
    "patterns.similar_to": [lambda m, k: m.patterns.similar_to(VECTOR, model="m")],
    "patterns.search": [lambda m, k: m.patterns.search("words", vector=VECTOR, model="m")],
    "embeddings.get": [lambda m, k: m.embeddings.get("episode", k.episode.id, model="m")],
    "embeddings.find": [lambda m, k: m.embeddings.find("episode", k.other.id, model="m")],
    "embeddings.count": [lambda m, k: m.embeddings.count()],
    "embeddings.delete": [lambda m, k: m.embeddings.delete("episode", k.episode.id, model="m")],
    "spatiotemporal.put": [lambda m, k: m.spatiotemporal.put(k.new_place())],
    "spatiotemporal.put_many": [
        lambda m, k: m.spatiotemporal.put_many([k.new_place() for _ in range(100)]),
        lambda m, k: m.spatiotemporal.put_many([k.place, k.new_place(), k.of_step()]),
    ],
    "spatiotemporal.within": [
        lambda m, k: m.spatiotemporal.within(EARTH),
        lambda m, k: m.spatiotemporal.episodes.within(EARTH, between=ALWAYS, outcome="success"),
    ],
    "spatiotemporal.near": [
        lambda m, k: m.spatiotemporal.near(HERE, 1e6, text="words"),
        lambda m, k: m.spatiotemporal.episodes.near(HERE, 1e6),
    ],
    "spatiotemporal.nearest": [
        lambda m, k: m.spatiotemporal.nearest(HERE, 1),
        lambda m, k: m.spatiotemporal.episodes.nearest(HERE, 1, between=ALWAYS),
    ],
    "spatiotemporal.during": [lambda m, k: m.spatiotemporal.during(ALWAYS)],
    "spatiotemporal.overlapping": [lambda m, k: m.spatiotemporal.overlapping(ALWAYS)],
    "spatiotemporal.as_of": [lambda m, k: m.spatiotemporal.as_of(k.episode.started_at)],
    "spatiotemporal.timeline": [lambda m, k: m.spatiotemporal.timeline("episode", k.episode.id)],
    "spatiotemporal.trajectory": [lambda m, k: m.spatiotemporal.trajectory(k.episode.id)],
    "spatiotemporal.hierarchy": [lambda m, k: m.spatiotemporal.hierarchy(unit="hour", tz="Europe/Berlin")],
    "spatiotemporal.diverse": [lambda m, k: m.spatiotemporal.diverse(2, unit="week")],
    "spatiotemporal.import_many": [lambda m, k: m.spatiotemporal.import_many([k.new_place() for _ in range(100)])],
    "spatiotemporal.get": [lambda m, k: m.spatiotemporal.get(k.place.id)],
    "spatiotemporal.find": [lambda m, k: m.spatiotemporal.find(k.place.id)],
    "spatiotemporal.for_owner": [lambda m, k: m.spatiotemporal.for_owner("episode", k.episode.id)],
    "spatiotemporal.iterate": [lambda m, k: next(m.spatiotemporal.iterate())],
    "spatiotemporal.count": [lambda m, k: m.spatiotemporal.count()],
    "spatiotemporal.delete": [lambda m, k: m.spatiotemporal.delete(k.place.id)],
    "items.put": [
        lambda m, k: m.items.put(("a",), "k", 1, vectors={"f": VECTOR}, model="m"),
        lambda m, k: m.items.put(("a",), "known", 1, version=1),
    ],
    "items.put_many": [
        lambda m, k: m.items.put_many(
            [ms.models.PutItem(key=str(n), value=n, vectors={"f": VECTOR}, model="m") for n in range(100)]
        )
    ],
    "items.get": [lambda m, k: m.items.get(("a",), "known"), lambda m, k: m.items.get(("a",), "known", refresh=True)],
    "items.find": [lambda m, k: m.items.find(("a",), "known")],
    "items.get_many": [lambda m, k: m.items.get_many([(("a",), "known")] * 100, refresh=True)],
    "items.delete": [lambda m, k: m.items.delete(("a",), "known")],
    "items.delete_many": [lambda m, k: m.items.delete_many([(("a",), "known")] * 100)],
    "items.clear": [lambda m, k: m.items.clear(("a",))],
    "items.delete_expired": [lambda m, k: m.items.delete_expired()],
    "items.query": [lambda m, k: m.items.query(("a",)), lambda m, k: m.items.query(newest_first=True, refresh=True)],
    "items.search": [
        lambda m, k: m.items.search(VECTOR, model="m"),
        lambda m, k: m.items.search(VECTOR, model="m", prefix=("a",), refresh=True),
    ],
    "items.paths": [lambda m, k: m.items.paths(suffix=[None], max_depth=1)],
    "items.iterate": [lambda m, k: list(m.items.iterate())],
    "items.iterate_vectors": [lambda m, k: list(m.items.iterate_vectors())],
    "items.count": [lambda m, k: m.items.count()],
    "items.batch": [
        lambda m, k: m.items.batch(
            [
                ms.models.GetItem(path=("a",), key="known", refresh=True),
                ms.models.QueryItems(),
                ms.models.SearchItems(vector=VECTOR, model="m"),
                ms.models.ListPaths(),
                ms.models.PutItem(key="new", value=1, vectors={"f": VECTOR}, model="m"),
                ms.models.DeleteItem(path=("a",), key="known"),
            ]
        )
    ],
    "items.import_many": [lambda m, k: m.items.import_many([ms.models.Item(key=str(n), value=n) for n in range(100)])],
    "items.import_vectors": [
        lambda m, k: m.items.import_vectors(
            [ms.models.ItemVector(path=("a",), key="known", model="m", field=str(n), vector=VECTOR) for n in range(100)]
        )
    ],
    "logs.append": [lambda m, k: m.logs.append("log", list(range(100)))],
    "logs.read": [lambda m, k: m.logs.read("log"), lambda m, k: m.logs.read("log", latest=1)],
    "logs.iterate": [lambda m, k: list(m.logs.iterate("log"))],
    "logs.pop": [lambda m, k: m.logs.pop("log")],
    "logs.clear": [lambda m, k: m.logs.clear("log")],
    "logs.list": [lambda m, k: m.logs.list()],
    "logs.count": [lambda m, k: m.logs.count("log")],
    "logs.import_many": [
        lambda m, k: m.logs.import_many([ms.models.LogRecord(log="new", number=n, value=n) for n in range(1, 101)])
    ],
    "relationships.add": [lambda m, k: m.relationships.add(k.episode.id, k.other.id, "blocks", weight=1 / 3)],
    "relationships.add_many": [lambda m, k: m.relationships.add_many(k.relationships())],
    "relationships.import_many": [lambda m, k: m.relationships.import_many(k.relationships())],
    "relationships.get": [lambda m, k: m.relationships.get(k.relationship.id)],
    "relationships.find": [lambda m, k: m.relationships.find(k.relationship.id)],
    "relationships.delete": [lambda m, k: m.relationships.delete(k.relationship.id)],
    "relationships.query": [lambda m, k: m.relationships.query(k.episode.id)],
    "relationships.ancestors": [lambda m, k: m.relationships.ancestors(k.other.id, max_depth=1_000)],
    "relationships.descendants": [lambda m, k: m.relationships.descendants(k.episode.id, None)],
    "relationships.topological_order": [lambda m, k: m.relationships.topological_order(k.episode.id)],
    "relationships.path": [lambda m, k: m.relationships.path(k.episode.id, k.other.id)],
    "relationships.iterate": [lambda m, k: list(m.relationships.iterate())],
    "relationships.count": [lambda m, k: m.relationships.count()],
    "summaries.put": [lambda m, k: m.summaries.put(k.episode.id, "summary", key_steps=["1: t"])],
    "summaries.get": [lambda m, k: m.summaries.get(k.other.id)],
    "summaries.find": [lambda m, k: m.summaries.find(k.episode.id)],
    "summaries.delete": [lambda m, k: m.summaries.delete(k.other.id)],
    "analytics.summary": [lambda m, k: m.analytics.summary()],
    "retention.plan": [lambda m, k: m.retention.plan(ms.RetentionPolicy(max_episodes=1))],
    "analytics.span": [lambda m, k: m.analytics.span()],
    "analytics.by": [lambda m, k: m.analytics.by("tool"), lambda m, k: m.analytics.by("tag", text="words")],
    "analytics.over_time": [lambda m, k: m.analytics.over_time("hour", tz="Europe/Berlin")],
    "analytics.by_stage": [lambda m, k: m.analytics.by_stage()],
    "analytics.trend": [lambda m, k: m.analytics.trend()],
    "analytics.tools": [lambda m, k: m.analytics.tools()],
    "analytics.sequences": [lambda m, k: m.analytics.sequences((1, 10), min_episodes=1, success_reward=0.5)],
    "analytics.failures": [lambda m, k: m.analytics.failures()],
    "analytics.compare": [lambda m, k: m.analytics.compare(ALL_TIME, ALL_TIME, by="tool")],
    "analytics.effectiveness": [lambda m, k: m.analytics.effectiveness()],
    "analytics.attribution": [lambda m, k: m.analytics.attribution(), lambda m, k: m.analytics.attribution("kind")],
    "analytics.unused": [lambda m, k: m.analytics.unused(since=ALL_TIME[1])],
}


def _of_three_statements(block: ms.Transaction, known: Known) -> None:
    with block as tx:
        tx.episodes.get(known.episode.id)
        tx.episodes.count()
        tx.patterns.query()


def _of_three_writes(block: ms.Transaction, known: Known) -> None:
    with block as tx:
        tx.episodes.save(_episode())
        tx.patterns.record_retrieval([one.id for one in known.patterns])
        tx.episodes.complete(known.episode.id, ms.Success(verdict="v"))


def _nothing(block: ms.Transaction) -> None:
    with block:
        pass


def _recall(memory: ms.MemoryStorage, known: Known) -> None:
    assert [one.item.id for one in memory.recall("words")] == [known.other.id]


def _recall_and_keep(memory: ms.MemoryStorage, known: Known) -> None:
    weights = ms.RecallWeights(effectiveness=0.5)
    assert [one.item.id for one in memory.recall("words", keep=True, weights=weights, explore=1)] == [known.other.id]


BLOCKS: dict[str, Case] = {
    "`recall`": _recall,
    "`recall` with `keep=True`": _recall_and_keep,
    "a `transaction()` of 3 statements": lambda m, k: _of_three_writes(m.transaction(), k),
    "a `snapshot()` of 3 statements": lambda m, k: _of_three_statements(m.snapshot(), k),
    "an empty `transaction()`": lambda m, k: _nothing(m.transaction()),
    "`MemoryStorage.open` of a database with the newest schema": lambda m, k: ms.MemoryStorage.open(m.settings).close(),
}


@pytest.fixture
def counted(sqld: Sqld, migrated_server_url: str) -> Iterator[tuple[Proxy, ms.MemoryStorage]]:
    with Proxy(sqld.port) as proxy:
        url = migrated_server_url.replace(f":{sqld.port}/", f":{proxy.port}/")
        with ms.MemoryStorage.open(url) as storage:
            yield proxy, storage


def _count(proxy: Proxy, storage: ms.MemoryStorage, call: Case, namespace: str) -> int:
    memory = storage.in_namespace(namespace)
    known = Known(memory)
    proxy.reset_counts()
    call(memory, known)
    return proxy.round_trips


@pytest.mark.slow
def test_every_read_and_every_write_is_one_round_trip(counted):
    proxy, storage = counted
    found = {
        f"{method} {place}": _count(proxy, storage, call, f"{method} {place}")
        for method, calls in CASES.items()
        for place, call in enumerate(calls)
    }
    assert {method: figure for method, figure in found.items() if figure != 1} == {}


def test_methods_that_may_take_more_are_documented(counted):
    proxy, storage = counted
    calls = {
        "the models, and a page": lambda m, k: next(m.embeddings.iterate()),
        "the model, and the search": lambda m, k: m.episodes.similar_to(VECTOR),
        "to find out that the model is new, to register it, and to store": lambda m, k: m.embeddings.put(
            "episode", k.episode.id, VECTOR, model="new"
        ),
        "the time, the episodes, the evidence, and to store": lambda m, k: m.patterns.learn(
            min_episodes=1, min_lift=0.0, success_reward=0.0
        ),
        "the counts for the first time": lambda m, k: m.patterns.learn(),
        "the checkpoint, and to store": lambda m, k: m.episodes.resume(k.checkpoint.id),
        "the episode, and to store": lambda m, k: m.summaries.summarize(k.episode.id),
        "a page of episodes, and to store those of it": lambda m, k: m.summaries.summarize_many(),
    }
    assert [_count(proxy, storage, call, what) for what, call in calls.items()] == [2, 2, 3, 4, 15, 2, 2, 2]


def test_every_public_method_has_a_case_here(counted):
    _, storage = counted
    found = {name for name in dir(storage) if isinstance(getattr(storage, name), Repository)}
    assert found == {*REPOSITORIES, "conflicts"}  # which a server does not have: see tests/sync
    assert set(_public_methods(storage)) - OTHERS == set(CASES)


def test_blocks_and_opening_cost_as_documented(counted):
    proxy, storage = counted
    found = {what: _count(proxy, storage, call, what) for what, call in BLOCKS.items()}
    assert found == {what: int(figure) for what, figure in _rows_of_the_reference() if what in BLOCKS}


def test_the_reference_names_every_method_and_its_round_trips():
    named = {
        f"{repository}.{method}": int(figure)
        for what, figure in _rows_of_the_reference()
        for repository, methods in re.findall(r"`(\w+)`: ([^;]*)", what)
        for method in re.findall(r"`(\w+)`", methods)
    }
    assert named == dict.fromkeys(CASES, 1)


def test_a_recall_costs_two_round_trips_with_vectors_and_more_without(counted):
    proxy, storage = counted
    embedder = ms.HashingEmbedder()
    with ms.MemoryStorage.open(storage.settings, embedder=embedder) as memory:
        known = Known(memory)
        memory.episodes.save_many([_episode(outcome=ms.Failure(reason="words"))])

        def costs() -> int:
            proxy.reset_counts()
            memory.recall("words")
            return proxy.round_trips

        # Without vectors: the searches that name the missing table, the look-up, and the searches by words only.
        assert costs() == 4
        memory.embeddings.embed(embedder)
        assert costs() == 2
        assert known.other.id in {one.item.id for one in memory.recall("words")}
        assert memory.in_namespace("empty").recall("words").items == ()


def test_a_repeated_import_reads_once_and_writes_nothing(counted):
    proxy, storage = counted
    known = Known(storage)
    for again in (
        lambda: storage.episodes.import_many([known.episode, known.other]),
        lambda: storage.patterns.import_many(known.patterns),
        lambda: storage.embeddings.import_many([storage.embeddings.get("episode", known.episode.id, model="m")]),
        lambda: storage.spatiotemporal.import_many([known.place]),
    ):
        proxy.reset_counts()
        assert again() == 0
        assert proxy.round_trips <= 3


def test_a_page_of_an_iteration_is_one_round_trip(counted):
    proxy, storage = counted
    storage.episodes.save_many([_episode(0) for _ in range(250)])
    proxy.reset_counts()
    assert len(list(storage.episodes.iterate())) == 250
    assert proxy.round_trips == 3


def _rows_of_the_reference() -> list[tuple[str, str]]:
    return re.findall(r"^\| (.+?) \| (\d+)", REFERENCE, re.MULTILINE)
