"""A pattern: one thing learned from episodes, and how well it has served."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter

from .display import short_repr, shortened
from .episode import TaskContext
from .model import Finite, Int64, JsonObject, Model, Moment, Ratio, Version, new_id

PatternKind = Literal["tool_sequence", "decision_point", "error_recovery", "context_pattern", "heuristic"]


class Effectiveness(Model):
    """How a pattern has served. The store counts; a pattern that is saved again does not change it."""

    times_retrieved: Int64 = 0
    times_applied: Int64 = 0
    success_when_applied: Int64 = 0
    failure_when_applied: Int64 = 0
    avg_reward_delta: Finite = 0.0
    last_used_at: Moment | None = None


class _Pattern(Model):
    """What all kinds have. `success_rate` is over `occurrence_count` observations; `evidence` are the episodes."""

    id: UUID = Field(default_factory=new_id)
    version: Version = 0
    description: str = ""
    context: TaskContext = Field(default_factory=TaskContext)
    success_rate: Ratio = 0.0
    occurrence_count: Annotated[Int64, Field(ge=1)] = 1
    evidence: list[UUID] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    effectiveness: Effectiveness = Field(default_factory=Effectiveness)
    created_at: Moment | None = None
    updated_at: Moment | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"{name}={values[name]:.4g}" for name in ("success_rate", "occurrence_count") if name in values]
        return short_repr(type(self).__name__, values.get("id"), str(values.get("description", "")), facts)

    __str__ = __repr__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of patterns; `model_dump()` has all fields."""
        values = self.__dict__
        yield "id", values.get("id")
        yield "kind", values.get("kind")
        yield "description", shortened(str(values.get("description")))
        for name in ("success_rate", "occurrence_count", "version"):
            yield name, values.get(name)


class ToolSequence(_Pattern):
    """Tools that lead somewhere when they are used in this order."""

    kind: Literal["tool_sequence"] = "tool_sequence"
    tools: list[str]
    avg_latency_ms: Int64 = 0


class DecisionPoint(_Pattern):
    """A choice, and what it led to."""

    kind: Literal["decision_point"] = "decision_point"
    condition: str
    action: str
    success_count: Int64 = 0
    failure_count: Int64 = 0


class ErrorRecovery(_Pattern):
    """What to do after an error of this type."""

    kind: Literal["error_recovery"] = "error_recovery"
    error_type: str
    recovery_steps: list[str]


class ContextPattern(_Pattern):
    """An approach that suits surroundings with these features."""

    kind: Literal["context_pattern"] = "context_pattern"
    context_features: list[str]
    recommended_approach: str


class Heuristic(_Pattern):
    """A rule of thumb: when `condition`, do `action`."""

    kind: Literal["heuristic"] = "heuristic"
    condition: str
    action: str
    confidence: Ratio = 0.5


Pattern = Annotated[
    ToolSequence | DecisionPoint | ErrorRecovery | ContextPattern | Heuristic,
    Field(discriminator="kind"),
]
AnyPattern = ToolSequence | DecisionPoint | ErrorRecovery | ContextPattern | Heuristic

PATTERN: TypeAdapter[AnyPattern] = TypeAdapter(Pattern, config=ConfigDict(defer_build=True))
"""Reads any of the five kinds."""
