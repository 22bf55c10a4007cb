"""What a repository needs of whoever runs its statements. Implemented by the unit of work, not here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, Unpicklable
from memory_storage.errors import UnavailableError, ValidationError
from memory_storage.monitoring import Meter, Operation
from memory_storage.settings import Limits

T = TypeVar("T")
R = TypeVar("R")

Row = tuple[Any, ...]

SAVE_ATTEMPTS = 10
"""How often a save looks again at what is stored, when others write the same rows at the same moment."""


class SessionProtocol(Protocol):
    """Runs statements for one namespace. Every call is one round trip, and raises only this package's errors."""

    @property
    def namespace(self) -> str:
        """The tenant, agent or project whose rows the statements read and write."""
        ...

    @property
    def limits(self) -> Limits:
        """The limits of the storage's settings."""
        ...

    @property
    def max_value_bytes(self) -> int | None:
        """How large a value, and a row, the database takes; None where that is more than any limit allows."""
        ...

    @property
    def is_transaction(self) -> bool:
        """Whether the calls are parts of one transaction, which has to end soon."""
        ...

    @property
    def started_at_monotonic(self) -> float | None:
        """When its transaction began, by the monotonic clock; None if every call is one."""
        ...

    def now(self) -> datetime:
        """Return the current time, aware."""
        ...

    @property
    def meter(self) -> Meter:
        """Measures the operations of the repositories."""
        ...

    def audit(self, name: str, operation: Operation, subjects: object, *, is_known: bool) -> None:
        """Log what an operation has written: at once, or when its transaction is committed."""
        ...

    def indexing(self) -> AbstractContextManager[bool]:
        """Whether vector indexes may be created and dropped now. Maintenance waits until the call's transaction ends.

        False while the file is maintained: who does that creates the indexes at its end.
        """
        ...

    def read(self, step: BatchStep, *, shrinks: bool = False) -> Sequence[Row]:
        """Return the rows of one SELECT.

        Args:
            step: The SELECT.
            shrinks: Empty the engine's cache of file pages first: the last read has filled it with large rows, which
                are not read again. It has up to 32 MB.
        """
        ...

    def write(self, steps: Sequence[BatchStep], *, again: BatchStep | None = None) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any. `dbapi.RowCountError` as `Step.rows` says.

        If the answer is lost, but the write was done, the rows are read by `again`, or by the last step if that reads;
        else there are as many empty ones as the last step has changed.
        """
        ...


class Repository(Unpicklable):
    """Base of the repositories: a session, and the name under which their operations are measured."""

    _operations: ClassVar[str]

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session


def as_id(value: UUID | str, field: str = "id") -> str:
    """The text under which an id is stored; ValidationError if it is none."""
    if isinstance(value, UUID):
        return str(value)
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValidationError(field, "must be a UUID", value) from error


def to_list(things: Iterable[T], field: str) -> list[T]:
    """All of them; ValidationError if that is not a collection."""
    try:
        return list(things)
    except TypeError as error:
        raise ValidationError(field, "must be a sequence", things) from error


def ids_as_json(ids: Sequence[str]) -> str:
    """Ids as the JSON array that a statement reads with json_each; they are UUIDs and need no escapes."""
    return "[" + ",".join(f'"{one}"' for one in ids) + "]"


def retry_on_row_conflict(
    write: Callable[[list[T]], R], things: list[T], rest: Callable[[list[T], RowCountError], list[T]], what: str
) -> R:
    """What `write(things)` gives. If another writer has changed the same rows, again with the rest that is still to do.

    UnavailableError if others keep at it: `what` says at what.
    """
    for _ in range(SAVE_ATTEMPTS):
        try:
            return write(things)
        except RowCountError as error:
            things = rest(things, error)
    raise UnavailableError(f"other writers keep {what}")


def write_and_read(session: SessionProtocol, changes: Sequence[BatchStep], read: BatchStep) -> Sequence[Row]:
    """The rows of `read` after the changes, in one round trip; in two if they are more than a server gives back."""
    try:
        return session.write([*changes, read])
    except ValidationError as error:
        if not _is_too_large_an_answer(error):
            raise
    session.write(changes)  # a write is answered with 10 MB at most, and nothing of it was stored; a read with any size
    return session.read(read)


def exceeds_limit(error: RowCountError | ValidationError, check: int) -> bool:
    """Whether a batch was undone by its check of a limit, or by the database itself: a value was too large for it.

    Args:
        error: what the batch has raised.
        check: the number of the statement that checks.
    """
    return error.index == check if isinstance(error, RowCountError) else _code_of(error) == "SQLITE_TOOBIG"


def _is_too_large_an_answer(error: ValidationError) -> bool:
    return _code_of(error) == "RESPONSE_TOO_LARGE"


def _code_of(error: ValidationError) -> str:
    cause: Any = error.__cause__
    return str(getattr(getattr(cause, "orig", cause), "code", ""))
