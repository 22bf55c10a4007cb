"""The results of each public read method as JSON, by labels that do not depend on method names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID

from pydantic import BaseModel

import memory_storage as ms

START = datetime(2026, 3, 1, 8, 30, tzinfo=timezone.utc)
NOW = START + timedelta(days=60)
SMALL, WIDE = "small-model", "wide/model"
QUERY = {SMALL: [0.9, 0.1, -0.2, 0.3, 0.0, 0.5, -0.7, 0.2], WIDE: [(i % 5 - 2) / 7 for i in range(16)]}
SYDNEY = ms.Point(latitude=-33.87, longitude=151.21)
AROUND_SYDNEY = ms.Box(south=-40, west=140, north=-20, east=160)
MARCH = ms.Interval(starts_at=START, ends_at=START + timedelta(days=10))


def plain(value: Any) -> Any:
    """The value as JSON has it: models and rows as objects, moments and ids as strings."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, ms.Hits):
        return {"hits": [plain(hit) for hit in value], "next_cursor": value.next_cursor}
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value) if field.name != "row_type"}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, (list, tuple, set, Iterator)):
        return [plain(one) for one in value]
    return value


def pages(read: Callable[..., Any], **arguments: Any) -> list[Any]:
    """All pages, and back from the last to the first."""
    found, cursor = [], None
    while True:
        found.append(page := read(cursor=cursor, **arguments))
        cursor = page.next_cursor
        if cursor is None:
            break
    cursor = getattr(page, "previous_cursor", None)
    while cursor is not None:
        found.append(page := read(cursor=cursor, **arguments))
        cursor = page.previous_cursor
    return found


def reads(storage: ms.MemoryStorage) -> dict[str, Any]:
    """What each public read method returns for this namespace."""
    return {label: plain(value) for part in PARTS for label, value in part(storage)}


def _of_episodes(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    episodes = storage.episodes
    ids = sorted(episode.id for episode in episodes.iterate(archived=None))
    yield "episodes.get", [episodes.get(one) for one in ids]
    yield "episodes.get without steps", [episodes.get(one, steps=False) for one in ids]
    yield "episodes.find", episodes.find(UUID(int=1))
    yield "episodes.iterate", episodes.iterate()
    yield "episodes.iterate oldest", episodes.iterate(direction="oldest_first", archived=None, steps=False)
    yield "episodes.query pages", pages(episodes.query, limit=7, steps=False)
    yield "episodes.query oldest pages", pages(episodes.query, limit=7, direction="oldest_first", steps=False)
    filters: dict[str, dict[str, Any]] = {
        "type": {"task_type": "debugging"},
        "domain": {"domain": "web-api"},
        "language": {"language": "python"},
        "framework": {"framework": "flask"},
        "complexity": {"complexity": "complex"},
        "success": {"outcome": "success"},
        "failure": {"outcome": "failure"},
        "completed": {"completed": True},
        "not completed": {"completed": False},
        "tags any": {"tags_any": ["auth", "slow"]},
        "tags all": {"tags_all": ["auth", "flaky"]},
        "metadata": {"metadata": {"run": 3}},
        "metadata true": {"metadata": {"ok": True}},
        "reward": {"min_reward": 0.25, "max_reward": 0.75},
        "since": {"since": START + timedelta(days=3), "until": START + timedelta(days=9)},
        "completed since": {"completed_since": START + timedelta(days=2), "completed_until": START + timedelta(days=8)},
        "archived": {"archived": True},
        "text": {"text": "token"},
    }
    for name, chosen in filters.items():
        yield f"episodes.query {name}", [str(episode.id) for episode in episodes.query(**chosen)]
        yield f"episodes.count {name}", episodes.count(**chosen)
    for text in ("token", "refresh fails", "naïve", '"exactly this"', "登录", "zzz"):
        yield f"episodes.search {text}", episodes.search(text, k=5, steps=False)
    for model, vector in QUERY.items():
        for mode in ("exact", "auto"):
            hits = episodes.similar_to(vector, model=model, k=5, mode=mode, steps=False)
            yield f"episodes.similar_to {model} {mode}", [[str(hit.item.id), hit.similarity] for hit in hits]
        hits = episodes.search("token refresh", vector=vector, model=model, k=4, steps=False, mode="exact")
        yield f"episodes.search hybrid {model}", [[str(hit.item.id), hit.score] for hit in hits]
    yield "episodes.similar_to pages", pages(episodes.similar_to, vector=QUERY[SMALL], model=SMALL, k=6, mode="exact")
    yield "episodes.search pages", pages(episodes.search, text="task", k=6, steps=False)


def _of_steps(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    for episode in storage.episodes.iterate(direction="oldest_first", archived=None):
        yield f"steps.iterate {episode.id}", storage.steps.iterate(episode.id)
        yield f"steps.latest {episode.id}", [step.id for step in storage.steps.latest(episode.id, 2)]
        yield f"steps.range {episode.id}", [step.id for step in storage.steps.range(episode.id, 2, 3)]
        yield f"steps.count {episode.id}", storage.steps.count(episode.id)
        yield f"steps.get {episode.id}", [storage.steps.get(step.id) for step in episode.steps]
    yield "steps.count", storage.steps.count()


def _of_patterns(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    patterns = storage.patterns
    ids = sorted(pattern.id for pattern in patterns.iterate())
    yield "patterns.get", [patterns.get(one) for one in ids]
    yield "patterns.iterate", patterns.iterate()
    yield "patterns.query pages", pages(patterns.query, limit=2)
    for name, chosen in {
        "kind": {"kind": "heuristic"},
        "domain": {"domain": "web-api"},
        "language": {"language": "python"},
        "tags": {"tags_all": ["learned"]},
        "rate": {"min_success_rate": 0.5, "min_occurrences": 2},
    }.items():
        yield f"patterns.query {name}", patterns.query(**chosen)  # type: ignore[arg-type]
        yield f"patterns.count {name}", patterns.count(**chosen)  # type: ignore[arg-type]
    for text in ("retry", "tests", "登录"):
        yield f"patterns.search {text}", patterns.search(text)
    hits = patterns.similar_to(QUERY[SMALL], model=SMALL, k=3, mode="exact")
    yield "patterns.similar_to", [[str(hit.item.id), hit.similarity] for hit in hits]


def _of_embeddings(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    embeddings = storage.embeddings
    found = list(embeddings.iterate())
    yield "embeddings.iterate", found
    yield "embeddings.get", [embeddings.get(one.owner_type, one.owner_id, model=one.model) for one in found]
    ids = [one.owner_id for one in found if one.owner_type == "episode" and one.model == SMALL]
    many = embeddings.get_many("episode", ids, model=SMALL)
    yield "embeddings.get_many", {str(key): many[key] for key in sorted(many)}
    yield "embeddings.count", [embeddings.count(), embeddings.count(model=SMALL), embeddings.count(model=WIDE)]
    yield "embeddings.models", embeddings.models()
    status = [(one.name, one.dimension, one.metric, one.preset, one.vectors) for one in embeddings.index.status()]
    yield "embeddings.index.status", status


def _of_places(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    places = storage.spatiotemporal
    found = list(places.iterate())
    yield "places.iterate", found
    yield "places.get", [places.get(one.id) for one in found]
    owners = sorted({(one.owner_type, one.owner_id) for one in found})
    yield "places.for_owner", [places.for_owner(*owner) for owner in owners]
    yield "places.timeline", [pages(places.timeline, owner_type=kind, owner_id=key, limit=1) for kind, key in owners]
    yield "places.trajectory", [places.trajectory(key) for kind, key in owners if kind == "episode"]
    yield "places.count", places.count()
    for name, view in (("places", places), ("episodes by place", places.episodes)):
        yield f"{name}.within", pages(view.within, box=AROUND_SYDNEY, limit=2)
        yield f"{name}.near", pages(view.near, point=SYDNEY, radius_m=2_000_000.0, limit=2)
        yield f"{name}.nearest", view.nearest(SYDNEY, 4)
        yield f"{name}.during", pages(view.during, interval=MARCH, limit=2)
        yield f"{name}.overlapping", pages(view.overlapping, interval=MARCH, limit=3)
        yield f"{name}.as_of", view.as_of(START + timedelta(days=10))
    yield "places.hierarchy", places.hierarchy(unit="week", tz="Europe/Berlin")
    yield "places.diverse", places.diverse(4, unit="day", steps=False)


def _of_analytics(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    analytics = storage.analytics
    yield "analytics.summary", analytics.summary()
    yield "analytics.span", analytics.span()
    for dimension in ("task_type", "domain", "language", "framework", "complexity", "tool"):
        yield f"analytics.by {dimension}", analytics.by(dimension)  # type: ignore[arg-type]
    bounds: dict[str, Any] = {"since": START, "until": START + timedelta(days=21)}
    yield "analytics.over_time", analytics.over_time("week", tz="Asia/Tokyo", **bounds)
    yield "analytics.by_stage", analytics.by_stage(4)
    yield "analytics.trend", analytics.trend()
    yield "analytics.tools", analytics.tools()
    yield "analytics.sequences", analytics.sequences(2, min_episodes=2)
    yield "analytics.failures", analytics.failures()
    half = START + timedelta(days=6)
    yield "analytics.compare", analytics.compare((START, half), (half, half + timedelta(days=6)), by="domain")
    yield "analytics.effectiveness", analytics.effectiveness()
    yield "analytics.unused", analytics.unused(since=NOW + timedelta(days=1))


def _of_retention(storage: ms.MemoryStorage) -> Iterator[tuple[str, Any]]:
    for name, rule in {
        "age": {"max_age": timedelta(days=55)},
        "reward": {"min_reward": 0.3, "keep_pattern_sources": False},
        "number": {"max_episodes": 10},
        "bytes": {"max_bytes": 9_000, "keep_pattern_sources": False},
    }.items():
        policy = ms.RetentionPolicy(**rule)  # type: ignore[arg-type]
        yield f"retention.plan {name}", list(storage.retention.plan(policy, now=NOW).items)


PARTS = (_of_episodes, _of_steps, _of_patterns, _of_embeddings, _of_places, _of_analytics, _of_retention)
