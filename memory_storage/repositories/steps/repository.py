"""The repository of steps: parts of an episode, without loading the rest. `episodes.append_step` appends them."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import Step
from memory_storage.monitoring import operation
from memory_storage.sql.episode_rows import decode_steps
from memory_storage.sql.paging import PAGE_BYTES, check_limit, draining, iterate_pages
from memory_storage.sql.session import Repository
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import as_id

from . import sql

_MAX_STEP_NUMBER = 2**31


class StepRepository(Repository):
    """The steps of one namespace's episodes."""

    _operations = "steps"

    @operation
    def get(self, step_id: UUID | str) -> Step:
        """Return the step.

        Raises:
            NotFoundError: The step does not exist.
        """
        step = self.find(step_id)
        if step is None:
            raise NotFoundError("step", step_id)
        return step

    @operation
    def find(self, step_id: UUID | str) -> Step | None:
        """Return the step, or None if it does not exist."""
        rows = self._session.read(sql.GET.bind(namespace=self._session.namespace, id=as_id(step_id)))
        return decode_steps(rows)[0] if rows else None

    @operation
    def range(
        self, episode_id: UUID | str, first: int = 1, last: int | None = None, *, limit: int | None = None
    ) -> list[Step]:
        """Return the steps from number `first` to number `last`, both included, in order.

        Args:
            episode_id: The ID of the episode.
            first: The lowest number.
            last: The highest number; None has no bound.
            limit: The maximum number of steps, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).

        Returns:
            The steps, the lowest number first.

        Raises:
            ValidationError: An argument is invalid.
        """
        step = sql.RANGE.bind(
            namespace=self._session.namespace,
            episode_id=as_id(episode_id, "episode_id"),
            first=_check_step_number("first", first),
            last=_MAX_STEP_NUMBER if last is None else _check_step_number("last", last),
            limit=check_limit(limit, self._session.limits),
        )
        return decode_steps(self._session.read(step))

    @operation
    def latest(self, episode_id: UUID | str, limit: int | None = None) -> list[Step]:
        """Return the last steps of an episode, in order.

        Args:
            episode_id: The ID of the episode.
            limit: The maximum number of steps, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).

        Returns:
            The steps, the lowest number first.

        Raises:
            ValidationError: An argument is invalid.
        """
        step = sql.LATEST.bind(
            namespace=self._session.namespace,
            episode_id=as_id(episode_id, "episode_id"),
            limit=check_limit(limit, self._session.limits),
        )
        return decode_steps(self._session.read(step)[::-1])

    @operation
    def iterate(self, episode_id: UUID | str) -> Iterator[Step]:
        """Iterate over the steps of an episode in order, in pages of 100 steps or about 4 MB."""
        size = check_limit(None, self._session.limits)
        key = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}

        def read(cursor: tuple[int, bool]) -> tuple[Iterator[Step], tuple[int, bool] | None]:
            first, was_large = cursor
            statement = sql.PAGE.bind(first=first, limit=size + 1, page_bytes=PAGE_BYTES, **key)
            rows = self._session.read(statement, shrinks=was_large)
            next_number = next((row[-1] for row in rows if row[0] is None), None)
            fitting = [row[:-1] for row in rows if row[0] is not None]
            return draining(decode_steps(fitting)), None if next_number is None else (
                next_number,
                len(fitting) < size,
            )

        yield from iterate_pages(read, (1, False))

    @operation
    def count(self, episode_id: UUID | str | None = None) -> int:
        """Count the steps of an episode, or of the namespace if none is given."""
        namespace = self._session.namespace
        if episode_id is None:
            statement = sql.COUNT_ALL.bind(namespace=namespace)
        else:
            statement = sql.COUNT.bind(namespace=namespace, episode_id=as_id(episode_id, "episode_id"))
        return int(self._session.read(statement)[0][0])

    @operation
    def delete(self, step_id: UUID | str) -> bool:
        """Delete the step with its embeddings and spatiotemporal entries. Other steps keep their numbers.

        The version of the episode grows by one, so that a copy that still has the step is refused by `save`.

        Returns:
            Whether the step existed.
        """
        key = {"namespace": self._session.namespace, "id": as_id(step_id)}
        now = to_micros(self._session.now())
        statements = [sql.INCREMENT_VERSION.bind(now=now, **key), sql.DELETE.bind(**key)]
        return bool(self._session.write(statements, changed=1))


def _check_step_number(field: str, value: int) -> int:
    if type(value) is not int or not 1 <= value <= _MAX_STEP_NUMBER:
        raise ValidationError(field, f"a step number, from 1 to {_MAX_STEP_NUMBER:,}", value)
    return value
