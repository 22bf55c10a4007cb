"""The error for a misspelled field or a value of another kind suggests the correct one."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from pydantic import BaseModel

import memory_storage as ms

STEP = ms.Step(tool="t")
CASES: list[tuple[Any, str, str]] = [
    (lambda: ms.Episode(description="d"), "description", "no such field; did you mean 'task_description'?"),
    (lambda: ms.Episode(task_description="d", start_time=1), "start_time", "did you mean 'started_at'?"),
    (lambda: ms.Episode(task_description="d", tag=[]), "tag", "did you mean 'tags'?"),
    (lambda: ms.Episode(task_description="d", context={"langage": "x"}), "context.langage", "did you mean 'language'?"),
    (lambda: ms.Episode(task_description="d", steps=[STEP, {"tol": 1}]), "steps.1.tol", "did you mean 'tool'?"),
    (lambda: ms.Episode(task_description="d", outcome="success"), "outcome", "write Success(verdict=...)"),
    (lambda: ms.Episode(task_description="d", outcome="failed"), "outcome", "Failure(reason=...)"),
    (
        lambda: ms.Episode(task_description="d", outcome=5),
        "outcome",
        "must be Success(verdict=...) or PartialSuccess(verdict=...) or Failure(reason=...) or Abstained(reason=...)",
    ),
    (lambda: ms.Episode(task_description="d", outcome={"kind": "sucess"}), "outcome", "did you mean 'success'?"),
    (
        lambda: ms.Episode(task_description="d", outcome={"kind": "success", "verdikt": "v"}),
        "outcome.success.verdikt",
        "did you mean 'verdict'?",
    ),
    (lambda: ms.Episode(task_description="d", task_type="debuging"), "task_type", "did you mean 'debugging'?"),
    (lambda: ms.Episode(task_description="d", context="web"), "context", "must be TaskContext(...)"),
    (lambda: ms.Episode(task_description="d", reward=1), "reward", "must be RewardScore(total=...)"),
    (lambda: ms.Episode(task_description="d", steps=["x"]), "steps.0", "must be Step(tool=...)"),
    (lambda: ms.Step(tool="t", result="ok"), "result", "write StepOk(...)"),
    (lambda: ms.Step(tool="t", latency=1), "latency", "did you mean 'latency_ms'?"),
    (lambda: ms.Step(tool="t", parameters_json="{}"), "parameters_json", "did you mean 'parameters'?"),
    (lambda: ms.RewardScore(value=1.0), "value", "did you mean 'total'?"),
    (lambda: ms.Failure(message="m"), "message", "did you mean 'reason'?"),
    (lambda: ms.Heuristic(conditions="c", action="a"), "conditions", "did you mean 'condition'?"),
    (lambda: ms.Episode(), "task_description", "Field required"),
    (lambda: ms.Episode(task_description="d", zzz=1), "zzz", "no such field"),
]
MODELS = [
    model
    for model in (getattr(ms, name) for name in ms.__all__)
    if isinstance(model, type) and issubclass(model, BaseModel) and model.__module__.startswith("memory_storage.models")
]


@pytest.mark.parametrize(("make", "field", "message"), CASES)
def test_names_the_correct_spelling(make: Any, field: str, message: str):
    with pytest.raises(ms.ValidationError) as caught:
        make()
    assert caught.value.field == field
    assert str(caught.value.limit).endswith(message)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.__name__)
def test_every_misspelled_field_is_pointed_out(model: Any):
    for name in model.model_fields:
        for wrong in (name + "s", name[:-1], name + "_x", name.title()):
            if wrong not in model.model_fields and len(name) > 2:
                with pytest.raises(ms.ValidationError, match="no such field; did you mean ") as caught:
                    model(**{wrong: None})
                assert caught.value.field == wrong


def test_filters_and_their_values_are_pointed_out(storage: ms.MemoryStorage):
    for call, field, suggestion in [
        (lambda: storage.episodes.query(outcome="sucess"), "outcome", "success"),
        (lambda: storage.episodes.query(outcom="success"), "outcom", "outcome"),
        (lambda: storage.episodes.count(tags=["a"]), "tags", "tags_any"),
        (lambda: storage.episodes.count(task_type="debuging"), "task_type", "debugging"),
        (lambda: list(storage.episodes.iterate(complexity="comlex")), "complexity", "complex"),
        (lambda: storage.patterns.query(kind="heuristics"), "kind", "heuristic"),
        (lambda: storage.patterns.count(min_sucess_rate=0.5), "min_sucess_rate", "min_success_rate"),
        (lambda: storage.analytics.trend(outcome="failur"), "outcome", "failure"),
        (lambda: storage.episodes.complete(uuid4(), "success"), "outcome", "write Success(verdict=...)"),
    ]:
        with pytest.raises(ms.ValidationError) as caught:
            call()
        assert caught.value.field == field
        assert suggestion in str(caught.value.limit)
