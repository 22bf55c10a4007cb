"""Episodes and steps as the values of their rows, and back.

A document holds what the columns of its row lack. Rows of older versions repeat columns in their documents: what a
document says of a time counts there, since it has the time's offset from UTC.

What is written was validated when the caller made the model, unless `model_construct`, `model_copy` or a change of a
nested list bypassed that. So each value is checked before it is stored, and each document is read back and compared.
What is read was checked when it was written, so a model is made without validating it again, but for its documents.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, NamedTuple, TypeVar
from uuid import UUID, SafeUUID

from pydantic import BaseModel, ConfigDict, TypeAdapter
from pydantic_core import PydanticSerializationError, to_json
from typing_extensions import NotRequired, TypedDict

from memory_storage.errors import CorruptDataError, ValidationError
from memory_storage.models import (
    Complexity,
    Episode,
    EpisodeSummary,
    LazyList,
    Outcome,
    RecallReceipt,
    Reflection,
    RewardScore,
    Step,
    StepError,
    StepOk,
    StepTimeout,
    TaskContext,
    TaskType,
)
from memory_storage.models import number_steps as number_each
from memory_storage.models.model import _FIXED_OFFSETS, JsonObject, Timestamp
from memory_storage.schema.words import words_of_episode, words_of_step

from .documents import OnCorrupt, corrupt_error, encode, report_corrupt
from .statement import from_micros, to_micros
from .validation import is_storable, size

M = TypeVar("M", bound=BaseModel)

STEP_COLUMNS = (
    *("namespace", "episode_id", "step_number", "id", "tool", "status", "latency_ms", "tokens_used", "started_at"),
    *("output", "document", "words"),
)
EPISODE_COLUMNS = (
    *("namespace", "id", "version", "task_type", "domain", "language", "framework", "complexity", "outcome", "reward"),
    *("started_at", "completed_at", "created_at", "updated_at", "archived_at", "document", "words"),
)

STEP_ROW = (*("step_number", "id", "document", "output", "tool", "status", "latency_ms", "tokens_used", "started_at"),)
"""The columns from which a step is made, in order."""

EPISODE_ROW = (
    *("id", "document", "version", "created_at", "updated_at", "archived_at", "task_type", "domain", "language"),
    *("framework", "complexity", "started_at", "completed_at"),
)
"""The columns from which an episode is made, in order."""

_NO_OTHERS = ConfigDict(extra="forbid")
_UTC = timedelta(0)
_FIRST = to_micros(datetime.min.replace(tzinfo=timezone.utc))
_LAST = to_micros(datetime.max.replace(tzinfo=timezone.utc))
_INT64 = 2**63
_OTHER_COLUMNS = 100  # bytes of ids and numbers


class _StepDocument(TypedDict):
    __pydantic_config__ = _NO_OTHERS  # type: ignore[misc]
    action: str
    parameters: JsonObject
    metadata: JsonObject
    started_at: NotRequired[Timestamp]
    # What older versions repeated of the columns is not looked at.
    id: NotRequired[Any]
    step_number: NotRequired[Any]
    tool: NotRequired[Any]
    result: NotRequired[Any]
    latency_ms: NotRequired[Any]
    tokens_used: NotRequired[Any]


class _ContextDocument(TypedDict):
    __pydantic_config__ = _NO_OTHERS  # type: ignore[misc]
    tags: list[str]
    language: NotRequired[Any]
    framework: NotRequired[Any]
    complexity: NotRequired[Any]
    domain: NotRequired[Any]


class _EpisodeDocument(TypedDict):
    __pydantic_config__ = _NO_OTHERS  # type: ignore[misc]
    context: _ContextDocument
    task_description: str
    outcome: Outcome | None
    reward: RewardScore | None
    reflection: Reflection | None
    artifacts: list[str]
    tags: list[str]
    metadata: JsonObject
    # Only where there is one: older versions read an episode without.
    summary: NotRequired[EpisodeSummary | None]
    recalled: NotRequired[RecallReceipt | None]
    started_at: NotRequired[Timestamp]
    completed_at: NotRequired[Timestamp | None]
    id: NotRequired[Any]
    task_type: NotRequired[Any]


_DEFERRED = ConfigDict(defer_build=True)
_STEPS = TypeAdapter(list[_StepDocument], config=_DEFERRED)
_EPISODES = TypeAdapter(list[_EpisodeDocument], config=_DEFERRED)


class StoredEpisode(NamedTuple):
    """An episode as it is stored.

    Attributes:
        episode: The episode as it will be read back; nothing of it is shared with the caller's.
        document: Its document.
        steps: The values of its steps' rows, from the number on.
    """

    episode: Episode
    document: str
    steps: list[tuple[Any, ...]]

    @property
    def step_sizes(self) -> dict[int, int]:
        """The bytes of each step's row, by the step's number."""
        return {row[0]: bytes_of_step(row) for row in self.steps}


def bytes_of_step(row: tuple[Any, ...]) -> int:
    """Return the bytes of a step's row: of its document and output, and of its other columns at most 100 more."""
    return _OTHER_COLUMNS + size(row[2]) + size(row[7] or "") + size(row[8])


def number_steps(episode: Episode) -> Episode:
    """Return the episode with all steps numbered: one made by `model_copy` was not validated."""
    steps = getattr(episode, "steps", None)
    if not isinstance(steps, list) or not all(isinstance(step, Step) for step in steps):
        return episode  # not yet decoded, or invalid: encode() refuses it
    if all(step.step_number for step in steps):
        return episode
    return episode.model_copy(update={"steps": number_each(steps)})


def encode_episode(episode: Episode, field: str = "") -> StoredEpisode:
    """Return an episode as it is stored.

    Args:
        episode: The episode; its steps are numbered.
        field: The path that an error gives it.

    Raises:
        ValidationError: it is no episode, cannot be written as JSON, or would not be read back equal:
            `model_construct` and `model_copy` bypass validation, and JSON has no NaN.
    """
    if type(episode) is Episode:
        # Nearly every episode is what its class says. An error here may have any cause, and says nothing of it.
        try:
            return _encode_episode(episode)
        except _DOUBTFUL:
            pass
    # The slow way finds out what is wrong, or reads a value as another one that is equal to it.
    _, read = encode(Episode, episode, field)
    return _encode_episode(read, is_checked=True)


def encode_step(step: Step) -> tuple[Any, ...]:
    """Return the values of a step's row, from the number on.

    Raises:
        ValidationError: as for `encode_episode`.
    """
    if type(step) is Step:
        try:
            return _encode_steps([step])[0]
        except _DOUBTFUL:
            pass
    _, read = encode(Step, step)
    return _encode_steps([read], is_checked=True)[0]


def encode_steps(steps: Sequence[Step], field: str) -> list[tuple[Any, ...]]:
    """Return the values of the rows of several steps, each from the number on.

    Args:
        steps: The steps, without numbers.
        field: The path that an error gives them.

    Raises:
        ValidationError: as for `encode_episode`; or two of them have one ID.
    """
    if all(type(step) is Step for step in steps):
        try:
            return _encode_steps(steps)
        except _DOUBTFUL:
            pass
    read = [encode(Step, step, f"{field}.{number}" if len(steps) > 1 else "")[1] for number, step in enumerate(steps)]
    if len({step.id for step in read}) != len(read):
        raise ValidationError(field, "each id once", [str(step.id) for step in read])
    return _encode_steps(read, is_checked=True)


def steps_of_values(rows: Sequence[tuple[Any, ...]], numbers: Sequence[int]) -> list[Step]:
    """Return the steps of `encode_steps` with the numbers that the store has given them."""
    return decode_steps([_read_again((number, *row[1:])) for row, number in zip(rows, numbers, strict=True)])


def step_of_values(row: tuple[Any, ...], number: int) -> Step:
    """Return the step of `encode_step` with the number that the store has given it."""
    return decode_steps([_read_again((number, *row[1:]))])[0]


def episode_of_row(row: Sequence[Any], steps: Sequence[Sequence[Any]]) -> Episode:
    """Return the episode in a row of `EPISODE_ROW`, with the steps in rows of `STEP_ROW`, decoded on first access.

    Raises:
        CorruptDataError: the row cannot be decoded.
    """
    try:
        content = _EPISODES.validate_json(f"[{row[1]}]")[0]
        return _episode(_uuid(row[0]), content, row, steps)
    except _UNREADABLE as error:
        raise corrupt_error("episodes", row[0]) from error


def episodes_of_rows(rows: Sequence[tuple[Sequence[Any], Sequence[Sequence[Any]]]]) -> list[Episode]:
    """Return the episode of each pair of a row and the rows of its steps, as `episode_of_row` does.

    Raises:
        CorruptDataError: a row cannot be decoded; names the first.
    """
    # One array for one call of the parser; if it fails, rows are decoded one by one to name the damaged one.
    try:
        contents = _EPISODES.validate_json(f"[{','.join([row[1] for row, _ in rows])}]")
        if len(contents) == len(rows):
            pairs = zip(rows, contents, strict=True)
            return [_episode(_uuid(row[0]), content, row, steps) for (row, steps), content in pairs]
    except _UNREADABLE:
        pass
    return [episode_of_row(row, steps) for row, steps in rows]


def decode_steps(rows: Sequence[Sequence[Any]]) -> list[Step]:
    """Return the steps in rows of `STEP_ROW`.

    Raises:
        CorruptDataError: a row cannot be decoded; names the first.
    """
    # One array for one call of the parser; if it fails, rows are decoded one by one to name the damaged one.
    try:
        contents = _STEPS.validate_json(f"[{','.join([row[2] for row in rows])}]")
        if len(contents) == len(rows):
            return [_step(row, content) for row, content in zip(rows, contents, strict=True)]
    except (ValueError, TypeError, OverflowError):
        pass
    return [_decode_step(row) for row in rows]


def read_episode_document(document: bytes) -> None:
    """Read an episode's document. ValueError if that is impossible."""
    _EPISODES.validate_json(b"[%b]" % document)


def read_step_document(document: bytes) -> None:
    """Read a step's document. ValueError if that is impossible."""
    _STEPS.validate_json(b"[%b]" % document)


def readable_steps(rows: Sequence[Sequence[Any]], on_corrupt: OnCorrupt) -> list[Step]:
    """Return the steps that can be decoded."""
    try:
        return decode_steps(rows)
    except CorruptDataError:  # one by one only now, to leave out only the damaged ones
        found = [report_corrupt(partial(_decode_step, row), on_corrupt) for row in rows]
        return [step for step in found if step]


def with_columns_of_row(episode: Episode, state: Sequence[Any]) -> Episode:
    """Return a copy of an episode with the columns that the database has set: version, and the times of the store."""
    version, created_at, updated_at, archived_at = state
    times = map(from_micros, (created_at, updated_at, archived_at))
    values = dict(zip(("created_at", "updated_at", "archived_at"), times, strict=True))
    return _made(Episode, {**episode.__dict__, "version": version, **values})


def _decode_step(row: Sequence[Any]) -> Step:
    try:
        return _step(row, _STEPS.validate_json(f"[{row[2]}]")[0])
    except (ValueError, TypeError, OverflowError, IndexError) as error:
        raise corrupt_error("steps", row[1]) from error


class _Remarkable(Exception):  # noqa: N818 - not an error: the value is looked at again
    """A value is not of the class, or not in the range, that the model gives it."""


_UNREADABLE = (ValueError, TypeError, KeyError, OverflowError)  # of a row that another program has changed
_DOUBTFUL = (
    *(_Remarkable, KeyError, AttributeError, TypeError, ValueError, OverflowError, RecursionError),
    PydanticSerializationError,
)


def _encode_episode(episode: Episode, *, is_checked: bool = False) -> StoredEpisode:
    values = episode.__dict__
    context, started_at, completed_at = values["context"], values["started_at"], values["completed_at"]
    _check_version(values["version"])
    _micros(started_at)
    for moment in (completed_at, values["created_at"], values["updated_at"], values["archived_at"]):
        if moment is not None:
            _micros(moment)
    if (
        type(values["id"]) is not UUID
        or type(values["task_type"]) is not TaskType
        or type(context) is not TaskContext
        or type(context.complexity) is not Complexity
    ):
        raise _Remarkable
    for text in (context.domain, context.language or "", context.framework or ""):
        _check_text(text)
    content = {
        "context": {"tags": context.tags},
        **{name: values[name] for name in ("task_description", "outcome", "reward", "reflection", "artifacts", "tags")},
        "metadata": values["metadata"],
        **{name: values[name] for name in _OPTIONAL if values[name] is not None},
    }
    # A column has no offset from UTC: a time that has one is in the document too.
    for name, moment in (("started_at", started_at), ("completed_at", completed_at)):
        if moment is not None and moment.tzinfo is not timezone.utc and moment.utcoffset() != _UTC:
            content[name] = moment
    # Read back at once: whatever JSON cannot hold, NaN or a tuple, is not equal then.
    document = _as_json(content, is_checked=is_checked)
    read = _EPISODES.validate_json(f"[{document}]")[0]
    if read != content:
        raise _Remarkable
    rows = _encode_steps(values["steps"], is_checked=is_checked)
    others = {name: values[name] for name in ("version", "created_at", "updated_at", "archived_at")}
    # The caller's lists and objects are not shared with the copy: the steps are made of their rows, when they are used.
    steps: Any = LazyList(partial(decode_steps, [_read_again(row) for row in rows])) if rows else []
    copy = {
        "id": values["id"],
        **others,
        "task_type": values["task_type"],
        "context": _made(TaskContext, {**context.__dict__, "tags": read["context"]["tags"]}),
        "started_at": started_at,
        "completed_at": completed_at,
        "steps": steps,
        **{name: read[name] for name in _IN_DOCUMENT},  # type: ignore[literal-required]
        **{name: read.get(name) for name in _OPTIONAL},
    }
    return StoredEpisode(_made(Episode, {name: copy[name] for name in _EPISODE_FIELDS}), document, rows)


def _encode_steps(steps: Sequence[Step], *, is_checked: bool = False) -> list[tuple[Any, ...]]:
    contents: list[dict[str, Any]] = []
    rows: list[tuple[Any, ...]] = []
    ids: set[UUID] = set()
    last = 0
    for step in steps:
        if type(step) is not Step:
            raise _Remarkable
        values = step.__dict__
        # Each value is read once: this loop takes most of the time that a save spends in Python.
        step_id, number, tool, started_at = values["id"], values["step_number"], values["tool"], values["started_at"]
        latency, tokens = values["latency_ms"], values["tokens_used"]
        if (
            type(step_id) is not UUID
            or not (number is None or (type(number) is int and last < number < 2**31))
            or not (type(latency) is int and 0 <= latency < _INT64)
            or not (tokens is None or (type(tokens) is int and 0 <= tokens < _INT64))
            or type(tool) is not str
            or not is_storable(tool)
        ):
            raise _Remarkable
        # Two steps with one id are found by the size of the set, after the loop.
        ids.add(step_id)
        last = number or last
        status, output = _result(values["result"])
        content = {"action": values["action"], "parameters": values["parameters"], "metadata": values["metadata"]}
        micros = _micros(started_at)
        if started_at.tzinfo is not timezone.utc and started_at.utcoffset() != _UTC:
            content["started_at"] = started_at
        document = _as_json(content, is_checked=is_checked)
        # Nearly all text is ASCII, which a string knows of itself: only other text may be spelled otherwise.
        is_ascii = document.isascii() and tool.isascii() and (output is None or output.isascii())
        words = None if is_ascii else words_of_step(document, output, tool)
        contents.append(content)
        rows.append((number, str(step_id), tool, status, latency, tokens, micros, output, document, words))
    if len(ids) != len(rows):
        raise _Remarkable
    # All documents in one call of the parser, which costs more to begin than to read one of them.
    if contents and _STEPS.validate_json(f"[{','.join([row[8] for row in rows])}]") != contents:
        raise _Remarkable
    return rows


def episode_values(
    stored: StoredEpisode, namespace: str, version: int, created_at: int, updated_at: int, archived_at: int | None
) -> tuple[Any, ...]:
    """Return the values of `EPISODE_COLUMNS`."""
    values = stored.episode.__dict__
    context, outcome, reward, completed_at = (values[name] for name in ("context", "outcome", "reward", "completed_at"))
    document = stored.document
    return (
        namespace,
        str(values["id"]),
        version,
        values["task_type"].value,
        context.domain,
        context.language,
        context.framework,
        context.complexity.value,
        outcome and outcome.kind,
        reward and reward.total,
        to_micros(values["started_at"]),
        completed_at and to_micros(completed_at),
        created_at,
        updated_at,
        archived_at,
        document,
        None if document.isascii() else words_of_episode(document),
    )


def _episode(
    episode_id: UUID, content: _EpisodeDocument, row: Sequence[Any], steps: Sequence[Sequence[Any]]
) -> Episode:
    version, created_at, updated_at, archived_at, task_type, domain, language, framework, complexity = row[2:11]
    started_at, completed_at = row[11:13]
    if (
        type(version) is not int
        or type(domain) is not str
        or not (language is None or type(language) is str)
        or not (framework is None or type(framework) is str)
    ):
        raise TypeError("a column is of another type")
    context = {
        "language": language,
        "framework": framework,
        "complexity": _COMPLEXITIES[complexity],
        "domain": domain,
        "tags": content["context"]["tags"],
    }
    # In the order of the fields, in which a model is dumped and shown.
    values = {
        "id": episode_id,
        "version": version,
        "task_description": content["task_description"],
        "task_type": _TASK_TYPES[task_type],
        "context": _made(TaskContext, context),
        "started_at": content.get("started_at") or from_micros(started_at),
        "completed_at": content.get("completed_at") or from_micros(completed_at),
        "outcome": content["outcome"],
        "reward": content["reward"],
        "reflection": content["reflection"],
        "summary": content.get("summary"),
        "recalled": content.get("recalled"),
        "artifacts": content["artifacts"],
        "tags": content["tags"],
        "metadata": content["metadata"],
        # Decoding the steps takes most of a read, and many callers need none of them.
        "steps": LazyList(partial(decode_steps, steps)) if steps else [],
        "created_at": (created := from_micros(created_at)),
        "updated_at": created if updated_at == created_at else from_micros(updated_at),
        "archived_at": from_micros(archived_at),
    }
    return _made(Episode, values)


def _step(row: Sequence[Any], content: _StepDocument) -> Step:
    number, step_id, _, output, tool, status, latency_ms, tokens_used, started_at = row
    # Columns are not validated, but another program may have stored a value of another type in them.
    if type(number) is not int or type(tool) is not str or type(latency_ms) is not int:
        raise TypeError("a column is of another type")
    if not (output is None or type(output) is str) or not (tokens_used is None or type(tokens_used) is int):
        raise TypeError("a column is of another type")
    values = {
        "id": _uuid(step_id),
        "step_number": number,
        "started_at": content.get("started_at") or from_micros(started_at),
        "tool": tool,
        "action": content["action"],
        "parameters": content["parameters"],
        "result": _result_of(status, output),
        "latency_ms": latency_ms,
        "tokens_used": tokens_used,
        "metadata": content["metadata"],
    }
    return _made(Step, values)


def _result_of(status: Any, output: str | None) -> StepOk | StepError | StepTimeout | None:
    # A result has no document: all of it is in columns.
    if status == "ok":
        return _made(StepOk, {"status": "ok", "output": output or ""})
    if status == "error":
        return _made(StepError, {"status": "error", "message": output or ""})
    if status == "timeout":
        return StepTimeout()
    if status is not None:
        raise ValueError("no status of a result")
    return None


def _result(result: Any) -> tuple[str | None, str | None]:
    """Return the status and the text of a step's result."""
    kind = type(result)
    if result is None:
        return None, None
    if kind is StepOk:
        status, text = "ok", result.__dict__["output"]
    elif kind is StepError:
        status, text = "error", result.__dict__["message"]
    elif kind is StepTimeout:
        status, text = "timeout", None
    else:
        raise _Remarkable
    if result.__dict__["status"] != status:
        raise _Remarkable
    if kind is not StepTimeout:
        _check_text(text)
    return status, text


def _read_again(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a step's row, as it was written, in the order in which it is read."""
    number, step_id, tool, status, latency, tokens, started_at, output, document, _ = row
    return number, step_id, document, output, tool, status, latency, tokens, started_at


def _as_json(content: dict[str, Any], *, is_checked: bool) -> str:
    # NaN and the infinities become null, which is not equal to them when it is read back.
    document = to_json(content, inf_nan_mode="null").decode()
    # NUL ends a text for SQLite's functions. In JSON it is escaped, as are the characters of its escape in a text.
    if "\\u0000" in document and not is_checked:
        raise _Remarkable
    return document


def _check_text(text: Any) -> None:
    if type(text) is not str or not is_storable(text):
        raise _Remarkable


def _check_version(version: Any) -> None:
    if type(version) is not int or not 0 <= version < 2**53:
        raise _Remarkable


def _micros(moment: Any) -> int:
    """Return a time as its column has it."""
    # A named time zone has ambiguous hours; models convert those, but `model_copy` does not.
    if type(moment) is not datetime or not isinstance(moment.tzinfo, _FIXED_OFFSETS):
        raise _Remarkable
    # With an offset, a moment of year 1 or 9999 may be beyond these years in UTC, where no datetime can hold it.
    micros = to_micros(moment)
    if not _FIRST <= micros <= _LAST:  # in UTC
        raise _Remarkable
    return micros


def _uuid(text: str) -> UUID:
    """Return `UUID(text)` of a text in the form in which ids are stored, in half the time."""
    # The class checks its arguments for five other forms.
    digits = text.replace("-", "")
    if len(digits) != 32 or len(text) != 36:
        raise ValueError("not the text of a UUID")
    made: UUID = _new(UUID)
    _set_int(made, int(digits, 16))
    _set_is_safe(made, _UNKNOWN)
    return made


def _made(kind: type[M], values: dict[str, Any]) -> M:
    """Return a model of values that are known to be valid: all of its fields, in order."""
    # What `model_construct` does, without its defaults and copies. No instance changes the set of fields: it is shared.
    made: M = _new(kind)
    _set_dict(made, values)
    _set_fields(made, _FIELDS[kind])
    _set_extra(made, None)
    _set_private(made, None)
    return made


# The slots of both classes: `object.__setattr__` would look each up by its name, for thousands of objects of a page.
_new: Any = object.__new__
_set_int, _set_is_safe = UUID.__dict__["int"].__set__, UUID.__dict__["is_safe"].__set__
_set_dict, _set_fields, _set_extra, _set_private = (
    BaseModel.__dict__[name].__set__
    for name in ("__dict__", "__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")
)
_UNKNOWN = SafeUUID.unknown
_COMPLEXITIES = {one.value: one for one in Complexity}  # a class of constants takes longer to find one
_TASK_TYPES = {one.value: one for one in TaskType}
_EPISODE_FIELDS = tuple(Episode.model_fields)
_IN_DOCUMENT = ("task_description", "outcome", "reward", "reflection", "artifacts", "tags", "metadata")
_OPTIONAL = ("summary", "recalled")
_FIELDS: dict[type[BaseModel], set[str]] = {
    kind: set(kind.model_fields) for kind in (Episode, Step, StepOk, StepError, TaskContext)
}
