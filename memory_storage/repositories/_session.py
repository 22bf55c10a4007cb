"""What a repository needs of whoever runs its statements. Implemented by the unit of work, not here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Protocol, TypeVar
from uuid import UUID

from memory_storage.dbapi import Step
from memory_storage.errors import ValidationError
from memory_storage.settings import Limits

T = TypeVar("T")

Row = tuple[Any, ...]

SAVE_ATTEMPTS = 10
"""How often a save looks again at what is stored, when others write the same rows at the same moment."""


class Session(Protocol):
    """Runs statements for one namespace. Every call is one round trip, and raises only this package's errors."""

    @property
    def namespace(self) -> str: ...
    @property
    def limits(self) -> Limits: ...
    def now(self) -> datetime: ...
    def read(self, step: Step) -> Sequence[Row]:
        """The rows of one SELECT."""
        ...

    def write(self, steps: Sequence[Step]) -> Sequence[Row]:
        """Run all or nothing; the rows of the last step that has any. `dbapi.RowCountError` as `Step.rows` says."""
        ...


class Repository:
    """What all repositories have: the session they run in."""

    def __init__(self, session: Session) -> None:
        self._session = session


def as_id(value: UUID | str, field: str = "id") -> str:
    """The text under which an id is stored; ValidationError if it is none."""
    if isinstance(value, UUID):
        return str(value)
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValidationError(field, "must be a UUID", value) from error


def as_list(things: Iterable[T], field: str) -> list[T]:
    """All of them; ValidationError if that is not a collection."""
    try:
        return list(things)
    except TypeError as error:
        raise ValidationError(field, "must be a sequence", things) from error


def json_ids(ids: Sequence[str]) -> str:
    """Ids as the JSON array that a statement reads with json_each; they are UUIDs and need no escapes."""
    return "[" + ",".join(f'"{one}"' for one in ids) + "]"
