"""A pattern: something learned from episodes, with its usage counters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, cast
from uuid import UUID

from pydantic import ConfigDict, Field, TypeAdapter

from .display import short_repr, shortened
from .episode import TaskContext
from .markdown import pattern_markdown, within
from .model import Finite, Int64, JsonObject, Model, Ratio, Timestamp, Version, new_id

PatternKind = Literal["tool_sequence", "decision_point", "error_recovery", "context_pattern", "heuristic"]


class Effectiveness(Model):
    """Usage counters of a pattern. The store counts; saving a pattern again does not change them.

    Attributes:
        times_retrieved: how often it was retrieved.
        times_applied: how often it was applied.
        success_when_applied: successful applications.
        failure_when_applied: failed applications.
        avg_reward_delta: the mean change of the reward when applied.
        last_used_at: the last retrieval or application; None if unused.
    """

    times_retrieved: Int64 = 0
    times_applied: Int64 = 0
    success_when_applied: Int64 = 0
    failure_when_applied: Int64 = 0
    avg_reward_delta: Finite = 0.0
    last_used_at: Timestamp | None = None


class PatternStatistics(Model):
    """How sure a learned pattern is. `patterns.learn` sets and updates it.

    The age of an episode counts by its completion, in periods of 30 days, up to the latest one: its weight halves every
    90 days. So a pattern that no episode confirms any more expects the rate of all.

    Attributes:
        support: the share of the episodes it is compared with that show it, from 0 to 1.
        lift: the success rate relative to that of the episodes it is compared with.
        lift_low: the lower bound of the lift, at 95 %.
        lift_high: the upper bound of the lift, at 95 %.
        false_discovery_rate: the share of false discoveries among all comparisons as unlikely as this one (Benjamini
            and Hochberg, 1995), from 0 to 1.
        baseline_rate: the success rate of the episodes it is compared with: of all, of one domain, or of those that
            chose otherwise.
        expected_rate: the success rate by weight, with 2 episodes of the baseline added.
        effective_episodes: how many episodes of today its own ones weigh as much as.
        task_type: the task type that all of its episodes share; None if they do not.
    """

    support: Ratio
    lift: Finite
    lift_low: Finite
    lift_high: Finite
    false_discovery_rate: Ratio
    baseline_rate: Ratio
    expected_rate: Ratio
    effective_episodes: Annotated[Finite, Field(ge=0)]
    task_type: str | None = None


class _Pattern(Model):
    """The fields that all kinds of patterns share.

    Attributes:
        id: a UUID of version 7 by default.
        version: 0 until first saved; each save, merge and learned update adds 1.
        description: what the pattern says; searched by words.
        context: the context in which it holds.
        success_rate: from 0 to 1, over `occurrence_count` observations.
        occurrence_count: observations, at least 1.
        evidence: ids of the episodes that show it.
        tags: 100 at most, each once and of 2 to 100 characters, by default.
        metadata: further data, a JSON object.
        statistics: how sure it is, set by `patterns.learn`; None if it was not learned.
        effectiveness: usage counters, set by the store.
        created_at: when it was first saved.
        updated_at: when it was last saved.
    """

    id: UUID = Field(default_factory=new_id)
    version: Version = 0
    description: str = ""
    context: TaskContext = Field(default_factory=TaskContext)
    success_rate: Ratio = 0.0
    occurrence_count: Annotated[Int64, Field(ge=1)] = 1
    evidence: list[UUID] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    statistics: PatternStatistics | None = None
    effectiveness: Effectiveness = Field(default_factory=Effectiveness)
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None

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

    def to_markdown(self, *, max_chars: int | None = None) -> str:
        """Return what it says, its success rate with a 95 % confidence interval, and its use, as Markdown for a prompt.

        Args:
            max_chars: The greatest length in characters; None for everything.

        Returns:
            An item of a list, in one line.

        Raises:
            ValidationError: `max_chars` is not a whole number from 1.
        """
        return within(lambda detail: pattern_markdown(cast("AnyPattern", self), detail), max_chars)


class ToolSequence(_Pattern):
    """Tools that lead to success when used in this order.

    Attributes:
        tools: the tools, in order.
        avg_latency_ms: the mean duration of the sequence in milliseconds.
    """

    kind: Literal["tool_sequence"] = "tool_sequence"
    tools: list[str]
    avg_latency_ms: Int64 = 0


class DecisionPoint(_Pattern):
    """A choice and its results.

    Attributes:
        condition: the situation.
        action: what was chosen.
        success_count: how often that succeeded.
        failure_count: how often it failed.
    """

    kind: Literal["decision_point"] = "decision_point"
    condition: str
    action: str
    success_count: Int64 = 0
    failure_count: Int64 = 0


class ErrorRecovery(_Pattern):
    """Steps that resolve an error.

    Attributes:
        error_type: the kind of error.
        recovery_steps: what to do, in order.
    """

    kind: Literal["error_recovery"] = "error_recovery"
    error_type: str
    recovery_steps: list[str]


class ContextPattern(_Pattern):
    """An approach for a kind of context.

    Attributes:
        context_features: the features that identify the context.
        recommended_approach: what to do.
    """

    kind: Literal["context_pattern"] = "context_pattern"
    context_features: list[str]
    recommended_approach: str


class Heuristic(_Pattern):
    """A rule of thumb.

    Attributes:
        condition: when it applies.
        action: what to do.
        confidence: from 0 to 1; default 0.5.
    """

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
