"""The repository of checkpoints; `episodes.checkpoint` stores one. Each method is one round trip."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from uuid import UUID

from memory_storage.dbapi import RowCountError
from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import Checkpoint, Page
from memory_storage.monitoring import operation
from memory_storage.sql.documents import chunk_documents, encode
from memory_storage.sql.paging import (
    ITERATE_PAGE,
    PAGE_BYTES,
    check_limit,
    iterate_by_id,
    order_and_condition,
    page,
    parse_cursor,
)
from memory_storage.sql.session import Repository, Row, retry_on_row_conflict
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import as_id, check_document, to_list

from . import sql
from .rows import checkpoint_from_row

_Encoded = tuple[str, Checkpoint]


class CheckpointRepository(Repository):
    """The checkpoints of one namespace's episodes. They are deleted with their episodes."""

    _operations = "checkpoints"

    @operation
    def get(self, checkpoint_id: UUID | str) -> Checkpoint:
        """Return the checkpoint.

        Raises:
            NotFoundError: The checkpoint does not exist.
        """
        found = self.find(checkpoint_id)
        if found is None:
            raise NotFoundError("checkpoint", checkpoint_id)
        return found

    @operation
    def find(self, checkpoint_id: UUID | str) -> Checkpoint | None:
        """Return the checkpoint, or None if it does not exist."""
        rows = self._session.read(sql.GET.bind(namespace=self._session.namespace, id=as_id(checkpoint_id)))
        return checkpoint_from_row(rows[0]) if rows else None

    @operation
    def query(self, episode_id: UUID | str, *, limit: int | None = None, cursor: str | None = None) -> Page[Checkpoint]:
        """Return a page of the checkpoints of an episode, the newest first.

        Args:
            episode_id: The ID of the episode.
            limit: The maximum number of checkpoints, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`). A page also ends after about 4 MB.
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        order, where, values = order_and_condition("created_at", place, descending=True)
        key = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}
        step = sql.query(order, where).bind(limit=most + 1, page_bytes=PAGE_BYTES, **key, **values)
        rows = self._session.read(step)
        items = [checkpoint_from_row(row[2:]) for row in rows if row[2] is not None]
        return page(items, [(row[0], row[1]) for row in rows], len(items), place)

    @operation
    def iterate(self) -> Iterator[Checkpoint]:
        """Iterate over all checkpoints by ID, in pages of 100 or about 4 MB."""
        values = {"namespace": self._session.namespace, "limit": ITERATE_PAGE + 1, "page_bytes": PAGE_BYTES}

        def read(after: str) -> Sequence[Row]:
            return self._session.read(sql.PAGE.bind(after=after, **values))

        yield from iterate_by_id(read, lambda row: checkpoint_from_row(row[1:]))

    @operation
    def count(self, episode_id: UUID | str | None = None) -> int:
        """Count the checkpoints of an episode, or of the namespace if none is given."""
        key = None if episode_id is None else as_id(episode_id, "episode_id")
        return int(self._session.read(sql.COUNT.bind(namespace=self._session.namespace, episode_id=key))[0][0])

    @operation
    def delete(self, checkpoint_id: UUID | str) -> bool:
        """Delete the checkpoint. Returns whether it existed."""
        step = sql.DELETE.bind(namespace=self._session.namespace, id=as_id(checkpoint_id))
        return bool(self._session.write([step]))

    @operation
    def import_many(self, checkpoints: Sequence[Checkpoint]) -> int:
        """Insert copies with their `created_at`; existing ones (by ID) are not changed. Idempotent.

        Returns:
            The number of new checkpoints.

        Raises:
            NotFoundError: The episode of one does not exist here. Nothing is stored.
            ValidationError: One is invalid, or two have one ID.
        """
        encoded = self._encoded(to_list(checkpoints, "checkpoints"))

        def write(new: list[_Encoded]) -> int:
            key = {"namespace": self._session.namespace, "now": to_micros(self._session.now())}
            chunks = chunk_documents(document for document, _ in new)
            if new:
                self._session.write([sql.IMPORT.bind(chunk.documents, rows=chunk.text, **key) for chunk in chunks])
            return len(new)

        return retry_on_row_conflict(write, encoded, self._remaining, "importing checkpoints")

    def _encoded(self, given: list[Checkpoint]) -> list[_Encoded]:
        encoded = []
        for number, one in enumerate(given):
            field = f"checkpoints.{number}" if len(given) > 1 else ""
            document, stored = encode(Checkpoint, one, field)
            check_document(field, stored, document, self._session.limits, self._session.max_value_bytes)
            encoded.append((document, stored))
        ids = [str(one.id) for _, one in encoded]
        if len(set(ids)) != len(ids):
            raise ValidationError("checkpoints", "each id once", ids)
        return encoded

    def _remaining(self, encoded: list[_Encoded], error: RowCountError) -> list[_Encoded]:
        """Return those that are not stored yet.

        Raises:
            NotFoundError: The episode of one does not exist.
        """
        ids = json.dumps([(str(one.id), str(one.episode_id)) for _, one in encoded])
        remaining = []
        for place, is_stored, has_episode in self._session.read(
            sql.STATE.bind(namespace=self._session.namespace, ids=ids)
        ):
            if not is_stored and not has_episode:
                raise NotFoundError("episode", encoded[place][1].episode_id) from error
            if not is_stored:
                remaining.append(encoded[place])
        return remaining
