"""Query plans: no query of a repository scans a table, whatever its filters."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, get_args
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.dbapi import Batch, BatchStep
from memory_storage.models import EpisodeFilter, PatternFilter
from memory_storage.sql.indexing import RECENT_STEPS

from .spy import own_steps, spied

NOW = datetime(2026, 11, 22, tzinfo=timezone.utc)
EPISODES, PATTERNS, PAIRS, LARGER = 2_000, 500, 60, 60

EPISODE_FILTERS: dict[str, list[Any]] = {
    "task_type": ["debugging"],
    "domain": ["domain-1"],
    "language": ["python"],
    "framework": ["django"],
    "complexity": ["simple"],
    "outcome": ["success"],
    "completed": [True, False],
    "tags_any": [["tag-1"], ["tag-1", "tag-2"]],
    "tags_all": [["tag-1", "tag-2"]],
    "metadata": [
        {"number": 3},
        {"even": True, "text": "x" * 300},
        {"number": {"$in": [3, "3", None]}},
        {"number": {"$in": [*map(str, range(20)), 1.5]}},
        {"$or": [{"number": 3}, {"even": False, "retry.count": {"$gte": 2}}]},
        {"retry.count": {"$gte": 2, "$lt": 9.5}, "labels": {"$contains": "a"}, "$not": {"number": 3}},
    ],
    "min_reward": [0.9],
    "max_reward": [0.1],
    "since": [NOW - timedelta(hours=5)],
    "until": [NOW - timedelta(hours=500)],
    "completed_since": [NOW - timedelta(hours=5)],
    "completed_until": [NOW - timedelta(hours=500)],
    "archived": [True, False, None],
    "child_of": [UUID(int=0)],
    "recalled": [UUID(int=1)],
    "used": [UUID(int=1)],
    "text": ["flaky refresh", '"token refresh" pytest*'],
}
PATTERN_FILTERS: dict[str, list[Any]] = {
    "kind": ["heuristic"],
    "domain": ["domain-1"],
    "domain_or_general": ["domain-1"],
    "language": ["python"],
    "tags_any": [["tag-1", "tag-2"]],
    "tags_all": [["tag-1", "tag-2"]],
    "min_success_rate": [0.9],
    "min_occurrences": [3],
}


def test_every_filter_is_tried():
    assert set(EPISODE_FILTERS) == set(EpisodeFilter.model_fields)
    assert set(PATTERN_FILTERS) == set(PatternFilter.model_fields)


@pytest.fixture(scope="module")
def filled() -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(":memory:") as storage:
        for first in range(0, EPISODES, 500):
            storage.episodes.save_many([_episode(number) for number in range(first, first + 500)])
        storage.patterns.save_many([_pattern(number) for number in range(PATTERNS)])
        storage.embeddings.put("episode", storage.episodes.query(limit=1).items[0].id, VECTOR, model="m")
        yield storage


def _episode(number: int) -> ms.Episode:
    started = NOW - timedelta(hours=number)
    context = ms.TaskContext(language="python", framework="django", domain=f"domain-{number % 5}")
    done = {
        "outcome": ms.Success(verdict="fine"),
        "completed_at": started,
        "reward": ms.RewardScore(total=number / EPISODES),
    }
    return ms.Episode(
        task_description=f"Fix the flaky token refresh {number}",
        context=context,
        started_at=started,
        tags=[f"tag-{number % 7}", f"tag-{number % 7 + 1}"],
        metadata={"number": number, "even": number % 2 == 0},
        steps=[ms.Step(tool="pytest", action="run")],
        **(done if number % 3 else {}),
    )


def _pattern(number: int) -> ms.Heuristic:
    return ms.Heuristic(
        condition="if",
        action="then",
        context=ms.TaskContext(language="python", domain=f"domain-{number % 5}"),
        tags=[f"tag-{number % 7}"],
        success_rate=number / PATTERNS,
    )


def combinations(filters: dict[str, list[Any]]) -> Iterator[dict[str, Any]]:
    """None, each alone, and many of several together; the same ones every time."""
    single = [{name: value} for name, values in filters.items() for value in values]
    yield {}
    yield from single
    chosen = random.Random(1)
    pairs = [{**one, **other} for one, other in itertools.combinations(single, 2) if one.keys() != other.keys()]
    yield from chosen.sample(pairs, min(PAIRS, len(pairs)))
    for _ in range(LARGER):
        names = chosen.sample(sorted(filters), chosen.randint(3, min(6, len(filters))))
        yield {name: chosen.choice(filters[name]) for name in names}


@pytest.mark.slow
def test_queries_for_episodes_scan_no_table(filled: ms.MemoryStorage):
    with spied(filled.engine) as batches:
        for number, filters in enumerate(combinations(EPISODE_FILTERS)):
            direction = ("newest_first", "oldest_first")[number % 2]
            other: dict[str, Any] = {"direction": direction, "limit": 2, "steps": number % 3 > 0}
            page = filled.episodes.query(**filters, **other)
            next_page = filled.episodes.query(**filters, **other, cursor=page.next_cursor)
            filled.episodes.query(**filters, **other, cursor=next_page.previous_cursor)
            filled.episodes.count(**filters)
    _assert_no_scans(filled, (step for batch in batches for step in own_steps(batch)))


@pytest.mark.parametrize("archived", [False, None])
# The numbers of metadata are in the documents; the children of an episode are found by their ids.
@pytest.mark.parametrize("name", sorted(EPISODE_FILTERS.keys() - {"metadata", "child_of"}))
def test_episodes_are_counted_in_an_index(filled: ms.MemoryStorage, name: str, archived: bool | None):
    with spied(filled.engine) as batches:
        for value in EPISODE_FILTERS[name]:
            filled.episodes.count(**{"archived": archived, name: value})
        filled.episodes.count(archived=archived)
    for batch in batches:
        (read,) = [line for line in _plan(filled, batch.steps[-1]) if line.startswith("SEARCH episodes ")]
        assert "USING COVERING INDEX" in read


INDEXED: list[dict[str, Any]] = [
    {"number": {"$eq": 3}},
    {"text": {"$in": ["a", "b"]}},
    {"number": {"$in": list(range(50))}},
    {"text": {"$in": list(map(str, range(50)))}},
    {"$or": [{"number": 3}, {"text": "a"}, {"even": True, "number": {"$lt": 9}}]},
    {"$and": [{"$or": [{"number": 3}, {"number": 4}]}, {"retry.count": {"$gt": 1}}]},
    {"http\\.status": 500},
    {"number": 3, "retry.count": {"$gt": 1}, "even": {"$ne": True}},
]
BY_ROW: list[dict[str, Any]] = [
    {"retry.count": 3},
    {"number": {"$gte": 3}},
    {"labels": {"$contains": "a"}},
    {"number": {"$ne": 3}},
    {"$or": [{"number": 3}, {"retry.count": 3}]},
    {"$not": {"number": 3}},
]


@pytest.mark.parametrize("metadata", INDEXED, ids=str)
def test_equality_of_top_level_metadata_is_read_from_facets(filled: ms.MemoryStorage, metadata: dict[str, Any]):
    assert _reads_facets(filled, metadata)


@pytest.mark.parametrize("metadata", BY_ROW, ids=str)
def test_other_metadata_is_tested_row_by_row(filled: ms.MemoryStorage, metadata: dict[str, Any]):
    assert not _reads_facets(filled, metadata)
    assert _reads_facets(filled, {"$and": [metadata, {"text": "a"}]})


def _reads_facets(storage: ms.MemoryStorage, metadata: dict[str, Any]) -> bool:
    with spied(storage.engine) as batches:
        storage.episodes.count(metadata=metadata)
    (batch,) = batches
    facets = [line for line in _plan(storage, batch.steps[-1]) if line.startswith("SEARCH facets ")]
    assert all("(namespace=? AND owner_type=? AND name=? AND value=?)" in line for line in facets)
    return bool(facets)


def test_queries_for_patterns_scan_no_table(filled: ms.MemoryStorage):
    with spied(filled.engine) as batches:
        for filters in combinations(PATTERN_FILTERS):
            page = filled.patterns.query(**filters, limit=2)
            next_page = filled.patterns.query(**filters, limit=2, cursor=page.next_cursor)
            filled.patterns.query(**filters, limit=2, cursor=next_page.previous_cursor)
            filled.patterns.count(**filters)
    _assert_no_scans(filled, (step for batch in batches for step in own_steps(batch)))


VECTOR = [1.0] * 384

POINT = ms.Point(latitude=1.0, longitude=179.9)
BOX = ms.Box(south=-1.0, west=170.0, north=90.0, east=-170.0)
DAY = ms.Interval(starts_at=NOW, ends_at=NOW + timedelta(days=1))


@pytest.mark.slow
def test_searches_by_region_scan_no_table(filled: ms.MemoryStorage):
    with spied(filled.engine) as batches:
        for number, filters in enumerate(combinations(EPISODE_FILTERS)):
            between = (None, DAY)[number % 2]
            direction = ("newest_first", "oldest_first")[number // 2 % 2]
            for places in (filled.spatiotemporal, filled.spatiotemporal.episodes):
                places.within(BOX, between=between, direction=direction, limit=2, **filters)
                places.near(POINT, 5e6, between=between, limit=2, **filters)
                places.nearest(POINT, 3, between=between, **filters)
                places.during(DAY, direction=direction, **filters)
                places.overlapping(DAY, direction=direction, **filters)
                places.as_of(NOW, direction=direction, **filters)
    _assert_no_scans(filled, (step for batch in batches for step in own_steps(batch)))


def test_the_next_pages_of_searches_by_region_scan_no_table(filled: ms.MemoryStorage):
    episode = filled.episodes.save(_episode(1))
    filled.spatiotemporal.put_many(
        [
            ms.SpatiotemporalEntry(
                owner_type="episode", owner_id=episode.id, latitude=n / 10, longitude=1.0, starts_at=NOW, ongoing=True
            )
            for n in range(5)
        ]
    )
    with spied(filled.engine) as batches:
        for places in (filled.spatiotemporal, filled.spatiotemporal.episodes):
            for page in (
                lambda places=places, **more: places.within(BOX.model_copy(update={"west": 0.0}), limit=1, **more),
                lambda places=places, **more: places.near(POINT, 5e7, limit=1, **more),
                lambda places=places, **more: places.overlapping(DAY, limit=1, **more),
            ):
                first = page()
                cursor = first.next_cursor or _backwards(first, filled)
                second = page(cursor=cursor)
                page(cursor=second.previous_cursor or cursor)
    _assert_no_scans(filled, (step for batch in batches for step in own_steps(batch)))


def _backwards(page: ms.Page[Any], storage: ms.MemoryStorage) -> str:
    """A cursor for a page that is the only one: as if there were something after it."""
    return storage.episodes.query(limit=1).next_cursor or ""


OTHERS: dict[str, Callable[[ms.MemoryStorage, ms.Episode, Any], object]] = {
    "episodes by id": lambda s, e, p: (s.episodes.get(e.id), s.episodes.get(e.id, steps=False)),
    "episodes by prefix": lambda s, e, p: (s.episodes.resolve_id(e.id), s.episodes.short_ids([e.id])),
    "steps by id": lambda s, e, p: s.steps.get(e.steps[0].id),
    "steps of an episode": lambda s, e, p: (s.steps.range(e.id), s.steps.latest(e.id), list(s.steps.iterate(e.id))),
    "steps counted": lambda s, e, p: (s.steps.count(), s.steps.count(e.id)),
    "patterns by id": lambda s, e, p: s.patterns.get(p.id),
    "patterns by prefix": lambda s, e, p: (s.patterns.resolve_id(p.id), s.patterns.short_ids([p.id])),
    "embeddings": lambda s, e, p: (
        s.embeddings.find("episode", e.id, model="m"),
        list(s.embeddings.iterate()),
        s.embeddings.count(),
    ),
    "searches for episodes": lambda s, e, p: (
        s.episodes.similar_to(VECTOR, model="m"),
        s.episodes.similar_to(VECTOR, model="m", mode="index", outcome="success", tags_all=["a"], metadata={"b": 1}),
        s.episodes.similar_to(VECTOR, model="m", min_similarity=0.5, since=e.started_at, min_reward=0.5),
        s.episodes.search("words", domain="general"),
        s.episodes.search("words", vector=VECTOR, model="m", task_type="other"),
    ),
    "searches for patterns": lambda s, e, p: (
        s.patterns.similar_to(VECTOR, model="m", kind="heuristic"),
        s.patterns.search("words", vector=VECTOR, model="m", tags_any=["a"]),
    ),
    "places": lambda s, e, p: (
        s.spatiotemporal.find(e.id),
        s.spatiotemporal.for_owner("episode", e.id),
        list(s.spatiotemporal.iterate()),
        s.spatiotemporal.count(),
    ),
    "places by owner and by time": lambda s, e, p: (
        s.spatiotemporal.timeline("episode", e.id),
        s.spatiotemporal.timeline("step", e.id, between=ms.Interval(starts_at=NOW), direction="newest_first"),
        s.spatiotemporal.trajectory(e.id),
        s.spatiotemporal.put_many([ms.SpatiotemporalEntry(owner_type="episode", owner_id=e.id, place_name="here")]),
    ),
    "episodes by time": lambda s, e, p: (
        *(s.spatiotemporal.hierarchy(unit=by, tz="Europe/Berlin") for by in ("hour", "day", "week", "month")),
        s.spatiotemporal.hierarchy(domain="domain-1", tags_any=["tag-1"], text="refresh", since=NOW),
        s.spatiotemporal.diverse(3, unit="week", outcome="success", metadata={"number": 3}),
        s.spatiotemporal.diverse(3, steps=False),
    ),
    "figures": lambda s, e, p: (
        s.analytics.summary(),
        s.analytics.span(),
        *(s.analytics.by(dimension) for dimension in get_args(ms.models.Dimension)),
        s.analytics.by("tool", domain="domain-1", tags_any=["tag-1"], metadata={"even": True}, text="flaky"),
        s.analytics.over_time("day"),
        s.analytics.over_time("hour", outcome="success", min_reward=0.5),
        s.analytics.by_stage(),
        s.analytics.trend(language="python"),
        s.analytics.tools(),
        s.analytics.sequences((1, 3), success_reward=0.5),
        s.analytics.failures(),
        s.analytics.compare((NOW - timedelta(hours=9), NOW), (NOW, NOW + timedelta(hours=9)), by="tool"),
        s.analytics.effectiveness(),
        s.analytics.unused(since=NOW),
    ),
    "writes to an episode": lambda s, e, p: (
        s.episodes.append_step(e.id, ms.Step(tool="t")),
        s.episodes.complete(e.id, ms.Success(verdict="v")),
        s.episodes.archive(e.id),
        s.episodes.restore(e.id),
        s.embeddings.put("episode", e.id, VECTOR, model="m"),
        s.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type="episode", owner_id=e.id, latitude=1, longitude=2)),
        s.spatiotemporal.put(ms.SpatiotemporalEntry(owner_type="episode", owner_id=e.id, latitude=1 / 3, longitude=2)),
        s.embeddings.delete("episode", e.id, model="m"),
        s.steps.delete(e.steps[0].id),
        s.episodes.save(s.episodes.get(e.id)),
        s.episodes.save_many(
            [_episode(n).model_copy(update={"reward": ms.RewardScore(total=1 / 3)}) for n in range(3)]
        ),
        s.episodes.import_many([e.model_copy(update={"id": ms.Episode(task_description="").id, "steps": []})]),
        s.episodes.delete(e.id),
    ),
    "writes to a pattern": lambda s, e, p: (
        s.patterns.record_retrieval(p.id),
        s.patterns.record_application(p.id, success=True),
        s.patterns.merge(p.id, s.patterns.save(_pattern(1)).id),
        s.patterns.learn(lengths=(1, 1), min_lift=0.0),
        s.patterns.save(_pattern(1).model_copy(update={"success_rate": 1 / 3})),
        s.patterns.save(s.patterns.get(p.id)),
        s.patterns.delete(p.id),
    ),
    "what goes by a policy": lambda s, e, p: (
        s.retention.plan(POLICY),
        s.in_namespace("other").episodes.save_many([_episode(n) for n in range(3)]),
        s.in_namespace("other").retention.apply(POLICY, sleep=lambda _: None),
    ),
    "one that is forgotten, and one that was": lambda s, e, p: (
        s.patterns.save(_pattern(1).model_copy(update={"evidence": [e.id]})),
        s.forget(episode=e.id, scrub=False),
        s.episodes.import_many([e]),
    ),
    "one that needs room": lambda s, e, p: ms.MemoryStorage(
        s.engine,
        s.settings.model_copy(update={"namespace": "small", "limits": ms.Limits(max_episodes=1, when_full="evict")}),
    ).episodes.save(_episode(1)),
}
POLICY = ms.RetentionPolicy(max_age=timedelta(days=9), min_reward=2.0, max_bytes=10, keep_tagged=["tag-1"])


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_statements_scan_no_table(filled: ms.MemoryStorage, name: str):
    episode, pattern = filled.episodes.save(_episode(1)), filled.patterns.save(_pattern(1))
    with spied(filled.engine) as batches:
        OTHERS[name](filled, episode, pattern)
    _assert_no_scans(filled, (step for batch in batches for step in own_steps(batch)))


SORTED_BY_NUMBER: dict[str, Callable[[ms.MemoryStorage], object]] = {
    **{name: lambda s, name=name: s.analytics.by(name) for name in get_args(ms.models.Dimension)},
    "a period and a dimension": lambda s: s.analytics.compare(
        (NOW - timedelta(1), NOW), (NOW, NOW + timedelta(1)), by="tool"
    ),
    "tools": lambda s: s.analytics.tools(),
    "sequences": lambda s: s.analytics.sequences((1, 3)),
}


@pytest.mark.parametrize("name", SORTED_BY_NUMBER)
def test_no_rows_are_sorted_by_a_text(filled: ms.MemoryStorage, name: str):
    # SQLite hears no interrupt while it sorts: the rows come in order, by an index.
    with spied(filled.engine) as batches:
        SORTED_BY_NUMBER[name](filled)
    step = next(step for batch in batches for step in batch.steps if "GROUP BY name_number" in step.sql)
    assert re.search(r"SEARCH (used|grouped|by_episode) USING AUTOMATIC", "\n".join(_plan(filled, step)))


def _assert_no_scans(storage: ms.MemoryStorage, steps: Iterable[BatchStep]) -> None:
    asked = {step.sql: step for step in steps}
    assert asked
    for sql, step in asked.items():
        plan = _plan(storage, step)
        scans = [line for line in plan if _is_scan(line) or _leaves_the_namespace(line)]
        assert not scans, f"{scans} in\n{sql}\nwhose plan is\n" + "\n".join(plan)


def _plan(storage: ms.MemoryStorage, step: BatchStep) -> list[str]:
    with storage.engine.connect() as connection:
        connection.exec_driver_sql(Batch(RECENT_STEPS))
        rows = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {step.sql}", tuple(step.parameters))
        return [detail for *_, detail in rows]


def _is_scan(line: str) -> bool:
    """Whether it reads all rows of a table. JSON that was given, and rows found before, are read whole of course."""
    return line.startswith("SCAN") and not _ALLOWED.match(line)


def _leaves_the_namespace(line: str) -> bool:
    """Whether it reads a range of an index that other namespaces' rows are in."""
    return line.startswith("SEARCH") and not _WITHIN.search(line)


_WITHIN = re.compile(
    r"""\((namespace|rowid|digest|item_seq|episode_seq|name|token|owner_seq)=\?
        | \(model=\?\ AND\ vector_seq=\?  # the owners of one vector
        | ^SEARCH\ vectors_\w+(\ USING\ INTEGER.*)?$  # one vector
        | ix_embeddings_model\ \(namespace[<>]  # whether there is another namespace
        | ux_sync_changes_(key\ \(kind=\?\ AND\ namespace=\?|row\ \(kind=\?\ AND\ seq=\?)
        | ix_forgotten_unfinished  # those that are gone in part
        | ^SEARCH\ (episodes|patterns)$  # max(seq): one row
        | ^SEARCH\ ((episode|pattern)_texts|temp.recent_words_docsize)\ .*\(rowid>\?\ AND\ rowid<\?\)  # a namespace's
        | ^SEARCH\ (\(subquery-\d+\)|cuts|counted|frequencies)  # what a search has found so far
        | ^SEARCH\ (used|grouped|by_episode|selected)\ USING\ AUTOMATIC  # what analytics have found
        | VIRTUAL\ TABLE""",
    re.VERBOSE,
)


_ALLOWED = re.compile(
    r"""SCAN\ (
        (\d+\ )?CONSTANT\ ROWS? | \d+-ROW\ VALUES\ CLAUSE  # values that were given
        | (page | given | g | next | listed | sized | led | portion | erased | u
            | \(subquery-\d+\))$  # found by an index, or given
        | sqlite_sequence$  # a row for each model
        | (sqlite_master | schema_tables)$ | schema_columns\ VIRTUAL  # the schema, which no episode makes larger
        | (draws | sample_matches | strategy | candidates | candidate_rows | compared | filtered | exact_scan | similar
            | matches | text_matches | terms | span | cuts | frequencies | counted | places | p | w | parts | found
            | passages
            | query)$  # what a search has found so far
        | (period | selected | grouped | measured | used | ranked | windows | totals | by_episode | occurrences
            | centred | with_following | placed | names | changed
            | facts)$  # the episodes that analytics have found, and what they have
        | (judged | counted)$  # and a policy
        | (c | episode_changes)$  # the episodes that are not indexed yet
        | \w+\ USING\ COVERING\ INDEX\ vectors_\w+_tail$  # vectors that are not indexed yet
        | vector_models\b  # a row for each model
        | \w+(\ EXISTS)?\ VIRTUAL\ TABLE\ INDEX\ [13]:$  # json_each, with its argument; an index of vectors
        | r\ VIRTUAL\ TABLE\ INDEX\ 2:\w+$  # an R*Tree, with bounds
        | (b | at | a | levels | turned | search | reach | z | found | in_\w+)$  # what a search by region has so far
        | \w+_words\ VIRTUAL\ TABLE\ INDEX\ \d+:.*M\d  # full text, with a MATCH
        | temp\.recent_words\ VIRTUAL  # texts that are not in the full-text index yet
        )""",
    re.VERBOSE,
)


def test_walks_and_children_are_looked_up_in_indexes(filled: ms.MemoryStorage):
    episodes, relationships = filled.episodes, filled.relationships
    ids = [one.id for one in episodes.query(limit=3)]
    for kind in ("parent_child", "related_to"):
        relationships.add(ids[0], ids[1], kind)
    calls: list[Callable[[], object]] = [
        lambda: episodes.query(child_of=ids[0]),
        lambda: episodes.count(child_of=ids[0], archived=None, domain="domain-1"),
        lambda: list(episodes.iterate(child_of=ids[0])),
        lambda: relationships.add(ids[1], ids[2], "parent_child"),
        lambda: relationships.topological_order(ids[0]),
    ]
    for kind in ("parent_child", None):
        calls += [
            partial(relationships.query, ids[0], kind=kind),
            partial(relationships.ancestors, ids[0], kind),
            partial(relationships.descendants, ids[0], kind),
            partial(relationships.path, ids[0], ids[1], kind),
        ]
    for call in calls:
        with spied(filled.engine) as batches:
            call()
        for step in (step for batch in batches for step in own_steps(batch)):
            lines = _plan(filled, step)
            read = [line for line in lines if re.search(r"\b(relationships|episodes|r|e|child|source|target)\b", line)]
            assert read, lines
            for line in read:
                assert line.startswith("SEARCH "), line
                assert re.search(r"\((rowid=\?|namespace=\? AND \w+=\?)", line), line
