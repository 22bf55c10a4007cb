"""The repository of relationships between episodes. Each method is one round trip; a write is atomic."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, get_args
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import Page, RelatedEpisode, Relationship, RelationshipEnd
from memory_storage.models.relationship import ACYCLIC
from memory_storage.monitoring import operation
from memory_storage.sql.documents import CHUNK_BYTES, RELATIONSHIP_WEIGHTS, encode
from memory_storage.sql.paging import (
    ITERATE_PAGE,
    PAGE_BYTES,
    check_limit,
    draining,
    iterate_pages,
    order_and_condition,
    page,
    parse_cursor,
)
from memory_storage.sql.session import Repository, Row, retry_on_row_conflict
from memory_storage.sql.statement import SqlTemplate, to_micros
from memory_storage.sql.validation import as_id, check_document, choice, refuse_unstorable, size, to_list, whole

from . import sql
from .rows import relationship_from_row

_MAX_DEPTH = 10_000
_Key = tuple[str, str, str]
_Encoded = tuple[str, Relationship]


class RelationshipRepository(Repository):
    """The relationships between the episodes of one namespace. They are deleted with either of their episodes."""

    _operations = "relationships"

    @operation
    def add(
        self,
        from_id: UUID | str,
        to_id: UUID | str,
        kind: str,
        *,
        weight: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Relationship:
        """Store a relationship from one episode to another. One that is stored gets the new weight and metadata.

        Args:
            from_id: The ID of the episode at which it begins, like the parent of a `parent_child`.
            to_id: The ID of the episode at which it ends.
            kind: One of the seven kinds of `Relationship`, or a name of your own.
            weight: How strong it is, from 0.
            metadata: Further data.

        Returns:
            The stored relationship.

        Raises:
            NotFoundError: One of the episodes does not exist.
            ValidationError: An argument is invalid, or the relationship would close a cycle that its kind forbids.
        """
        ids = {"from_id": UUID(as_id(from_id, "from_id")), "to_id": UUID(as_id(to_id, "to_id"))}
        return self._add([Relationship(**ids, kind=kind, weight=weight, metadata=metadata or {})])[0]

    @operation
    def add_many(self, relationships: Sequence[Relationship]) -> list[Relationship]:
        """Store relationships atomically, in one round trip; see `add`.

        Raises:
            NotFoundError: One of the episodes does not exist.
            ConflictError: A relationship between other episodes, or of another kind, has one of the IDs.
            ValidationError: One is given twice, or would close a cycle that its kind forbids.
        """
        given = to_list(relationships, "relationships")
        return self._add(given) if given else []

    @operation
    def get(self, relationship_id: UUID | str) -> Relationship:
        """Return the relationship.

        Raises:
            NotFoundError: The relationship does not exist.
        """
        found = self.find(relationship_id)
        if found is None:
            raise NotFoundError("relationship", relationship_id)
        return found

    @operation
    def find(self, relationship_id: UUID | str) -> Relationship | None:
        """Return the relationship, or None if it does not exist."""
        rows = self._session.read(sql.GET.bind(namespace=self._session.namespace, id=as_id(relationship_id)))
        return relationship_from_row(rows[0]) if rows else None

    @operation
    def delete(self, relationship_id: UUID | str) -> bool:
        """Delete the relationship. Returns whether it existed."""
        step = sql.DELETE.bind(namespace=self._session.namespace, id=as_id(relationship_id))
        return bool(self._session.write([step]))

    @operation
    def query(
        self,
        episode_id: UUID | str,
        *,
        end: RelationshipEnd = "either",
        kind: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Relationship]:
        """Return a page of the relationships of an episode, the oldest first.

        Args:
            episode_id: The ID of the episode.
            end: Which end of the relationship it is: "from", "to" or "either".
            kind: Only relationships of this kind.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        choice("end", end, get_args(RelationshipEnd))
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        order, where, values = order_and_condition("created_at", place, descending=False)
        key = {"episode_id": as_id(episode_id, "episode_id"), **_kind_values(kind)}
        statement = sql.query(end, order, where, of_kind=kind is not None)
        step = statement.bind(namespace=self._session.namespace, limit=most + 1, **key, **values)
        rows = self._session.read(step)
        items = [relationship_from_row(row[2:]) for row in rows]
        return page(items, [(row[0], row[1]) for row in rows], most, place)

    @operation
    def ancestors(
        self,
        episode_id: UUID | str,
        kind: str | None = "parent_child",
        *,
        max_depth: int = 20,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RelatedEpisode]:
        """Return the episodes from which relationships lead to this one, the nearest first: parents and theirs.

        Args:
            episode_id: The ID of the episode.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships on the way, up to 10,000.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        return self._related(episode_id, kind, max_depth, limit, cursor, forwards=False)

    @operation
    def descendants(
        self,
        episode_id: UUID | str,
        kind: str | None = "parent_child",
        *,
        max_depth: int = 20,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RelatedEpisode]:
        """Return the episodes to which relationships lead from this one, the nearest first: children and theirs.

        Args:
            episode_id: The ID of the episode.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships on the way, up to 10,000.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        return self._related(episode_id, kind, max_depth, limit, cursor, forwards=True)

    @operation
    def topological_order(
        self, episode_id: UUID | str, kind: str = "parent_child", *, limit: int | None = None, cursor: str | None = None
    ) -> Page[RelatedEpisode]:
        """Return an episode and all to which relationships lead from it, each after all that lead to it.

        Of `depends_on` it is the reverse of the order of work: what is needed first comes last.

        Args:
            episode_id: The ID of the episode.
            kind: A kind that forbids cycles: `parent_child`, `depends_on`, `follows` or `blocks`.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one. `depth` is the length of the longest way.

        Raises:
            ValidationError: An argument is invalid.
        """
        choice("kind", kind, tuple(sorted(ACYCLIC)))
        return self._page_of_related(sql.topological_order, episode_id, {"kind": kind}, limit, cursor)

    @operation
    def path(
        self, from_id: UUID | str, to_id: UUID | str, kind: str | None = "parent_child", *, max_depth: int = 20
    ) -> list[UUID]:
        """Return a shortest way from one episode to another, both included.

        Args:
            from_id: The ID of the episode at which it begins.
            to_id: The ID of the episode at which it ends.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships on the way, up to 10,000.

        Returns:
            The IDs in the order of the way; none if there is no way that is as short as `max_depth`.

        Raises:
            ValidationError: An argument is invalid.
        """
        values = {"episode_id": as_id(from_id, "from_id"), "to_id": as_id(to_id, "to_id"), **_kind_values(kind)}
        statement = sql.path(of_kind=kind is not None)
        step = statement.bind(namespace=self._session.namespace, max_depth=_check_depth(max_depth), **values)
        return [UUID(key) for (key,) in self._session.read(step)]

    @operation
    def iterate(self) -> Iterator[Relationship]:
        """Iterate over all relationships by ID, in pages of 100 or about 4 MB."""
        values = {"namespace": self._session.namespace, "limit": ITERATE_PAGE + 1, "page_bytes": PAGE_BYTES}

        def read(after: str) -> tuple[Iterator[Relationship], str | None]:
            rows = self._session.read(sql.PAGE.bind(after=after, **values))
            fitting = [row[1:] for row in rows if row[1] is not None]
            last = None if len(fitting) == len(rows) else fitting[-1][0]
            return map(relationship_from_row, draining(fitting)), last

        yield from iterate_pages(read, "")

    @operation
    def count(self) -> int:
        """Count the relationships."""
        return int(self._session.read(sql.COUNT.bind(namespace=self._session.namespace))[0][0])

    @operation
    def import_many(self, relationships: Sequence[Relationship]) -> int:
        """Insert copies with their `created_at`; existing ones (by episodes and kind) are not changed. Idempotent.

        Returns:
            The number of new relationships.

        Raises:
            NotFoundError: One of the episodes does not exist here. Nothing is stored.
            ConflictError: A relationship between other episodes, or of another kind, has one of the IDs.
            ValidationError: One would close a cycle that its kind forbids.
        """
        encoded = self._encoded(to_list(relationships, "relationships"))

        def write(new: list[_Encoded]) -> int:
            if new:
                self._session.write(self._writes(sql.IMPORT, new))
            return len(new)

        return retry_on_row_conflict(write, encoded, partial(self._remaining, leave=True, suspects=set()), "importing relationships")

    def _related(
        self,
        episode_id: UUID | str,
        kind: str | None,
        max_depth: int,
        limit: int | None,
        cursor: str | None,
        *,
        forwards: bool,
    ) -> Page[RelatedEpisode]:
        values = {**_kind_values(kind), "max_depth": _check_depth(max_depth)}
        statement = partial(sql.related, forwards=forwards, of_kind=kind is not None)
        return self._page_of_related(statement, episode_id, values, limit, cursor)

    def _page_of_related(
        self, statement: Any, episode_id: UUID | str, values: dict[str, Any], limit: int | None, cursor: str | None
    ) -> Page[RelatedEpisode]:
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        order, where, positions = order_and_condition("depth", place, descending=False)
        key = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}
        rows = self._session.read(statement(order, where).bind(limit=most + 1, **key, **values, **positions))
        items = [RelatedEpisode(UUID(row[2]), row[0]) for row in rows]
        return page(items, [(row[0], row[1]) for row in rows], most, place)

    def _add(self, given: list[Relationship]) -> list[Relationship]:
        encoded = self._encoded(given)

        def write(new: list[_Encoded]) -> list[Row]:
            rows = f"[{','.join(document for document, _ in new)}]"
            read = sql.STORED.bind(namespace=self._session.namespace, rows=rows)
            return list(self._session.write([*self._writes(sql.ADD, new), read]))

        rows = retry_on_row_conflict(write, encoded, partial(self._remaining, leave=False, suspects=set()), "changing relationships")
        stored = {_key_of(one): one for one in map(relationship_from_row, rows)}
        for one in given:
            if _key_of(one) not in stored:  # an episode was deleted between the unacknowledged write and the read
                raise NotFoundError("relationship", one.id)
        return [stored[_key_of(one)] for one in given]

    def _writes(
        self, statements: dict[bool, SqlTemplate], encoded: Sequence[_Encoded]
    ) -> list[BatchStep]:
        key = {"namespace": self._session.namespace, "now": to_micros(self._session.now())}
        steps = [
            statements[False].bind(len(group), rows=f"[{','.join(group)}]", **key) for group in _free_groups(encoded)
        ]
        steps += [
            statements[True].bind(1, rows=f"[{document}]", **key) for document, one in encoded if one.kind in ACYCLIC
        ]
        weights = ((_key_of(one), (one.weight,)) for _, one in encoded)
        return [*steps, *RELATIONSHIP_WEIGHTS.steps(self._session.namespace, weights)]

    def _encoded(self, given: Sequence[Relationship]) -> list[_Encoded]:
        encoded = []
        for number, one in enumerate(given):
            field = f"relationships.{number}" if len(given) > 1 else ""
            document, stored = encode(Relationship, one, field)
            check_document(field, stored, document, self._session.limits, self._session.max_value_bytes)
            encoded.append((document, stored))
        for name, values in (("id", [str(one.id) for one in given]), ("relationship", [*map(_key_of, given)])):
            if len(set(values)) != len(values):
                raise ValidationError("relationships", f"each {name} once", values)
        return encoded

    def _remaining(
        self, encoded: list[_Encoded], error: RowCountError, *, leave: bool, suspects: set[_Key]
    ) -> list[_Encoded]:
        """Return what is still to be written after a conflict.

        Args:
            encoded: The relationships.
            error: The conflict.
            leave: Whether those that are stored are left as they are.
            suspects: Those that could not be written before, though nothing else was wrong with them.

        Raises:
            NotFoundError: An episode does not exist.
            ValidationError: A relationship would close a cycle, of stored ones or of those with it.
        """
        rows = f"[{','.join(document for document, _ in encoded)}]"
        remaining = []
        for number, no_source, no_target, is_stored in self._session.read(
            sql.PROBLEMS.bind(namespace=self._session.namespace, rows=rows)
        ):
            one = encoded[number][1]
            if no_source or no_target:
                raise NotFoundError("episode", one.from_id if no_source else one.to_id) from error
            if not (is_stored and leave):
                remaining.append(encoded[number])
        refused = _refused(encoded, error)
        if refused is not None and any(one is refused for _, one in remaining):
            if _key_of(refused) in suspects:  # twice: it was no other writer
                number = next(place for place, (_, one) in enumerate(encoded) if one is refused)
                raise _cycle_error(refused, f"relationships.{number}.to_id" if len(encoded) > 1 else "to_id") from error
            suspects.add(_key_of(refused))
        return remaining


def _free_groups(encoded: Sequence[_Encoded]) -> list[list[str]]:
    """Return the documents of kinds that allow cycles, in parts that fit into a statement."""
    free = [document for document, one in encoded if one.kind not in ACYCLIC]
    return list(chunked(free, size, most_bytes=CHUNK_BYTES))


def _refused(encoded: Sequence[_Encoded], error: RowCountError) -> Relationship | None:
    """Return the relationship that was not written, if its kind forbids cycles."""
    number = error.index - 1 - len(_free_groups(encoded))
    acyclic = [one for _, one in encoded if one.kind in ACYCLIC]
    return acyclic[number] if 0 <= number < len(acyclic) else None


def _key_of(one: Relationship) -> _Key:
    return str(one.from_id), one.kind, str(one.to_id)


def _cycle_error(one: Relationship, field: str) -> ValidationError:
    limit = f"an episode from which no {one.kind} leads to {one.from_id}: this one would close a cycle"
    return ValidationError(field, limit, str(one.to_id))


def _kind_values(kind: str | None) -> dict[str, str]:
    if kind is None:
        return {}
    if not isinstance(kind, str):
        raise ValidationError("kind", "the name of a kind, like 'parent_child', or None for all", kind)
    refuse_unstorable("kind", kind)
    return {"kind": kind}


def _check_depth(depth: int) -> int:
    if whole("max_depth", depth) > _MAX_DEPTH:
        raise ValidationError("max_depth", f"a whole number from 1 to {_MAX_DEPTH:,}", depth)
    return depth
