"""The session protocol on which repositories run their statements, and helpers for writes that conflict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import datetime
from typing import Any, ClassVar, Protocol, TypeVar
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, Unpicklable
from memory_storage.errors import UnavailableError, ValidationError
from memory_storage.models import OwnerType
from memory_storage.monitoring import Meter, Operation
from memory_storage.settings import Limits

T = TypeVar("T")
R = TypeVar("R")

Row = tuple[Any, ...]

SAVE_ATTEMPTS = 10
"""Attempts of a save whose rows other writers keep changing."""


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
        """The most bytes of a value, or of a row, that the database accepts; None if it exceeds all limits."""
        ...

    @property
    def has_recent_words(self) -> bool:
        """Whether its connections have a temporary index of texts that are not in the full-text index yet."""
        ...

    @property
    def opening(self) -> bytes | None:
        """The identity under which a replica counts the use of patterns; None if it is none."""
        ...

    @property
    def has_embedder(self) -> bool:
        """Whether owners that were saved have to be embedded."""
        ...

    def saved(self, owner_type: OwnerType, ids: Sequence[UUID]) -> None:
        """Note that owners were saved: they are embedded after the transaction. For a session with an embedder only.

        Args:
            owner_type: "episode" or "pattern".
            ids: Their IDs.

        Raises:
            Nothing: they are saved, and an embedder that fails is called again.
        """
        ...

    @property
    def is_transaction(self) -> bool:
        """Whether the calls belong to one open transaction."""
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
        """Log what an operation has written: at once, or when its transaction is committed.

        Args:
            name: The operation, like "episodes.save".
            operation: Its batches, and the number of rows that they changed.
            subjects: Its arguments and result: the log has the ids in them.
            is_known: Whether the outcome of the commit is known; if not, the log says so.

        Raises:
            Exception: What a filter or a handler of the audit log raises.
        """
        ...

    def indexing(self) -> AbstractContextManager[bool]:
        """Yield whether vector indexes may be created and dropped now.

        While the block, or the transaction it is in, is open, maintenance of the file waits. Yields False during
        maintenance, which creates the indexes at its end.
        """
        ...

    def read(self, step: BatchStep, *, shrinks: bool = False) -> Sequence[Row]:
        """Return the rows of one SELECT.

        Args:
            step: The SELECT.
            shrinks: Empty the engine's cache of file pages first: the last read has filled it with large rows, which
                are not read again. It has up to 32 MB.

        Returns:
            All rows.

        Raises:
            MemoryStorageError: The SELECT failed, or the database is unreachable.
        """
        ...

    def read_all(self, steps: Sequence[BatchStep]) -> list[Sequence[Row]]:
        """Return the rows of each SELECT: on a server in one round trip.

        Args:
            steps: The SELECTs.

        Returns:
            All rows of each.

        Raises:
            MemoryStorageError: One of them failed, or the database is unreachable.
        """
        ...

    def write(self, steps: Sequence[BatchStep], *, again: BatchStep | None = None, changed: int = 0) -> Sequence[Row]:
        """Run statements atomically.

        Args:
            steps: The statements.
            again: Reads the rows of the result after a lost acknowledgement.
            changed: How many episodes they change: after many of them the indexes of words and facets are brought up
                to date, in the same transaction.

        Returns:
            The rows of the last statement that has any. If the acknowledgement is lost but the write was committed,
            those of `again`, or of the last statement if that only reads; else an empty row for each row that the last
            statement changed.

        Raises:
            RowCountError: A statement changed another number of rows than its `rows`; nothing is stored.
            MemoryStorageError: A statement failed, or the database is unreachable. Nothing is stored, unless it is a
                CommitUnknownError.
        """
        ...


class Repository(Unpicklable):
    """Base of the repositories: a session, and the name under which their operations are measured."""

    _operations: ClassVar[str]

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session

    def _note_saved(self, owner_type: OwnerType, ids: Sequence[UUID]) -> None:
        if self._session.has_embedder:
            self._session.saved(owner_type, ids)


def ids_as_json(ids: Sequence[str]) -> str:
    """Return ids as a JSON array for json_each(). They are UUIDs and need no escaping."""
    # One value, whatever their number: a statement takes 32,766 values, and the same text is compiled once.
    return "[" + ",".join(f'"{one}"' for one in ids) + "]"


def retry_on_row_conflict(
    write: Callable[[list[T]], R], items: list[T], remaining: Callable[[list[T], RowCountError], list[T]], action: str
) -> R:
    """Return `write(items)`, retried with the remaining items while other writers change the same rows.

    Args:
        write: Writes all items or none.
        items: What to write.
        remaining: Returns the items still to write after a row conflict, or raises the error for the caller.
        action: What other writers keep doing, for the message of the error.

    Raises:
        UnavailableError: ten attempts met a conflict; nothing was stored by the last one.
    """
    # Optimistic: a save does not read first. A conflict shows as another number of changed rows, and the batch is
    # rolled back as a whole, so it can be repeated without the items that another writer has stored.
    for _ in range(SAVE_ATTEMPTS):
        try:
            return write(items)
        except RowCountError as error:
            items = remaining(items, error)
    raise UnavailableError(f"other writers keep {action}; nothing was stored; try again")


def write_and_read(
    session: SessionProtocol, changes: Sequence[BatchStep], read: BatchStep, *, changed: int = 0
) -> Sequence[Row]:
    """Return the rows of `read` after the changes, in one round trip; in two if the response is too large."""
    try:
        return session.write([*changes, read], changed=changed)
    except ValidationError as error:
        if _code_of(error) != "RESPONSE_TOO_LARGE":
            raise
    # The write was rolled back: its response may have 10 MB; that of a read may have any size.
    session.write(changes, changed=changed)
    return session.read(read)


def exceeds_limit(error: RowCountError | ValidationError, check: int) -> bool:
    """Return whether a batch was rolled back because a document exceeds a limit of ours or of the database.

    Args:
        error: The error of the batch.
        check: The index of the statement that checks the limit.
    """
    # A server refuses a value that is too large for it while it runs the change, before the check.
    return error.index == check if isinstance(error, RowCountError) else _code_of(error) == "SQLITE_TOOBIG"


def _code_of(error: ValidationError) -> str:
    cause: Any = error.__cause__  # the driver's error, or SQLAlchemy's, which wraps it
    return str(getattr(getattr(cause, "orig", cause), "code", ""))
