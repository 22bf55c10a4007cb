"""Every argument of every public method takes a value of a wrong type, and refuses it with an error of this package."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, timezone
from itertools import islice
from typing import Any
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage._deprecation import RenamedAttribute
from memory_storage.models import EpisodeFilter, PatternFilter

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)
NAIVE = NOW.replace(tzinfo=None)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels):
        value = {"a": value}
    return value


DEEP = nested(3_000)
WRONG = [
    *(None, "x", "", 5, -1, 1.5, float("nan"), float("inf"), 10**400, True),
    *({}, {"a": 1}, [], [None], (1, 2), b"x", object(), NAIVE, lambda *_: 1, "\0", DEEP),
]
# What is not called with wrong types: it ends the storage, opens another, or has no arguments of a caller's.
APART = {"MemoryStorage.open", "MemoryStorage.close", "CircuitBreaker.record", "CircuitBreaker.recheck"}


@pytest.fixture
def right() -> Iterator[dict[str, Any]]:
    """A storage, and a right value for each argument that a method needs."""
    with ms.MemoryStorage.open(":memory:") as storage:
        episode = storage.episodes.save(
            ms.Episode(task_description="fix it", steps=[ms.Step(tool="t", result=ms.StepOk())])
        )
        other = storage.episodes.save(ms.Episode(task_description="do that too"))
        pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
        embedder = ms.HashingEmbedder()
        storage.embeddings.embed(embedder)
        yield {
            "storage": storage,
            "actor": "a",
            "after": (NOW, NOW + timedelta(1)),
            "before": (NOW - timedelta(1), NOW),
            "checkpoint_id": storage.episodes.checkpoint(episode.id, "label").id,
            "checkpoints": [],
            "label": "label",
            "steps": [ms.Step(tool="t")],
            "box": ms.Box(south=0, north=1, west=0, east=1),
            "by": "day",
            "dimension": "tool",
            "embedder": embedder,
            "embeddings": [],
            "entries": [],
            "entry": ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, latitude=1, longitude=2),
            "entry_id": uuid4(),
            "episode": episode,
            "episode_id": episode.id,
            "episode_ids": [episode.id],
            "episodes": [],
            "registered": storage.embeddings.index._named(embedder.model)[0],
            "interval": ms.Interval(),
            "items": [],
            "listener": print,
            "model": embedder.model,
            "moment": NOW,
            "namespace": "n",
            "other_id": pattern.id,
            "outcome": ms.Success(verdict="v"),
            "owner_id": episode.id,
            "owner_ids": [episode.id],
            "owner_type": "episode",
            "pattern": pattern,
            "pattern_id": pattern.id,
            "pattern_ids": [pattern.id],
            "patterns": [],
            "plan": ms.RetentionPolicy(max_episodes=10),
            "from_id": episode.id,
            "kind": "blocks",
            "relationship_id": uuid4(),
            "relationships": [],
            "to_id": other.id,
            "prefix": str(episode.id)[:8],
            "point": ms.Point(latitude=1, longitude=2),
            "policy": ms.RetentionPolicy(max_episodes=10),
            "radius_m": 10.0,
            "since": NOW,
            "source": "exact",
            "step": ms.Step(tool="t"),
            "step_id": episode.steps[0].id,
            "success": True,
            "task": "fix it",
            "text": "fix",
            "vector": embedder.embed_query("fix"),
            "work": lambda tx: None,
        }


def _public(storage: ms.MemoryStorage) -> Iterator[tuple[str, Callable[..., Any]]]:
    """The methods of a storage, its repositories and what those hold."""
    objects = [storage, storage.circuit_breaker, storage.spatiotemporal.episodes, storage.embeddings.index]
    objects += [getattr(storage, name) for name in ("episodes", "steps", "patterns", "embeddings", "spatiotemporal")]
    objects += [storage.relationships, storage.checkpoints, storage.summaries]
    for owner in [*objects, storage.analytics, storage.retention]:
        for name in dir(type(owner)):
            is_no_method = isinstance(inspect.getattr_static(type(owner), name), property | RenamedAttribute)
            if not name.startswith("_") and not is_no_method and callable(getattr(owner, name)):
                full_name = f"{type(owner).__name__}.{name}"
                if full_name not in APART:
                    yield full_name, getattr(owner, name)


def _arguments(method: Callable[..., Any]) -> tuple[list[str], list[str]]:
    """The names of all arguments, filters included, and of those that have no default."""
    parameters = inspect.signature(method).parameters.values()
    names = [one.name for one in parameters if one.kind is not one.VAR_KEYWORD]
    needed = [one.name for one in parameters if one.default is one.empty and one.kind is not one.VAR_KEYWORD]
    for one in parameters:
        if one.kind is one.VAR_KEYWORD:
            names += (PatternFilter if "Pattern" in str(one.annotation) else EpisodeFilter).model_fields
    return names, needed


def _call(method: Callable[..., Any], arguments: dict[str, Any]) -> ms.MemoryStorageError | None:
    """Call it, and take a few items if it is an iterator; its error, if that is one of this package."""
    try:
        result = method(**arguments)
        if hasattr(result, "__next__"):
            list(islice(result, 3))
    except ms.MemoryStorageError as error:
        return error
    return None


@pytest.mark.slow
def test_every_argument_refuses_a_wrong_type(right: dict[str, Any]):
    calls = 0
    for name, method in _public(right["storage"]):
        arguments, needed = _arguments(method)
        for argument in arguments:
            for number, wrong in enumerate(WRONG):
                given = {one: right[one] for one in needed} | {argument: wrong}
                calls += 1
                try:
                    error = _call(method, given)
                except Exception as leak:  # noqa: BLE001 - which one it is, is what the test asks
                    pytest.fail(f"{name}({argument}=WRONG[{number}]) raised {type(leak).__name__}: {leak}")
                if isinstance(error, ms.ValidationError):
                    assert error.field, (name, argument, number)
                elif error is not None:  # a string may be the name of a missing row or model
                    assert type(error) in {ms.NotFoundError, ms.ConflictError, ms.ConfigurationError}, (name, error)
    assert calls > 5_000


def _refusal(call: Callable[[], object]) -> ms.ValidationError:
    with pytest.raises(ms.ValidationError) as caught:
        call()
    return caught.value


@pytest.mark.parametrize("levels", [200, 254, 256, 500, 1_000, 3_000, 100_000])
def test_metadata_that_is_nested_too_deep_is_refused_by_name(right: dict[str, Any], levels: int):
    error = _refusal(lambda: right["storage"].episodes.save(ms.Episode(task_description="d", metadata=nested(levels))))
    assert error.field == "metadata"
    assert "nested too deep" in str(error.limit)


def test_nesting_of_a_hundred_levels_is_stored(storage: ms.MemoryStorage):
    saved = storage.episodes.save(ms.Episode(task_description="d", metadata=nested(100)))
    assert storage.episodes.get(saved.id).metadata == nested(100)


def test_a_filter_of_too_many_metadata_keys_is_refused(storage: ms.MemoryStorage):
    keys = {f"key {number}": number for number in range(999)}
    some = dict(list(keys.items())[:100])
    storage.episodes.save(ms.Episode(task_description="d", metadata=some))
    assert storage.episodes.count(metadata=some) == 1
    assert len(storage.episodes.search("d", metadata=some)) == 1
    for call in (storage.episodes.count, storage.episodes.query, lambda **f: storage.episodes.search("d", **f)):
        error = _refusal(lambda call=call: call(metadata=keys))
        assert (error.field, error.limit, error.value) == ("metadata", "at most 100 keys at once", 999)


def test_a_bare_function_is_refused_as_an_embedder_with_advice(right: dict[str, Any]):
    storage = right["storage"]
    for call in (
        lambda: storage.embeddings.embed(lambda texts: []),
        lambda: storage.embeddings.reembed("m", lambda texts: []),
        lambda: storage.episodes.search("fix", embedder=lambda texts: []),
        lambda: storage.patterns.search("fix", embedder=lambda texts: []),
    ):
        error = _refusal(call)
        assert error.field == "embedder"
        assert "FunctionEmbedder(function, model=...)" in str(error.limit)


def test_an_embedder_that_returns_no_vectors_is_refused(right: dict[str, Any]):
    for returned, field in [(5, "vectors"), (None, "vectors"), ([], "vectors"), (["x"], "vector")]:
        embedder = ms.FunctionEmbedder(lambda texts, returned=returned: returned, model="m")
        right["storage"].episodes.save(ms.Episode(task_description="another"))
        assert (
            _refusal(lambda embedder=embedder: right["storage"].episodes.search("x", embedder=embedder)).field == field
        )


def test_weights_in_a_mapping_are_refused_with_an_example(right: dict[str, Any]):
    for search in (right["storage"].episodes.search, right["storage"].patterns.search):
        error = _refusal(lambda search=search: search("fix", weights={"recency": 1.0}))
        assert error.field == "weights"
        assert "like Weights(text=1.0" in str(error.limit)
    assert _refusal(lambda: ms.Weights(reward=1e300)).field == "weights.reward"


def test_naive_datetimes_are_refused_everywhere():
    for call in (
        lambda storage: storage.episodes.save(ms.Episode(task_description="d")),
        lambda storage: storage.analytics.over_time(),
        lambda storage: storage.analytics.effectiveness(),
        lambda storage: storage.retention.plan(ms.RetentionPolicy(max_episodes=1)),
        lambda storage: storage.health_check(),
        lambda storage: storage.episodes.search("d"),
    ):
        with ms.MemoryStorage.open(":memory:", now=lambda: NAIVE) as storage:
            assert _refusal(lambda call=call, storage=storage: call(storage)).field == "now"
    with ms.MemoryStorage.open(":memory:") as storage:
        error = _refusal(lambda: storage.retention.plan(ms.RetentionPolicy(max_episodes=1), now=NAIVE))
        assert error.field == "now"
        assert "datetime.now(timezone.utc)" in str(error.limit)
        assert _refusal(lambda: storage.analytics.unused(since=NAIVE)).field == "since"


def test_statistics_of_extreme_rewards_can_be_written_as_json(storage: ms.MemoryStorage):
    for hour, reward in enumerate((1.7e308, 1.7e308, -1.7e308, 1.7e308, 1e200)):
        episode = storage.episodes.save(
            ms.Episode(
                task_description=f"large {hour}",
                started_at=NOW + timedelta(hours=hour),
                steps=[ms.Step(tool="t", result=ms.StepOk())],
            )
        )
        storage.episodes.complete(
            episode.id, ms.Success(verdict="v"), reward=reward, completed_at=NOW + timedelta(hours=hour + 1)
        )
    analytics, day = storage.analytics, timedelta(days=1)
    tables = [
        analytics.by("tool"),
        analytics.by_stage(2),
        analytics.over_time(since=NOW, until=NOW + day),
        analytics.compare((NOW - day, NOW), (NOW, NOW + day)),
        analytics.compare((NOW, NOW + day / 12), (NOW + day / 12, NOW + day)),
        analytics.sequences(1, min_episodes=1),
    ]
    for table in tables:
        assert "Infinity" not in table.to_json()
        assert "NaN" not in table.to_json()
    trend = analytics.trend()
    assert (trend.episodes, trend.slope_per_day, trend.low, trend.high) == (5, None, None, None)
    assert all(figures.mean_reward is None for figures in analytics.summary().outcomes.values())
    found, cursor = [], None
    while True:
        hits = storage.episodes.search("large", k=2, weights=ms.Weights(reward=1e9), cursor=cursor)
        found += [hit.item.id for hit in hits]
        cursor = hits.next_cursor
        if cursor is None:
            break
    assert len(found) == len(set(found)) == 5
