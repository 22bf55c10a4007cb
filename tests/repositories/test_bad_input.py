"""Invalid input is refused by an error of this package with its field and cause, and nothing is stored."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import pydantic
import pytest

import memory_storage as ms
from memory_storage import dbapi
from memory_storage.models import new_id
from tests.backends import in_memory
from tests.checks import assert_consistent, dump
from tests.raising import raises

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
NAIVE = datetime(2024, 5, 1)  # noqa: DTZ001 - that is the point
VECTOR = [0.5] * 384
NAN, INFINITY = float("nan"), float("inf")


def _deep(levels: int) -> Any:
    value: Any = []
    for _ in range(levels):
        value = [value]
    return value


def _circle() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@dataclass
class Known:
    """What is stored before each call."""

    episode: ms.Episode
    pattern: Any
    place: ms.SpatiotemporalEntry


@pytest.fixture
def known(storage: ms.MemoryStorage, make_episode: Callable[..., ms.Episode]) -> Known:
    episode = storage.episodes.save(make_episode(steps=2))
    storage.embeddings.put("episode", episode.id, VECTOR, model="m")
    place = ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, latitude=1.0, longitude=1.0)
    return Known(
        episode,
        storage.patterns.save(ms.Heuristic(condition="c", action="a", tags=["ab"])),
        storage.spatiotemporal.put(place),
    )


Call = Callable[[ms.MemoryStorage, Known], Any]

POINT = ms.Point(latitude=1.0, longitude=2.0)
BOX = ms.Box(south=1.0, west=2.0, north=2.0, east=3.0)


def _refusal(storage: ms.MemoryStorage, known: Known, call: Call) -> ms.ValidationError:
    """The error of the call, which must be ours, complete after pickling, and have changed nothing."""
    before = dump(storage.engine)
    error = _error(storage, known, call)
    assert dump(storage.engine) == before
    return error


def _error(storage: ms.MemoryStorage, known: Known, call: Call) -> ms.ValidationError:
    with pytest.raises(ms.ValidationError) as caught:
        call(storage, known)
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.field, copy.limit, copy.setting) == (str(error), error.field, error.limit, error.setting)
    assert len(str(error)) < 2_000
    return error


def _changed(**fields: Any) -> Call:
    return lambda s, k: s.episodes.save(k.episode.model_copy(update=fields))


def _step(**fields: Any) -> Call:
    return lambda s, k: s.episodes.append_step(k.episode.id, ms.Step(tool="t").model_copy(update=fields))


def _pattern(**fields: Any) -> Call:
    return lambda s, k: s.patterns.save(k.pattern.model_copy(update=fields))


def _place(**fields: Any) -> Call:
    return lambda s, k: s.spatiotemporal.put(k.place.model_copy(update=fields))


def _vector(vector: Any) -> Call:
    return lambda s, k: s.embeddings.put("episode", k.episode.id, vector, model="m")


SMALL = ms.Limits(
    task_description=10,
    summary=12,
    steps_per_episode=3,
    step_bytes=1_000,
    document_bytes=4_000,
    tags=2,
    tag_min_length=2,
    tag_max_length=5,
    query_default=2,
    query_maximum=4,
)
LARGE = "x" * 1_100
WIDE = "\U0001f600" * 300  # 300 characters, 1,200 bytes

# The setting, the call that breaks it, and the field and value of the error.
LIMITS: list[tuple[str, Call, str, Any]] = [
    ("task_description", lambda s, k: s.episodes.save(ms.Episode(task_description="x" * 11)), "task_description", 11),
    ("summary", lambda s, k: s.summaries.put(k.episode.id, "x" * 10, key_steps=["yyy"]), "summary", 19),
    ("steps_per_episode", _changed(steps=[ms.Step(tool="t", step_number=n) for n in range(1, 5)]), "steps", 4),
    ("steps_per_episode", _changed(steps=[ms.Step(tool="t", step_number=4)]), "steps.0.step_number", 4),
    ("step_bytes", _step(parameters={"a": LARGE}), "parameters", 1_108),
    ("step_bytes", _step(result=ms.StepOk(output=LARGE)), "result", None),
    ("step_bytes", _step(metadata={"a": WIDE}), "metadata", 1_208),
    ("step_bytes", _changed(steps=[ms.Step(tool="t", step_number=3, metadata={"a": WIDE})]), "steps.0.metadata", 1_208),
    (
        "step_bytes",
        lambda s, k: s.episodes.save_many([ms.Episode(task_description="", steps=[_big()]), k.episode]),
        "episodes.0.steps.0.result",
        None,
    ),
    ("document_bytes", _changed(metadata={"a": "x" * 4_000}), "document", None),
    (
        "document_bytes",
        lambda s, k: s.episodes.complete(k.episode.id, ms.Failure(reason="x" * 4_000)),
        "document",
        None,
    ),
    ("document_bytes", _pattern(description=WIDE * 4), "document", None),
    ("document_bytes", _place(place_name=WIDE * 4), "document", None),
    ("tags", _changed(tags=["aa", "bb", "cc"]), "tags", 3),
    ("tags", _changed(context=ms.TaskContext(tags=["aa", "bb", "cc"])), "context.tags", 3),
    ("tags", _pattern(tags=["aa", "bb", "cc"]), "tags", 3),
    ("tags", _pattern(context=ms.TaskContext(tags=["aa", "bb", "cc"])), "context.tags", 3),
    ("tag_min_length", _changed(tags=["aa", "b"]), "tags.1", "b"),
    ("tag_max_length", _changed(tags=["x" * 6]), "tags.0", "x" * 6),
    ("tag_max_length", _pattern(tags=["x" * 6]), "tags.0", "x" * 6),
    ("path_depth", lambda s, k: s.items.put(["a"] * 33, "k", 1), "path", 33),
    ("key_length", lambda s, k: s.items.put([], "k" * 1_001, 1), "key", 1_001),
    ("key_length", lambda s, k: s.logs.append("l" * 1_001, [1]), "log", 1_001),
    ("query_maximum", lambda s, k: s.episodes.query(limit=5), "limit", 5),
    ("query_maximum", lambda s, k: s.patterns.query(limit=5), "limit", 5),
    ("query_maximum", lambda s, k: s.steps.range(k.episode.id, limit=5), "limit", 5),
    ("query_maximum", lambda s, k: s.steps.latest(k.episode.id, 5), "limit", 5),
]


def _big() -> ms.Step:
    return ms.Step(tool="t", result=ms.StepError(message=LARGE))


@pytest.fixture
def small(storage: ms.MemoryStorage) -> ms.MemoryStorage:
    """The same storage with small limits."""
    return ms.MemoryStorage(storage.engine, storage.settings.model_copy(update={"limits": SMALL}))


@pytest.mark.whole_database
def test_a_value_over_a_limit_names_limit_value_and_setting(storage, small, known):
    saved = small.episodes.save(ms.Episode(task_description="short", steps=[ms.Step(tool="t"), ms.Step(tool="t")]))
    known = Known(saved, known.pattern, small.spatiotemporal.put(known.place))
    for setting, call, field, value in LIMITS:
        error = _refusal(small, known, call)
        assert error.field == field, (setting, error)
        assert f"limits.{setting}" in str(error.setting) or setting in str(error.setting)
        assert value is None or error.value == value, (setting, error)
    assert_consistent(storage.engine)


def test_every_limit_has_a_case_here():
    assert {setting for setting, *_ in LIMITS} == set(ms.Limits.model_fields) - {
        "query_default",
        *("max_episodes", "when_full"),  # these have tests of their own
    }


def test_an_episode_of_many_large_steps_can_be_saved(small, make_episode):
    steps = [ms.Step(tool="t", result=ms.StepOk(output="x" * 900), parameters={"a": "x" * 900}) for _ in range(3)]
    episode = small.episodes.save(ms.Episode(task_description="short"))
    for step in steps:
        small.episodes.append_step(episode.id, step)
    whole = small.episodes.get(episode.id)
    assert len(whole.model_dump_json()) > SMALL.document_bytes
    assert small.episodes.save(whole).steps == whole.steps
    assert small.episodes.complete(episode.id, ms.Success(verdict="v")).steps == whole.steps


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), 1.5, None])  # noqa: DTZ001 - that is what is refused
@in_memory
def test_a_clock_that_gives_no_aware_moment_is_refused(storage, moment):
    careless = ms.MemoryStorage(storage.engine, storage.settings, now=lambda: moment)
    for write in (
        lambda: careless.episodes.save(ms.Episode(task_description="short")),
        lambda: careless.patterns.save(ms.Heuristic(condition="c", action="a")),
        lambda: careless.episodes.archive(new_id()),
    ):
        with pytest.raises(ms.ValidationError) as caught:
            write()
        assert caught.value.field == "now"
    assert storage.episodes.count() == storage.patterns.count() == 0


def test_values_exactly_at_the_limits_are_stored(small):
    episode = ms.Episode(
        task_description="x" * 10,
        tags=["aa", "x" * 5],
        steps=[ms.Step(tool="t", metadata={"a": "x" * (1_000 - 8)}), ms.Step(tool="t"), ms.Step(tool="t")],
    )
    assert small.episodes.get(small.episodes.save(episode).id).steps == episode.steps
    assert len(small.episodes.query(limit=4)) == 1


def test_the_step_that_is_one_too_many_is_not_appended(small, make_episode):
    saved = small.episodes.save(ms.Episode(task_description="", steps=[ms.Step(tool="t"), ms.Step(tool="t")]))
    step = ms.Step(tool="t")
    assert small.episodes.append_step(saved.id, step).step_number == 3
    with raises(ms.ValidationError, field="steps") as caught:
        small.episodes.append_step(saved.id, ms.Step(tool="t"))
    assert (caught.value.field, caught.value.value, caught.value.setting) == ("steps", 4, "limits.steps_per_episode")
    assert small.episodes.append_step(saved.id, step).step_number == 3
    assert small.steps.count() == 3


def test_a_query_without_a_limit_has_the_default(small):
    small.episodes.save_many([ms.Episode(task_description="") for _ in range(3)])
    assert len(small.episodes.query()) == 2
    assert len(list(small.episodes.iterate())) == 3


def _hostile_metadata(value: Any) -> list[tuple[Call, str]]:
    nested = {"a": [{"b": value}]}
    return [
        (_changed(metadata=nested), "metadata"),
        (_step(parameters=nested), "parameters"),
        (_step(metadata=nested), "metadata"),
        (_pattern(metadata=nested), "metadata"),
        (_place(metadata=nested), "metadata"),
    ]


# The call, and what the field of the error begins with.
GARBAGE: list[tuple[Call, str]] = [
    *(
        case
        for value in (NAN, INFINITY, -INFINITY, "a\0b", "\ud800", {"\0": 1}, {"\udfff": 1}, {1: 2}, object(), {1, 2})
        for case in _hostile_metadata(value)
    ),
    *(case for value in (b"\xff", 1j, NOW, Call, 10**5_000, (1,)) for case in _hostile_metadata(value)),
    (_changed(metadata={"a": _deep(5_000)}), ""),
    (_changed(metadata={"a": _circle()}), ""),
    (_changed(task_description=None), "task_description"),
    (_changed(task_description="\ud800"), "task_description"),
    (_changed(task_description="\0"), "task_description"),
    (_changed(task_description=5), "task_description"),
    (_changed(task_type="gardening"), "task_type"),
    (_changed(id="nonsense"), "id"),
    (_changed(id=5), "id"),
    (_changed(version=-1), "version"),
    (_changed(version=2**53), "version"),
    (_pattern(version=2**53), "version"),
    (_changed(version="1"), "version"),
    (_changed(started_at=NAIVE), "started_at"),
    (_changed(started_at=5), "started_at"),
    (_changed(started_at=None), "started_at"),
    (_changed(completed_at=NAIVE), "completed_at"),
    (_changed(completed_at="2024-05-01T00:00:00Z"), "completed_at"),
    (_changed(outcome="success"), "outcome"),
    (_changed(outcome={"kind": "success", "verdict": "v"}), "outcome"),
    (_changed(outcome=ms.Success.model_construct(kind="success")), "outcome"),
    (_changed(outcome=ms.Success(verdict="v").model_copy(update={"kind": "failure"})), "outcome"),
    (_changed(outcome=ms.Success(verdict="v").model_copy(update={"artifacts": ["a", None]})), "outcome"),
    (_changed(outcome=ms.Abstained(reason="r").model_copy(update={"stopped_at_step": -1})), "outcome"),
    (_changed(reward=1.0), "reward"),
    (_changed(reward=ms.RewardScore(total=1).model_copy(update={"total": NAN})), "reward"),
    (_changed(reward=ms.RewardScore(total=1).model_copy(update={"base": INFINITY})), "reward"),
    (_changed(reflection=ms.Reflection().model_copy(update={"generated_at": NAIVE})), "reflection"),
    (_changed(context=None), "context"),
    (_changed(context=ms.TaskContext().model_copy(update={"domain": None})), "context"),
    (_changed(context=ms.TaskContext().model_copy(update={"complexity": "high"})), "context"),
    (_changed(tags=["x"]), "tags"),
    (_changed(tags=["x" * 101]), "tags"),
    (_changed(tags=["aa", "aa"]), "tags"),
    (_changed(tags=["a\0b"]), "tags"),
    (_changed(tags=[5]), "tags"),
    (_changed(tags="aabb"), "tags"),
    (_changed(tags=None), "tags"),
    (_changed(tags=[f"tag {n}" for n in range(101)]), "tags"),
    (_changed(artifacts=[b"a"]), "artifacts"),
    (_changed(artifacts=["\udfff"]), "artifacts"),
    (_changed(steps=[None]), "steps"),
    (_changed(steps=["x"]), "steps"),
    (_changed(steps=None), "steps"),
    (_changed(steps=[ms.Step(tool="t", step_number=2), ms.Step(tool="t", step_number=1)]), "steps"),
    (_changed(steps=[ms.Step(tool="t", step_number=10_001)]), "steps"),
    (_changed(steps=[ms.Step(tool="t", step_number=3).model_copy(update={"latency_ms": -1})]), "steps"),
    (_step(tool=None), "tool"),
    (_step(tool="\0"), "tool"),
    (_step(latency_ms=-1), "latency_ms"),
    (_step(latency_ms=2**63), "latency_ms"),
    (_step(latency_ms=1.5), "latency_ms"),
    (_step(latency_ms="5"), "latency_ms"),
    (_step(tokens_used=-1), "tokens_used"),
    (_step(step_number=3), "step_number"),
    (_step(step_number=0), "step_number"),
    (_step(id=None), "id"),
    (_step(id="x"), "id"),
    (_step(result="ok"), "result"),
    (_step(result=ms.StepOk().model_copy(update={"output": None})), "result"),
    (_step(started_at=NAIVE), "started_at"),
    (_pattern(success_rate=1.5), "success_rate"),
    (_pattern(success_rate=NAN), "success_rate"),
    (_pattern(occurrence_count=0), "occurrence_count"),
    (_pattern(occurrence_count=2**63), "occurrence_count"),
    (_pattern(confidence=-0.1), "confidence"),
    (_pattern(evidence=["x"]), "evidence"),
    (_pattern(condition=None), "condition"),
    (_pattern(kind="tool_sequence"), ""),
    (_pattern(kind="nothing"), ""),
    (_pattern(tags=["aa", "aa"]), "tags"),
    (_pattern(effectiveness=None), "effectiveness"),
    (_pattern(effectiveness=ms.models.Effectiveness().model_copy(update={"times_applied": -1})), "effectiveness"),
    (_place(latitude=90.5), "latitude"),
    (_place(latitude=NAN), ""),
    (_place(latitude=None), ""),
    (_place(longitude=-181.0), "longitude"),
    (_place(owner_type="pattern"), "owner_type"),
    (_place(owner_type=None), "owner_type"),
    (_place(owner_id="x"), "owner_id"),
    (_place(place_name="\0"), "place_name"),
    (_place(starts_at=NAIVE), "starts_at"),
    (_place(starts_at=NOW, ends_at=NOW), ""),
    (_place(ends_at=NOW), ""),
    (_vector([]), "vector"),
    (_vector([0.5] * 383), "vector"),
    (_vector([0.5] * 385), "vector"),
    (_vector([0.0] * 384), "vector"),
    (_vector([-0.0] * 384), "vector"),
    (_vector([NAN] * 384), "vector"),
    (_vector([INFINITY] * 384), "vector"),
    (_vector([1e39] * 384), "vector"),
    (_vector([1e-46] * 384), "vector"),
    (_vector(["0.5"] * 384), "vector"),
    (_vector([None] * 384), "vector"),
    (_vector([[0.5]] * 384), "vector"),
    (_vector([10**400] * 384), "vector"),
    (_vector("0.5" * 128), "vector"),
    (_vector(b"\0" * 384), "vector"),
    (_vector(b"\0\0\0?" * 384), "vector"),
    (_vector(bytearray(384)), "vector"),
    (_vector(None), "vector"),
    (_vector(5), "vector"),
    (_vector(dict.fromkeys(range(384), 0.5)), "vector"),
    (_vector({n / 7 for n in range(384)}), "vector"),
    (lambda s, k: s.embeddings.put("planet", k.episode.id, VECTOR, model="m"), "owner_type"),
    (lambda s, k: s.embeddings.put(None, k.episode.id, VECTOR, model="m"), "owner_type"),
    (lambda s, k: s.embeddings.put(["episode"], k.episode.id, VECTOR, model="m"), "owner_type"),
    *(
        (lambda s, k, model=model: s.embeddings.put("episode", k.episode.id, VECTOR, model=model), "model")
        for model in ("", "x" * 201, "\0", "\ud800", None, 5, b"m", ["m"])
    ),
    (lambda s, k: s.embeddings.put_many(None, model="m"), "items"),
    (lambda s, k: s.embeddings.put_many([None], model="m"), "items"),
    (lambda s, k: s.embeddings.put_many([("episode", k.episode.id)], model="m"), "items"),
    (lambda s, k: s.embeddings.put_many([("episode", k.episode.id, VECTOR), ("x", 1, VECTOR)], model="m"), ""),
    (lambda s, k: s.embeddings.import_many([None]), ""),
    (lambda s, k: s.embeddings.import_many(None), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, owner_type="planet")]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, owner_id="x")]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, model=None)]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, model="n", vector=[0.0] * 384)]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, model="n", vector=None)]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, model="n", created_at=NAIVE)]), ""),
    (lambda s, k: s.embeddings.import_many([_embedding(k, model="n", updated_at="soon")]), ""),
    *(
        (lambda s, k, call=call, thing=thing: call(s)(thing), "")
        for thing in (None, 5, "x", {}, [], object(), ms.TaskContext(), ms.Episode)
        for call in (lambda s: s.episodes.save, lambda s: s.patterns.save, lambda s: s.spatiotemporal.put)
    ),
    *(
        (lambda s, k, call=call, things=things: call(s)(things), "")
        for things in (None, 5, "x", [None], [5], [ms.Reflection()])
        for call in (
            lambda s: s.episodes.save_many,
            lambda s: s.episodes.import_many,
            lambda s: s.patterns.save_many,
            lambda s: s.patterns.import_many,
            lambda s: s.spatiotemporal.import_many,
        )
    ),
    (lambda s, k: s.episodes.save(k.pattern), ""),
    (lambda s, k: s.patterns.save(k.episode), ""),
    (lambda s, k: s.episodes.save_many([k.episode, k.episode]), "episodes"),
    (lambda s, k: s.patterns.save_many([k.pattern, k.pattern]), "patterns"),
    (lambda s, k: s.spatiotemporal.import_many([k.place, k.place]), "places"),
    (lambda s, k: s.episodes.save(ms.Episode.model_construct()), ""),
    (lambda s, k: s.episodes.save(ms.Episode.model_construct(id="x", task_description=5)), ""),
    (lambda s, k: s.patterns.save(ms.Heuristic.model_construct()), ""),
    (lambda s, k: s.spatiotemporal.put(ms.SpatiotemporalEntry.model_construct()), ""),
    (lambda s, k: s.spatiotemporal.import_many([ms.SpatiotemporalEntry.model_construct()]), ""),
    (lambda s, k: s.embeddings.import_many([ms.models.Embedding.model_construct()]), ""),
    (lambda s, k: s.episodes.append_step(k.episode.id, ms.Step.model_construct()), ""),
    *(
        (lambda s, k, step=step: s.episodes.append_step(k.episode.id, step), "")
        for step in (None, "x", {}, 5, ms.Episode(task_description=""))
    ),
    *(
        (lambda s, k, outcome=outcome: s.episodes.complete(k.episode.id, outcome), "outcome")
        for outcome in (None, "success", 5, {}, {"kind": "glory"}, ms.StepOk(), ms.Success.model_construct())
    ),
    *(
        (lambda s, k, reward=reward: _complete(s, k, reward=reward), "")
        for reward in (NAN, INFINITY, True, "1", [1], ms.Reflection(), 10**400)
    ),
    *((lambda s, k, when=when: _complete(s, k, completed_at=when), "completed_at") for when in (NAIVE, "soon", [1])),
    (lambda s, k: _complete(s, k, reflection="x"), "reflection"),
    (lambda s, k: _complete(s, k, reflection=ms.Reflection().model_copy(update={"insights": ["\0"]})), "reflection"),
    *(
        (lambda s, k, limit=limit, call=call: call(s, k)(limit=limit), "limit")
        for limit in (0, -1, 1_001, True, 1.0, "5", [], 2**63)
        for call in (
            lambda s, k: s.episodes.query,
            lambda s, k: s.patterns.query,
            lambda s, k: partial(s.steps.range, k.episode.id),
            lambda s, k: partial(s.steps.latest, k.episode.id),
        )
    ),
    *(
        (lambda s, k, value=value: s.episodes.query(direction=value), "direction")
        for value in ("down", None, 5, ["newest_first"], True)
    ),
    *((lambda s, k, n=n: s.steps.range(k.episode.id, n), "first") for n in (0, -1, True, 1.0, "1", None, 2**32)),
    *((lambda s, k, n=n: s.steps.range(k.episode.id, 1, n), "last") for n in (0, -1, True, 1.0, "1", 2**63)),
    *(
        (lambda s, k, value=value, call=call: call(s)(**value), next(iter(value)))
        for value in (
            {"colour": "red"},
            {"domain": 5},
            {"domain": "\0"},
            {"language": "\ud800"},
            {"tags_any": "ab"},
            {"tags_any": ["a\0b"]},
            {"tags_all": [5]},
        )
        for call in (
            lambda s: s.episodes.query,
            lambda s: s.episodes.count,
            lambda s: lambda **f: list(s.episodes.iterate(**f)),
            lambda s: s.patterns.query,
            lambda s: s.patterns.count,
            lambda s: lambda **f: list(s.patterns.iterate(**f)),
        )
    ),
    *(
        (lambda s, k, value=value: s.episodes.count(**value), next(iter(value)))
        for value in (
            {"task_type": "gardening"},
            {"complexity": "high"},
            {"outcome": "glory"},
            {"completed": "yes"},
            {"archived": 1},
            {"metadata": {"a": NAN}},
            {"metadata": {"a": INFINITY}},
            {"metadata": {"a": [1]}},
            {"metadata": {"a": "\0"}},
            {"metadata": {"a": "\ud800"}},
            {"metadata": {"\0": 1}},
            {"metadata": {5: 1}},
            {"metadata": {"a": 2**63}},
            {"metadata": [1]},
            {"min_reward": NAN},
            {"min_reward": True},
            {"max_reward": "5"},
            {"max_reward": INFINITY},
            {"since": NAIVE},
            {"until": "soon"},
            {"completed_since": NAIVE},
            {"completed_until": []},
            {"child_of": "x"},
            {"kind": "heuristic"},
        )
    ),
    *(
        (lambda s, k, value=value: s.patterns.count(**value), next(iter(value)))
        for value in (
            {"kind": "x"},
            {"min_success_rate": 1.5},
            {"min_success_rate": "1"},
            {"min_occurrences": 0},
            {"min_occurrences": True},
            {"text": "x"},
        )
    ),
    *((lambda s, k, value=value: s.patterns.record_retrieval(value), "pattern_ids") for value in (None, 5, [5], "x")),
    *(
        (lambda s, k, value=value: s.patterns.record_application(k.pattern.id, success=True, reward_delta=value), "rew")
        for value in (NAN, INFINITY, "1", None, True, [1], 10**400)
    ),
    *(
        (lambda s, k, value=value: s.patterns.record_application(k.pattern.id, success=value), "success")
        for value in (None, "yes", 1, [])
    ),
    (lambda s, k: s.patterns.merge(k.pattern.id, k.pattern.id), "other_id"),
    (lambda s, k: s.patterns.merge(k.pattern.id, "x"), "other_id"),
    *(
        (lambda s, k, value=value: s.spatiotemporal.for_owner(value, k.episode.id), "owner_type")
        for value in ("pattern", "planet", None, ["episode"])
    ),
    *(
        (lambda s, k, value=value: s.embeddings.find(value, k.episode.id, model="m"), "owner_type")
        for value in ("planet", None, ["episode"])
    ),
    (_place(ongoing=True), ""),
    (_place(ongoing=1), "ongoing"),
    (lambda s, k: s.spatiotemporal.put_many([k.place, k.place]), "places"),
    (lambda s, k: s.spatiotemporal.put_many([k.place, None]), "places.1"),
    (lambda s, k: s.spatiotemporal.put_many(None), "places"),
    *(
        (lambda s, k, value=value, call=call: call(s.spatiotemporal, value), "point")
        for value in (None, (1.0, 2.0), BOX, POINT.model_copy(update={"latitude": NAN}), ms.Point.model_construct())
        for call in (
            lambda places, value: places.near(value, 1.0),
            lambda places, value: places.nearest(value),
            lambda places, value: places.episodes.nearest(value),
        )
    ),
    *(
        (lambda s, k, value=value: s.spatiotemporal.within(value), "box")
        for value in (
            None,
            (1.0, 2.0, 3.0, 4.0),
            POINT,
            BOX.model_copy(update={"south": 3.0}),
            ms.Box.model_construct(),
        )
    ),
    *(
        (lambda s, k, value=value: s.spatiotemporal.near(POINT, value), "radius_m")
        for value in (-1, NAN, INFINITY, True, "1", None, [1])
    ),
    *((lambda s, k, n=n: s.spatiotemporal.nearest(POINT, n), "k") for n in (0, -1, 1_001, True, 1.0, "1", None)),
    *((lambda s, k, n=n: s.spatiotemporal.diverse(n), "k") for n in (0, -1, 1_001, True, 1.0, "1", None)),
    *(
        (lambda s, k, value=value, call=call: call(s.spatiotemporal)(value), "interval")
        for value in (None, (NOW, NOW), NOW, ms.Interval().model_copy(update={"starts_at": NAIVE}))
        for call in (lambda places: places.during, lambda places: places.episodes.overlapping)
    ),
    *(
        (lambda s, k, call=call: call(s.spatiotemporal)(between=(NOW, NOW)), "between")
        for call in (
            lambda places: partial(places.within, BOX),
            lambda places: partial(places.near, POINT, 1.0),
            lambda places: partial(places.nearest, POINT),
            lambda places: partial(places.timeline, "episode", new_id()),
        )
    ),
    *((lambda s, k, value=value: s.spatiotemporal.as_of(value), "moment") for value in (None, NAIVE, "now", 5)),
    *(
        (lambda s, k, more=more, call=call: call(s.spatiotemporal)(**more), next(iter(more)))
        for more in (
            {"limit": 0},
            {"limit": True},
            {"cursor": "x"},
            {"colour": "red"},
            {"domain": 5},
            {"tags_any": "ab"},
        )
        for call in (
            lambda places: partial(places.within, BOX),
            lambda places: partial(places.near, POINT, 1.0),
            lambda places: partial(places.episodes.during, ms.Interval()),
            lambda places: partial(places.as_of, NOW),
        )
    ),
    *(
        (lambda s, k, call=call: call(s.spatiotemporal)(direction="down"), "direction")
        for call in (
            lambda places: partial(places.within, BOX),
            lambda places: partial(places.trajectory, new_id()),
        )
    ),
    *(
        (lambda s, k, value=value: s.spatiotemporal.timeline(value, k.episode.id), "owner_type")
        for value in ("pattern", None, ["episode"])
    ),
]

NO_IDS = ("", "x", None, 5, 1.5, True, b"0123456789abcdef", [], {}, "\0", "\ud800", "1" * 33, object())
BY_ID: list[Callable[[ms.MemoryStorage], Callable[[Any], Any]]] = [
    lambda s: s.episodes.get,
    lambda s: s.episodes.find,
    lambda s: s.episodes.delete,
    lambda s: s.episodes.archive,
    lambda s: s.episodes.restore,
    lambda s: lambda key: s.episodes.append_step(key, ms.Step(tool="t")),
    lambda s: lambda key: s.episodes.complete(key, ms.Success(verdict="v")),
    lambda s: s.steps.get,
    lambda s: s.steps.find,
    lambda s: s.steps.delete,
    lambda s: s.steps.range,
    lambda s: s.steps.latest,
    lambda s: lambda key: list(s.steps.iterate(key)),
    lambda s: s.patterns.get,
    lambda s: s.patterns.find,
    lambda s: s.patterns.delete,
    lambda s: lambda key: s.patterns.record_application(key, success=True),
    lambda s: lambda key: s.patterns.merge(key, new_id()),
    lambda s: lambda key: s.embeddings.put("episode", key, VECTOR, model="m"),
    lambda s: lambda key: s.embeddings.get("episode", key, model="m"),
    lambda s: lambda key: s.embeddings.find("episode", key, model="m"),
    lambda s: lambda key: s.embeddings.delete("episode", key, model="m"),
    lambda s: s.spatiotemporal.get,
    lambda s: s.spatiotemporal.find,
    lambda s: s.spatiotemporal.delete,
    lambda s: lambda key: s.spatiotemporal.for_owner("episode", key),
    lambda s: lambda key: s.spatiotemporal.timeline("episode", key),
    lambda s: s.spatiotemporal.trajectory,
]


def _embedding(known: Known, **fields: Any) -> ms.models.Embedding:
    given = ms.models.Embedding(owner_type="episode", owner_id=known.episode.id, model="m", vector=VECTOR)
    return given.model_copy(update=fields)


def _complete(storage: ms.MemoryStorage, known: Known, **fields: Any) -> ms.Episode:
    return storage.episodes.complete(known.episode.id, ms.Success(verdict="v"), **fields)


@pytest.mark.slow
@pytest.mark.whole_database
def test_invalid_input_is_refused_with_its_field(storage, known):
    before = dump(storage.engine)  # compared once: to do so after each of these calls takes ten times as long as they
    for number, (call, field) in enumerate(GARBAGE):
        try:
            error = _error(storage, known, call)
        except BaseException as failure:
            failure.add_note(f"case {number}, field {field!r}") if hasattr(failure, "add_note") else None
            raise
        assert error.field.startswith(field), (number, error)
    assert dump(storage.engine) == before
    assert storage.episodes.get(known.episode.id) == known.episode
    assert_consistent(storage.engine)


@pytest.mark.slow
@pytest.mark.whole_database
def test_every_method_that_takes_a_uuid_refuses_other_values(storage, known):
    before = dump(storage.engine)
    for method in BY_ID:
        for key in NO_IDS:
            error = _error(storage, known, lambda s, _, method=method, key=key: method(s)(key))
            assert error.field.endswith("id"), error
            assert error.limit == "must be a UUID"
    assert dump(storage.engine) == before


def test_an_error_has_its_cause(storage, known):
    for call, cause, kind in [
        (lambda: ms.Step(tool=5), pydantic.ValidationError, ms.ValidationError),
        (lambda: storage.episodes.query(colour="red"), pydantic.ValidationError, ms.ValidationError),
        (lambda: _changed(metadata={"a": object()})(storage, known), Exception, ms.ValidationError),
        (lambda: storage.episodes.get("x"), ValueError, ms.ValidationError),
        (lambda: storage.episodes.query(cursor="x"), ValueError, ms.ValidationError),
        (lambda: storage.episodes.archive(new_id()), dbapi.RowCountError, ms.NotFoundError),
        (lambda: storage.embeddings.put("step", new_id(), VECTOR, model="m"), dbapi.RowCountError, ms.NotFoundError),
    ]:
        with raises(kind) as caught:
            call()
        assert isinstance(caught.value.__cause__, cause)


def test_a_text_is_no_sequence(storage, known):
    before = dump(storage.engine)
    shown = storage.recall("task")
    for field, call in {
        "tags": lambda: storage.record("task", tags="abc"),
        "used": lambda: storage.episodes.complete(new_id(), ms.Abstained(reason="r"), recalled=shown, used="abc"),
        "key_steps": lambda: storage.summaries.put(new_id(), "text", key_steps="abc"),
        "relationships": lambda: storage.relationships.add_many("abc"),
        "steps": lambda: storage.episodes.append_steps(new_id(), "abc"),
        "pattern_ids": lambda: storage.patterns.get_many(""),
        "path": lambda: storage.items.get("abc", "key"),
    }.items():
        with raises(ms.ValidationError, field=field, match="sequence"):
            call()
    assert dump(storage.engine) == before
