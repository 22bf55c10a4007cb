"""An episode: one task from start to end, its steps, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, GetCoreSchemaHandler, model_validator
from pydantic_core import CoreSchema
from typing_extensions import Self

from memory_storage._formatting import counted
from memory_storage.errors import ValidationError

from .display import html_table, short_repr, shortened, table_of
from .lazy_list import LazyList, ListOrLazy
from .model import Finite, Int64, JsonObject, Model, Moment, Version, new_id, utc_now


class TaskType(str, Enum):
    """What kind of work an episode is."""

    CODE_GENERATION = "code_generation"
    DEBUGGING = "debugging"
    REFACTORING = "refactoring"
    TESTING = "testing"
    ANALYSIS = "analysis"
    DOCUMENTATION = "documentation"
    OTHER = "other"

    __str__ = str.__str__


class Complexity(str, Enum):
    """How hard a task is."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"

    __str__ = str.__str__


TaskTypeName = Literal["code_generation", "debugging", "refactoring", "testing", "analysis", "documentation", "other"]
ComplexityName = Literal["simple", "moderate", "complex"]


class _Is:
    """Annotates a field that may be given as an enum's text, and always holds the enum."""

    def __init__(self, kind: type[Enum]) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self._kind)


class TaskContext(Model):
    """The surroundings of a task. Filters find its tags like those of the episode or pattern itself."""

    language: str | None = None
    framework: str | None = None
    complexity: Annotated[Complexity | ComplexityName, _Is(Complexity)] = Complexity.MODERATE
    domain: str = "general"
    tags: list[str] = Field(default_factory=list)


class Success(Model):
    """It worked."""

    kind: Literal["success"] = "success"
    verdict: str
    artifacts: list[str] = Field(default_factory=list)


class PartialSuccess(Model):
    """Some of it worked."""

    kind: Literal["partial_success"] = "partial_success"
    verdict: str
    completed: list[str] = Field(default_factory=list)
    failed: list[str] = Field(default_factory=list)


class Failure(Model):
    """It did not work."""

    kind: Literal["failure"] = "failure"
    reason: str
    error_details: str | None = None


class Abstained(Model):
    """The agent decided not to go on."""

    kind: Literal["abstained"] = "abstained"
    reason: str
    stopped_at_step: Int64 | None = None
    infeasibility_signals: list[str] = Field(default_factory=list)


Outcome = Annotated[Success | PartialSuccess | Failure | Abstained, Field(discriminator="kind")]
OutcomeKind = Literal["success", "partial_success", "failure", "abstained"]


class RewardScore(Model):
    """How good it was: `total`, and the parts it was made of."""

    total: Finite
    base: Finite = 0.0
    efficiency: Finite = 1.0
    complexity_bonus: Finite = 1.0
    quality_multiplier: Finite = 1.0
    learning_bonus: Finite = 0.0


class Reflection(Model):
    """What the agent thinks of it afterwards."""

    successes: list[str] = Field(default_factory=list)
    improvements: list[str] = Field(default_factory=list)
    insights: list[str] = Field(default_factory=list)
    generated_at: Moment = Field(default_factory=utc_now)


class StepOk(Model):
    """The tool answered."""

    status: Literal["ok"] = "ok"
    output: str = ""


class StepError(Model):
    """The tool said no."""

    status: Literal["error"] = "error"
    message: str


class StepTimeout(Model):
    """The tool did not answer in time."""

    status: Literal["timeout"] = "timeout"


StepResult = Annotated[StepOk | StepError | StepTimeout, Field(discriminator="status")]
StepStatus = Literal["ok", "error", "timeout"]


class Step(Model):
    """One tool call or action. `step_number` counts from 1; leave it out, and the next one is given."""

    id: UUID = Field(default_factory=new_id)
    step_number: Annotated[int, Field(strict=True, ge=1, lt=2**31)] | None = None
    started_at: Moment = Field(default_factory=utc_now)
    tool: str
    action: str = ""
    parameters: JsonObject = Field(default_factory=dict)
    result: StepResult | None = None
    latency_ms: Int64 = 0
    tokens_used: Int64 | None = None
    metadata: JsonObject = Field(default_factory=dict)

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"tool={shortened(str(values.get('tool')), 16)!r}"]
        if values.get("action"):
            facts.append(f"action={shortened(str(values['action']), 20)!r}")
        if values.get("step_number") is not None:
            facts.insert(0, f"step_number={values['step_number']}")
        if values.get("result") is not None:
            facts.append(f"status={getattr(values['result'], 'status', None)!r}")
        return short_repr("Step", values.get("id"), "", facts)

    __str__ = __repr__

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of steps; `model_dump()` has all fields."""
        values = self.__dict__
        yield "id", values.get("id")
        yield "step_number", values.get("step_number")
        yield "tool", shortened(str(values.get("tool")))
        if values.get("action"):
            yield "action", shortened(str(values["action"]))
        yield "status", getattr(values.get("result"), "status", None)
        yield "latency_ms", values.get("latency_ms")


class Episode(Model):
    """One task from start to end. `version`, `created_at`, `updated_at` and `archived_at` are the store's to set.

    `version` is 0 until it is first saved, and grows by one with each `save` and `complete`, and when one of its steps
    is deleted; `append_step`, `archive` and `restore` leave it. A save compares `created_at` too: an episode that was
    stored under the id of a deleted one is another one. Steps stand in the order of their numbers; those of an episode
    that was read are decoded when they are first looked at.
    """

    id: UUID = Field(default_factory=new_id)
    version: Version = 0
    task_description: str
    task_type: Annotated[TaskType | TaskTypeName, _Is(TaskType)] = TaskType.OTHER
    context: TaskContext = Field(default_factory=TaskContext)
    started_at: Moment = Field(default_factory=utc_now)
    completed_at: Moment | None = None
    outcome: Outcome | None = None
    reward: RewardScore | None = None
    reflection: Reflection | None = None
    artifacts: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    steps: Annotated[Sequence[Step], ListOrLazy(Step)] = Field(default_factory=list)
    created_at: Moment | None = None
    updated_at: Moment | None = None
    archived_at: Moment | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = []
        if values.get("outcome") is not None:
            facts.append(f"outcome={getattr(values['outcome'], 'kind', None)!r}")
        if values.get("reward") is not None:
            facts.append(f"reward={getattr(values['reward'], 'total', 0.0):.4g}")
        steps = values.get("steps", ())
        if not isinstance(steps, LazyList) or steps.is_decoded:  # a repr neither decodes anything nor fails
            facts.append(counted(len(steps), "step"))
        return short_repr("Episode", values.get("id"), str(values.get("task_description")), facts)

    __str__ = __repr__

    def _repr_html_(self) -> str:
        facts = [*self.__repr_args__(), ("task_type", self.task_type), ("domain", self.context.domain)]
        facts += [("started_at", self.started_at), ("completed_at", self.completed_at), ("tags", ", ".join(self.tags))]
        steps = html_table(*table_of(self.steps)) if self.steps else ""
        return html_table(["field", "value"], [(name or "", value) for name, value in facts]) + steps

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of episodes; `model_dump()` has all fields."""
        yield "id", self.__dict__.get("id")
        yield "task_description", shortened(str(self.__dict__.get("task_description")))
        for name in ("outcome", "reward"):
            value = self.__dict__.get(name)
            if value is not None:
                yield name, getattr(value, "kind", getattr(value, "total", None))
        yield "version", self.__dict__.get("version")

    @property
    def is_complete(self) -> bool:
        """Whether it has an outcome."""
        return self.outcome is not None

    @model_validator(mode="after")
    def _number_the_steps(self) -> Self:
        self.__dict__["steps"] = numbered(self.steps)
        return self


def numbered(steps: Sequence[Step]) -> list[Step]:
    """Number the steps: one without a number gets the one after the step before it.

    Raises:
        ValidationError: two steps have one id, or the numbers do not grow.
    """
    result: list[Step] = []
    ids: set[UUID] = set()
    last = 0
    for index, step in enumerate(steps):
        if step.id in ids:
            raise ValidationError(f"steps.{index}.id", "each step once: another one has this id", str(step.id))
        ids.add(step.id)
        number = last + 1 if step.step_number is None else step.step_number
        if number <= last:
            raise ValidationError(f"steps.{index}.step_number", f"numbers grow: the step before has {last}", number)
        result.append(step if step.step_number == number else step.model_copy(update={"step_number": number}))
        last = number
    return result
