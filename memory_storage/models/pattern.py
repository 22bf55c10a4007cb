"""A pattern: something learned from episodes, with its usage counters."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, cast, get_args
from uuid import UUID

from pydantic import ConfigDict, Field, SerializerFunctionWrapHandler, TypeAdapter, model_serializer
from typing_extensions import Self

from memory_storage.errors import ValidationError

from .composition import PlaybookStep, compose_steps, pooled_statistics, shared_context, task_words, united
from .display import short_repr, shortened
from .episode import TaskContext
from .markdown import pattern_markdown, within
from .model import Finite, Int64, JsonObject, Model, Ratio, Timestamp, Version, new_id

PatternKind = Literal["tool_sequence", "decision_point", "error_recovery", "context_pattern", "heuristic", "playbook"]

_MAX_SOURCES = 100
_MAX_EVIDENCE = 1_000


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


class DomainRate(Model):
    """The success rate that a pattern of several domains has in one of them.

    Attributes:
        expected_rate: the rate by weight, with 2 episodes of the pattern's own `expected_rate` added.
        effective_episodes: how many episodes of today those of the domain weigh as much as.
    """

    expected_rate: Ratio
    effective_episodes: Annotated[Finite, Field(ge=0)]


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
        domains: of a pattern of several domains the rates in those with the most episodes, 20 at most.
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
    domains: dict[str, DomainRate] = Field(default_factory=dict)

    def rate_in(self, domain: str | None) -> tuple[float, float]:
        """Return the success rate to expect, and how many episodes of today are the evidence for it.

        Args:
            domain: The domain of the task; None if it has none, or several.
        """
        known = self.domains.get(domain) if domain is not None else None
        if known is None:
            return self.expected_rate, self.effective_episodes
        return known.expected_rate, known.effective_episodes


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

    @model_serializer(mode="wrap")
    def _without_unknowns(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out the statistics of a pattern that has none: it is written as by older versions."""
        values: dict[str, Any] = dump(self)
        if values.get("statistics", self) is None:
            del values["statistics"]
        return values

    def expected_rate(self, domain: str | None = None) -> float:
        """Return the success rate to expect of what it says: the decayed one of a learned pattern, else `success_rate`.

        A heuristic says what leads to failure if it was learned: then it is its confidence.

        Args:
            domain: The domain of the task, in which the pattern may have another rate.

        Returns:
            The rate, from 0 to 1.
        """
        return self.observations(domain)[0]

    def observations(self, domain: str | None = None) -> tuple[float, float]:
        """Return `expected_rate` and the number of episodes that it rests on, by their weight.

        Args:
            domain: The domain of the task.
        """
        if self.statistics is None:
            return self.success_rate, float(self.occurrence_count)
        rate, episodes = self.statistics.rate_in(domain)
        return (1.0 - rate if isinstance(self, Heuristic) else rate), episodes

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of patterns; `model_dump()` has all fields."""
        values = self.__dict__
        yield "id", values.get("id")
        yield "kind", values.get("kind")
        yield "description", shortened(self.title)
        for name in ("success_rate", "occurrence_count", "version"):
            yield name, values.get(name)

    @property
    def title(self) -> str:
        """What identifies the pattern to a reader: its description; of a playbook, its name and its purpose."""
        return str(self.__dict__.get("description", ""))

    def to_markdown(self, *, max_chars: int | None = None) -> str:
        """Return what it says, its success rate with a 95 % confidence interval, and its use, as Markdown for a prompt.

        Args:
            max_chars: The greatest length in characters; None for everything.

        Returns:
            An item of a list, in one line; a playbook's numbered steps follow in lines of their own.

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


class Playbook(_Pattern):
    """An ordered procedure with tool hints, written by hand or composed from patterns. Its description is its purpose.

    Attributes:
        name: what it is called, of 1 to 200 characters. Names need not be unique: the ID identifies a playbook.
        steps: what to do, in order; 1 to 100 steps.
        sources: ids of the patterns that it was composed from. They may have been deleted since. If one is erased, the
            playbook is erased too: its steps have the text of the pattern.
    """

    kind: Literal["playbook"] = "playbook"
    name: Annotated[str, Field(min_length=1, max_length=200)]
    steps: Annotated[list[PlaybookStep], Field(min_length=1, max_length=100)]
    sources: list[UUID] = Field(default_factory=list)

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"steps={len(values['steps'])}"] if "steps" in values else []
        facts += [f"{name}={values[name]:.4g}" for name in ("success_rate", "occurrence_count") if name in values]
        return short_repr("Playbook", values.get("id"), str(values.get("name", "")), facts)

    __str__ = __repr__

    @property
    def title(self) -> str:
        """The name, and the purpose if there is one."""
        name, purpose = (str(self.__dict__.get(field, "")) for field in ("name", "description"))
        return purpose if purpose.startswith(name) else f"{name}: {purpose}" if purpose else name

    @classmethod
    def from_patterns(cls, name: str, patterns: Iterable[AnyPattern], *, description: str = "") -> Self:
        """Compose a playbook from patterns. Deterministic, except for its ID; it is not stored.

        Tool sequences become steps, one for each tool: where one ends with the tools with which another begins, the
        longest overlap first, they are joined, and one that is part of another adds nothing. Decision points,
        heuristics and context patterns become steps with a condition; the steps of a playbook are taken as they are.
        Parts that do not overlap follow each other in the order of `patterns`. An error recovery becomes the `on_error`
        of each step with its tool (`metadata["tool"]`, else its last recovery step), or a last resort: a step of its
        own if no step uses that tool.

        `occurrence_count` is the sum, and `success_rate` the mean weighted by the occurrences: an estimate from the
        parts, in which an episode counts once for each pattern that it shows. Evidence is united, up to 1,000 episodes,
        and so are tags. The context has what the contexts of all patterns share. Usage counters begin at 0.

        Args:
            name: Its name, of 1 to 200 characters.
            patterns: 1 to 100 patterns of any kind, each once.
            description: Its purpose; by default the name with the words of tasks that learned patterns end with.

        Returns:
            The playbook, to be saved with `storage.patterns.save`.

        Raises:
            ValidationError: There are no patterns, or more than 100; one is given twice, or is no pattern; or
                together they make no step, more than 100, or more than 1,000 before they are joined.
        """
        parts = _checked_patterns(patterns)
        steps = compose_steps(parts)
        if not 1 <= len(steps) <= 100:
            raise ValidationError("patterns", "what makes 1 to 100 steps together", f"{len(steps)} steps")
        successes, occurrences = pooled_statistics(parts)
        return cls(
            name=name,
            description=description or task_words(name, parts),
            steps=steps,
            sources=[one.id for one in parts],
            context=shared_context(parts),
            success_rate=successes,
            occurrence_count=occurrences,
            evidence=united(one.evidence for one in parts)[:_MAX_EVIDENCE],
            tags=united(one.tags for one in parts),
        )


Pattern = Annotated[
    ToolSequence | DecisionPoint | ErrorRecovery | ContextPattern | Heuristic | Playbook,
    Field(discriminator="kind"),
]
AnyPattern = ToolSequence | DecisionPoint | ErrorRecovery | ContextPattern | Heuristic | Playbook

PATTERN: TypeAdapter[AnyPattern] = TypeAdapter(Pattern, config=ConfigDict(defer_build=True))
"""Reads any of the six kinds."""


def _checked_patterns(patterns: Iterable[AnyPattern]) -> list[AnyPattern]:
    if isinstance(patterns, str | bytes | Model) or not isinstance(patterns, Iterable):
        raise ValidationError("patterns", "a list of patterns", patterns)
    found = list(patterns)
    for index, one in enumerate(found):
        if type(one) not in get_args(AnyPattern):
            raise ValidationError(f"patterns.{index}", "a pattern, like ToolSequence(...)", one)
    if not 1 <= len(found) <= _MAX_SOURCES:
        raise ValidationError("patterns", f"1 to {_MAX_SOURCES} patterns", f"{len(found)} patterns")
    if len({one.id for one in found}) != len(found):
        raise ValidationError("patterns", "each pattern once", [str(one.id) for one in found])
    return found
