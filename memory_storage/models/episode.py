"""An episode: a task with its steps and outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from functools import partial
from typing import Annotated, Any, Literal, TypeVar, overload
from uuid import UUID

from pydantic import Field, GetCoreSchemaHandler, SerializerFunctionWrapHandler, model_serializer, model_validator
from pydantic_core import CoreSchema, core_schema
from typing_extensions import Self

from memory_storage._formatting import counted
from memory_storage.errors import ValidationError

from .display import html_table, short_repr, shortened, table_of
from .markdown import episode_markdown, within
from .model import Finite, Int64, JsonObject, Model, Timestamp, Version, new_id, utc_now
from .summary import EpisodeSummary

T = TypeVar("T")


class TaskType(str, Enum):
    """The kind of work of an episode."""

    CODE_GENERATION = "code_generation"
    DEBUGGING = "debugging"
    REFACTORING = "refactoring"
    TESTING = "testing"
    ANALYSIS = "analysis"
    DOCUMENTATION = "documentation"
    OTHER = "other"

    __str__ = str.__str__


class Complexity(str, Enum):
    """The difficulty of a task."""

    SIMPLE = "simple"
    MODERATE = "moderate"
    COMPLEX = "complex"

    __str__ = str.__str__


TaskTypeName = Literal["code_generation", "debugging", "refactoring", "testing", "analysis", "documentation", "other"]
ComplexityName = Literal["simple", "moderate", "complex"]


class _EnumOrName:
    """Annotates a field that may be given as an enum's text, and always holds the enum."""

    def __init__(self, kind: type[Enum]) -> None:
        self._kind = kind

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return handler.generate_schema(self._kind)


class TaskContext(Model):
    """The surroundings of a task. Filters match its tags like those of the episode or pattern itself.

    Attributes:
        language: the programming language, like "python".
        framework: the framework, like "django".
        complexity: simple, moderate (the default) or complex.
        domain: the field of the task; "general" by default.
        tags: 100 at most, each once and of 2 to 100 characters, by default (see `Limits`).
    """

    language: str | None = None
    framework: str | None = None
    complexity: Annotated[Complexity | ComplexityName, _EnumOrName(Complexity)] = Complexity.MODERATE
    domain: str = "general"
    tags: list[str] = Field(default_factory=list)


class Success(Model):
    """The task succeeded.

    Attributes:
        verdict: what was achieved.
        artifacts: names or addresses of results.
    """

    kind: Literal["success"] = "success"
    verdict: str
    artifacts: list[str] = Field(default_factory=list)


class PartialSuccess(Model):
    """Part of the task succeeded.

    Attributes:
        verdict: what was achieved.
        completed: the parts that succeeded.
        failed: the parts that did not.
    """

    kind: Literal["partial_success"] = "partial_success"
    verdict: str
    completed: list[str] = Field(default_factory=list)
    failed: list[str] = Field(default_factory=list)


class Failure(Model):
    """The task failed.

    Attributes:
        reason: why.
        error_details: a longer explanation, like a traceback.
    """

    kind: Literal["failure"] = "failure"
    reason: str
    error_details: str | None = None


class Abstained(Model):
    """The agent decided to stop.

    Attributes:
        reason: why.
        stopped_at_step: the number of the last step, from 0; None if unknown.
        infeasibility_signals: what indicated that the task cannot be done.
    """

    kind: Literal["abstained"] = "abstained"
    reason: str
    stopped_at_step: Int64 | None = None
    infeasibility_signals: list[str] = Field(default_factory=list)


Outcome = Annotated[Success | PartialSuccess | Failure | Abstained, Field(discriminator="kind")]
OutcomeKind = Literal["success", "partial_success", "failure", "abstained"]
RecallKind = Literal["success", "failure", "pattern"]


class RewardScore(Model):
    """The reward of an episode. Only `total` is required, and only `total` is filtered and averaged.

    Attributes:
        total: the reward.
        base: the reward before the other terms; default 0.
        efficiency: a factor; default 1.
        complexity_bonus: a factor; default 1.
        quality_multiplier: a factor; default 1.
        learning_bonus: a summand; default 0.
    """

    total: Finite
    base: Finite = 0.0
    efficiency: Finite = 1.0
    complexity_bonus: Finite = 1.0
    quality_multiplier: Finite = 1.0
    learning_bonus: Finite = 0.0


class Reflection(Model):
    """The agent's assessment of an episode.

    Attributes:
        successes: what succeeded.
        improvements: what to do better.
        insights: what was learned.
        generated_at: when it was written; default: now.
    """

    successes: list[str] = Field(default_factory=list)
    improvements: list[str] = Field(default_factory=list)
    insights: list[str] = Field(default_factory=list)
    generated_at: Timestamp = Field(default_factory=utc_now)


class RecallReceipt(Model):
    """Which recall an episode was worked on with, and what it showed. `episodes.complete` stores it.

    Attributes:
        id: the ID of the recall.
        items: the kind and ID of each record that was recalled.
        used: the IDs of those that the work made use of; None if that is not known.
        rating: how much they helped, from 1 to 5; None if that is not known.
    """

    id: UUID
    items: list[tuple[RecallKind, UUID]] = Field(default_factory=list)
    used: list[UUID] | None = None
    rating: Annotated[int, Field(strict=True, ge=1, le=5)] | None = None

    @model_validator(mode="after")
    def _used_is_of_items(self) -> Self:
        for number, one in enumerate(self.used or ()):
            if one not in {identifier for _, identifier in self.items}:
                raise ValidationError("used", "IDs of what was recalled", str(one))
            if one in self.used[:number]:  # type: ignore[index]
                raise ValidationError("used", "each ID once", str(one))
        return self

    @model_serializer(mode="wrap")
    def _without_unknowns(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what is not known, so that a receipt of an older version is written as it was."""
        values: dict[str, Any] = dump(self)
        return {name: value for name, value in values.items() if value is not None}


class StepOk(Model):
    """The tool returned a result.

    Attributes:
        output: the result; a result has 1 MB of JSON at most by default (see `Limits.step_bytes`).
    """

    status: Literal["ok"] = "ok"
    output: str = ""


class StepError(Model):
    """The tool failed.

    Attributes:
        message: the error message.
    """

    status: Literal["error"] = "error"
    message: str


class StepTimeout(Model):
    """The tool did not respond in time."""

    status: Literal["timeout"] = "timeout"


StepResult = Annotated[StepOk | StepError | StepTimeout, Field(discriminator="status")]
StepStatus = Literal["ok", "error", "timeout"]


class Step(Model):
    """A tool call or another action of the agent.

    Attributes:
        id: a UUID of version 7 by default.
        step_number: the position in the episode, from 1; None: the next free one.
        started_at: when the step started; default: now.
        tool: the name of the tool.
        action: what was done with it.
        parameters: the arguments of the call, a JSON object; 1 MB at most by default.
        result: the result; None while the step runs.
        latency_ms: the duration in milliseconds; 0 if it was not measured.
        tokens_used: tokens of the language model; None if unknown.
        metadata: further data, a JSON object; 1 MB at most by default.
    """

    id: UUID = Field(default_factory=new_id)
    step_number: Annotated[int, Field(strict=True, ge=1, lt=2**31)] | None = None
    started_at: Timestamp = Field(default_factory=utc_now)
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


class LazyList(Sequence[T]):
    """A sequence that reads and compares like a list, and decodes its items on first access."""

    __slots__ = ("_items", "_read")

    def __init__(self, read: Callable[[], list[T]]) -> None:
        self._read: Callable[[], list[T]] | None = read
        self._items: list[T] = []

    @property
    def is_decoded(self) -> bool:
        """Whether the items are decoded already."""
        return self._read is None

    def as_list(self) -> list[T]:
        """Return the decoded items. Concurrent first accesses may both decode; the results are equal."""
        read = self._read
        if read is not None:
            self._items = read()
            self._read = None
        return self._items

    @overload
    def __getitem__(self, index: int) -> T: ...
    @overload
    def __getitem__(self, index: slice) -> list[T]: ...
    def __getitem__(self, index: int | slice) -> T | list[T]:
        return self.as_list()[index]

    def __len__(self) -> int:
        return len(self.as_list())

    def __iter__(self) -> Iterator[T]:
        return iter(self.as_list())

    def __add__(self, other: Sequence[T]) -> list[T]:
        return [*self.as_list(), *other]

    def __radd__(self, other: Sequence[T]) -> list[T]:
        return [*other, *self.as_list()]

    def __eq__(self, other: object) -> bool:
        return bool(self.as_list() == _as_list(other))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __reduce__(self) -> tuple[object, ...]:
        return LazyList, (partial(list, self.as_list()),)

    def __repr__(self) -> str:
        return repr(self.as_list())


class ListOrLazyList:
    """Annotates a `Sequence` field that takes and writes a list, and may hold a `LazyList`."""

    def __init__(self, item: type[Any]) -> None:
        self._item = item

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        items = handler.generate_schema(list[self._item])  # type: ignore[name-defined]
        return core_schema.json_or_python_schema(
            json_schema=items,
            python_schema=core_schema.no_info_before_validator_function(_as_list, items),
            serialization=core_schema.plain_serializer_function_ser_schema(_as_list, return_schema=items),
        )


def _as_list(items: Any) -> Any:
    return items.as_list() if isinstance(items, LazyList) else items


class Episode(Model):
    """A task from start to end. The store sets `version`, `created_at`, `updated_at` and `archived_at`.

    A save compares `version` and `created_at` with the stored row: an episode that was stored under the id of a deleted
    one is a different episode. Steps of an episode that was read are decoded on first access.

    Attributes:
        id: a UUID of version 7 by default.
        version: 0 until first saved; each `save` and `complete`, each change of its summary, and each deletion of a
            step, adds 1. `append_step`, `archive` and `restore` do not change it.
        task_description: the task; 10,000 characters at most by default.
        task_type: the kind of work; "other" by default. A string is converted.
        context: the surroundings.
        started_at: when the task started; default: now.
        completed_at: when it ended; None while it runs.
        outcome: how it ended; None while it runs.
        reward: its reward.
        reflection: the agent's assessment.
        summary: what it came to, in a few sentences; `summaries.put` and `summaries.summarize` set it.
        recalled: the recall that it was worked on with; `episodes.complete` sets it.
        artifacts: names or addresses of results.
        tags: 100 at most, each once and of 2 to 100 characters, by default.
        metadata: further data, a JSON object.
        steps: the steps, ascending by number.
        created_at: when it was first saved.
        updated_at: when it was last saved.
        archived_at: when it was archived; None if it is not.
    """

    id: UUID = Field(default_factory=new_id)
    version: Version = 0
    task_description: str
    task_type: Annotated[TaskType | TaskTypeName, _EnumOrName(TaskType)] = TaskType.OTHER
    context: TaskContext = Field(default_factory=TaskContext)
    started_at: Timestamp = Field(default_factory=utc_now)
    completed_at: Timestamp | None = None
    outcome: Outcome | None = None
    reward: RewardScore | None = None
    reflection: Reflection | None = None
    summary: EpisodeSummary | None = None
    recalled: RecallReceipt | None = None
    artifacts: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    metadata: JsonObject = Field(default_factory=dict)
    steps: Annotated[Sequence[Step], ListOrLazyList(Step)] = Field(default_factory=list)
    created_at: Timestamp | None = None
    updated_at: Timestamp | None = None
    archived_at: Timestamp | None = None

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

    def to_markdown(self, *, max_chars: int | None = None) -> str:
        """Return the task, outcome, insights and steps as Markdown for a prompt.

        Each stored text is one line and cannot change the structure.

        Args:
            max_chars: The greatest length in characters: outputs are shortened first, then steps are left out. None
                for everything.

        Returns:
            A heading and a list.

        Raises:
            ValidationError: `max_chars` is not a whole number from 1.
        """
        return within(lambda detail: episode_markdown(self, detail), max_chars)

    @model_validator(mode="after")
    def _number_steps(self) -> Self:
        self.__dict__["steps"] = number_steps(self.steps)
        return self


def number_steps(steps: Sequence[Step]) -> list[Step]:
    """Number the steps: one without a number gets the one after the step before it.

    Raises:
        ValidationError: two steps have one id, or the numbers do not grow.
    """
    result: list[Step] = []
    ids: set[UUID] = set()
    last = 0
    for index, step in enumerate(steps):
        if step.id in ids:
            raise ValidationError(f"steps.{index}.id", "each step its own id: one before has this one", str(step.id))
        ids.add(step.id)
        number = last + 1 if step.step_number is None else step.step_number
        if number <= last:
            raise ValidationError(f"steps.{index}.step_number", f"above {last}, the number of the step before", number)
        result.append(step if step.step_number == number else step.model_copy(update={"step_number": number}))
        last = number
    return result
