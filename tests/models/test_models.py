"""The values that models accept and refuse, always with an error of this package that names the field."""

from __future__ import annotations

import pickle
import typing
from datetime import datetime, timedelta, timezone
from typing import Any
from uuid import UUID, uuid4
from zoneinfo import ZoneInfo

import pydantic
import pytest
from hypothesis import given, settings

import memory_storage as ms
from memory_storage import models
from memory_storage.models import new_id
from tests import strategies as made
from tests.raising import raises

NOW = datetime(2024, 5, 1, tzinfo=timezone.utc)
KEY = uuid4()

# What each model cannot be made without.
NEEDED: dict[type[models.Model], dict[str, Any]] = {
    ms.TaskContext: {},
    ms.Success: {"verdict": "v"},
    ms.PartialSuccess: {"verdict": "v"},
    ms.Failure: {"reason": "r"},
    ms.Abstained: {"reason": "r"},
    ms.RewardScore: {"total": 1.0},
    ms.Reflection: {},
    ms.EpisodeSummary: {"text": "t"},
    ms.StepOk: {},
    ms.StepError: {"message": "m"},
    ms.StepTimeout: {},
    ms.Step: {"tool": "t"},
    ms.Episode: {"task_description": "d"},
    ms.models.Effectiveness: {},
    ms.models.DomainRate: {"expected_rate": 0.5, "effective_episodes": 2.5},
    ms.models.PatternStatistics: {
        **dict.fromkeys(("support", "false_discovery_rate", "baseline_rate", "expected_rate"), 0.5),
        **dict.fromkeys(("lift", "lift_low", "lift_high", "effective_episodes"), 1.5),
    },
    ms.RecallReceipt: {"id": KEY},
    ms.ToolSequence: {"tools": ["t"]},
    ms.DecisionPoint: {"condition": "c", "action": "a"},
    ms.ErrorRecovery: {"error_type": "e", "recovery_steps": []},
    ms.ContextPattern: {"context_features": [], "recommended_approach": "r"},
    ms.Heuristic: {"condition": "c", "action": "a"},
    ms.PlaybookStep: {"action": "a"},
    ms.Playbook: {"name": "n", "steps": [{"action": "a"}]},
    ms.models.Embedding: {"owner_type": "episode", "owner_id": KEY, "model": "m", "vector": [1.0]},
    ms.SpatiotemporalEntry: {"owner_type": "episode", "owner_id": KEY, "place_name": "p"},
    ms.Point: {"latitude": 1.0, "longitude": 2.0},
    ms.Box: {"south": 1.0, "west": 2.0, "north": 3.0, "east": 4.0},
    ms.Interval: {},
    ms.Item: {"path": ("a", "b"), "key": "k", "value": {"any": [1]}},
    models.ItemVector: {"key": "k", "model": "m", "field": "$", "vector": [1.0]},
    models.Checkpoint: {"episode_id": KEY, "label": "l", "state": {"next": ["a"]}},
    models.Handoff: {"episode_id": KEY, "goal": "g", "status": "open"},
    ms.LogRecord: {"log": "l", "number": 1, "value": "v"},
    ms.Relationship: {"from_id": KEY, "to_id": UUID(int=1), "kind": "blocks"},
    models.EpisodeFilter: {},
    models.PatternFilter: {},
    ms.RetentionPolicy: {"max_age": timedelta(1), "max_episodes": 1},
}
FIELDS = [(kind, name) for kind in NEEDED for name in kind.model_fields]


def _id(value: object) -> str:
    return value.__name__ if isinstance(value, type) else str(value)


def _refusal(kind: type[models.Model], /, **fields: Any) -> ms.ValidationError:
    with raises(ms.ValidationError) as caught:
        kind(**{**NEEDED[kind], **fields})
    error = caught.value
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.field, copy.limit, str(copy)) == (error.field, error.limit, str(error))
    return error


def _all_models(kind: type = models.Model) -> set[type]:
    return {found for sub in kind.__subclasses__() for found in {sub, *_all_models(sub)}}


def test_every_model_has_a_case_here():
    ours = {kind for kind in _all_models() if kind.__module__.startswith("memory_storage")}
    assert {kind for kind in ours if not kind.__name__.startswith("_")} == set(NEEDED)


@pytest.mark.parametrize("kind", NEEDED, ids=_id)
def test_a_model_is_made_of_what_it_needs_and_is_frozen(kind):
    model = kind(**NEEDED[kind])
    for name in kind.model_fields:
        with pytest.raises(pydantic.ValidationError):
            setattr(model, name, getattr(model, name))
    assert kind.model_validate_json(model.model_dump_json()) == model
    assert pickle.loads(pickle.dumps(model)) == model


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=_id)
def test_a_field_of_another_type_is_refused_by_its_name(kind, name):
    thing = object
    error = _refusal(kind, **{name: thing})
    assert error.field.split(".")[0] == name
    assert error.value is thing


@pytest.mark.parametrize(("kind", "name"), FIELDS, ids=_id)
def test_none_is_refused_where_the_field_does_not_say_so(kind, name):
    if name == "value":  # any JSON value
        assert kind(**{**NEEDED[kind], name: None}).value is None
    elif type(None) not in typing.get_args(kind.model_fields[name].annotation):
        assert _refusal(kind, **{name: None}).field.split(".")[0] == name
    elif name != "place_name":  # without any other place, that one is needed
        assert getattr(kind(**{**NEEDED[kind], name: None}), name) is None


@pytest.mark.parametrize("kind", NEEDED, ids=_id)
def test_an_unknown_field_and_a_missing_one_are_refused_by_name(kind):
    assert _refusal(kind, colour="red").field == "colour"
    for name in NEEDED[kind]:
        if kind.model_fields[name].is_required():
            with pytest.raises(ms.ValidationError) as caught:
                kind(**{key: value for key, value in NEEDED[kind].items() if key != name})
            assert caught.value.field == name


REFUSED: list[tuple[type[models.Model], dict[str, Any], str]] = [
    *((ms.Step, {"latency_ms": value}, "latency_ms") for value in (-1, 2**63, True, 1.5, "1", float("nan"), 10**400)),
    *((ms.Step, {"tokens_used": value}, "tokens_used") for value in (-1, True, 2.0)),
    *((ms.Step, {"step_number": value}, "step_number") for value in (0, -1, True, 1.0, 2**31, "1")),
    *((ms.Step, {"id": value}, "id") for value in ("", "x", 5, b"x", None)),
    *((ms.Step, {"started_at": value}, "started_at") for value in (datetime(2024, 5, 1), "2024-05-01T00:00:00")),  # noqa: DTZ001
    *((ms.Step, {"parameters": value}, "parameters") for value in ([], {1: 2}, {"a": {1}}, {"a": b"x"}, {"a": NOW})),
    (ms.Step, {"result": {"status": "ok", "message": "m"}}, "result"),
    (ms.Step, {"result": {"status": "lost"}}, "result"),
    (ms.Step, {"result": {}}, "result"),
    *((ms.Episode, {"version": value}, "version") for value in (-1, True, 2**63, "1", None)),
    (ms.Episode, {"task_type": "gardening"}, "task_type"),
    (ms.Episode, {"outcome": {"kind": "glory"}}, "outcome"),
    (ms.Episode, {"outcome": ms.StepOk()}, "outcome"),
    (
        ms.Episode,
        {"steps": [ms.Step(tool="t", step_number=2), ms.Step(tool="t", step_number=2)]},
        "steps.1.step_number",
    ),
    (
        ms.Episode,
        {"steps": [ms.Step(tool="t", step_number=2), ms.Step(tool="t", step_number=1)]},
        "steps.1.step_number",
    ),
    (ms.Episode, {"steps": [{"tool": "t"}, {"tool": "t", "latency_ms": -1}]}, "steps.1.latency_ms"),
    (ms.Episode, {"steps": [{"tool": "t"}, {"tool": "t", "colour": 1}]}, "steps.1.colour"),
    (ms.Episode, {"context": {"domain": 5}}, "context.domain"),
    (ms.TaskContext, {"complexity": "high"}, "complexity"),
    (ms.TaskContext, {"tags": "ab"}, "tags"),
    *((ms.RewardScore, {"total": value}, "total") for value in (float("nan"), float("inf"), True, "1", 10**400)),
    (ms.RewardScore, {"learning_bonus": float("-inf")}, "learning_bonus"),
    (ms.Abstained, {"stopped_at_step": -1}, "stopped_at_step"),
    *((ms.Heuristic, {"success_rate": value}, "success_rate") for value in (-0.1, 1.1, float("nan"), True)),
    *((ms.Heuristic, {"confidence": value}, "confidence") for value in (-5e-324, 1 + 2**-52, "0.5")),
    *((ms.Heuristic, {"occurrence_count": value}, "occurrence_count") for value in (0, -1, True, 2**63)),
    (ms.Heuristic, {"evidence": ["x"]}, "evidence.0"),
    (ms.Heuristic, {"kind": "tool_sequence"}, "kind"),
    (ms.DecisionPoint, {"success_count": -1}, "success_count"),
    (ms.ToolSequence, {"avg_latency_ms": 1.5}, "avg_latency_ms"),
    (ms.models.DomainRate, {"expected_rate": 1.5}, "expected_rate"),
    (ms.models.DomainRate, {"effective_episodes": -1.0}, "effective_episodes"),
    (ms.models.Effectiveness, {"times_applied": -1}, "times_applied"),
    (ms.models.Effectiveness, {"avg_reward_delta": float("nan")}, "avg_reward_delta"),
    (ms.models.Embedding, {"owner_type": "planet"}, "owner_type"),
    (ms.models.Embedding, {"model": ""}, "model"),
    (ms.models.Embedding, {"model": "x" * 201}, "model"),
    *(
        (ms.models.Embedding, {"vector": value}, "vector")
        for value in ([], "abc", [float("nan")], ["1"], [True], [None])
    ),
    *((ms.SpatiotemporalEntry, {"latitude": v, "longitude": 0.0}, "latitude") for v in (90.1, -91, True, float("nan"))),
    *((ms.SpatiotemporalEntry, {"latitude": 0.0, "longitude": v}, "longitude") for v in (180.1, "1", float("inf"))),
    (ms.SpatiotemporalEntry, {"latitude": 1.0}, ""),
    (ms.SpatiotemporalEntry, {"place_name": None}, ""),
    (ms.SpatiotemporalEntry, {"ends_at": NOW}, ""),
    (ms.SpatiotemporalEntry, {"starts_at": NOW, "ends_at": NOW}, ""),
    (ms.SpatiotemporalEntry, {"starts_at": NOW, "ends_at": NOW - timedelta(microseconds=1)}, ""),
    (ms.SpatiotemporalEntry, {"owner_type": "pattern"}, "owner_type"),
    (ms.SpatiotemporalEntry, {"ongoing": True}, ""),
    (ms.SpatiotemporalEntry, {"ongoing": 1}, "ongoing"),
    (ms.SpatiotemporalEntry, {"ongoing": True, "starts_at": NOW, "ends_at": NOW + timedelta(hours=1)}, ""),
    *((ms.Point, {"latitude": value}, "latitude") for value in (90.1, -91.0, True, "1", float("nan"), None)),
    *((ms.Point, {"longitude": value}, "longitude") for value in (180.1, -181.0, True, float("inf"))),
    *((ms.Box, {"north": value}, "north") for value in (0.9, 90.1, float("nan"), None)),
    *((ms.Box, {"west": value}, "west") for value in (-180.1, float("nan"), None)),
    *((ms.Interval, {"starts_at": NOW, "ends_at": NOW - timedelta(microseconds=n)}, "ends_at") for n in (0, 1)),
    *((ms.Interval, {"starts_at": value}, "starts_at") for value in (datetime(2024, 5, 1), "soon")),  # noqa: DTZ001
]


@pytest.mark.parametrize(
    ("kind", "fields", "field"),
    REFUSED,
    ids=[f"{kind.__name__}-{field}-{number}" for number, (kind, _, field) in enumerate(REFUSED)],
)
def test_a_value_out_of_range_is_refused_naming_the_field(kind, fields, field):
    error = _refusal(kind, **fields)
    assert error.field == field or (field and error.field.startswith(f"{field}."))


@settings(max_examples=40)
@given(when=made.moments)
def test_every_moment_in_the_years_of_datetime_is_taken(when):
    assert ms.Reflection(generated_at=when).generated_at == when


@settings(max_examples=40)
@given(when=made.odd_moments)
def test_a_moment_whose_time_in_utc_has_no_datetime_is_refused(when):
    inside = made.FIRST - when <= timedelta(0) <= made.LAST - when
    try:
        assert ms.Reflection(generated_at=when).generated_at == when
    except ms.ValidationError:
        assert not inside
    else:
        assert inside


def test_unnumbered_steps_continue_the_previous_number():
    steps = [ms.Step(tool="a"), ms.Step(tool="b", step_number=5), ms.Step(tool="c")]
    assert [step.step_number for step in ms.Episode(task_description="d", steps=steps).steps] == [1, 5, 6]
    assert [step.step_number for step in steps] == [None, 5, None]


@settings(max_examples=30)
@given(episode=made.episodes(), pattern=made.patterns)
@pytest.mark.slow
def test_a_model_survives_json_and_pickling(episode, pattern):
    for model in (episode, pattern):
        assert type(model).model_validate_json(model.model_dump_json()) == model
        assert pickle.loads(pickle.dumps(model)) == model
    assert models.PATTERN.validate_json(pattern.model_dump_json()) == pattern


def test_new_ids_are_of_version_7_and_never_the_same():
    ids = [new_id() for _ in range(100)]
    assert len(set(ids)) == len(ids)
    assert {(key.version, key.variant) for key in ids} == {(7, KEY.variant)}
    assert [key.int >> 80 for key in ids] == sorted(key.int >> 80 for key in ids)


def test_by_default_filters_only_exclude_archived_rows():
    given_nothing = models.EpisodeFilter().model_dump(exclude_defaults=False)
    assert {name: value for name, value in given_nothing.items() if value not in (None, [], {})} == {"archived": False}
    assert all(value in (None, [], {}) for value in models.PatternFilter().model_dump().values())


def test_a_page_can_be_looped_over_and_counted():
    page = ms.Page([1, 2], next_cursor="n")
    assert (list(page), len(page), page.previous_cursor) == ([1, 2], 2, None)


@pytest.mark.parametrize("fold", [0, 1])
def test_a_moment_in_a_repeated_hour_of_a_zone_is_kept_in_utc(storage, fold):
    moment = datetime(2024, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=fold)
    saved = storage.episodes.save(ms.Episode(task_description="autumn", started_at=moment))
    assert storage.episodes.get(saved.id).started_at.timestamp() == moment.timestamp()


def test_an_unpicklable_value_of_an_error_travels_as_its_repr():
    with raises(ms.ValidationError, field="tool") as caught:
        ms.Step(tool=lambda: 0)  # type: ignore[arg-type]
    assert "lambda" in pickle.loads(pickle.dumps(caught.value)).value
