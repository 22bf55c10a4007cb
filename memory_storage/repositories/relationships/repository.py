"""The repository of relationships between episodes: a directed graph. Each method is one round trip."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import Any, get_args
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError, chunked
from memory_storage.errors import CorruptDataError, NotFoundError, ValidationError
from memory_storage.models import EdgeDirection, Page, RelatedEpisode, Relationship, RelationshipKind
from memory_storage.models.relationship import ACYCLIC
from memory_storage.monitoring import operation
from memory_storage.sql.documents import CHUNK_BYTES, RELATIONSHIP_WEIGHTS, decode_value, encode
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
from memory_storage.sql.statement import SqlTemplate, to_micros
from memory_storage.sql.validation import as_id, check_document, choice, refuse_unstorable, size, to_list, whole

from . import sql
from .rows import relationship_from_row

_MAX_DEPTH = 10_000
_Key = tuple[str, str, str]
_Encoded = tuple[str, Relationship]


class RelationshipRepository(Repository):
    """The relationships between the episodes of one namespace. They are deleted with either of their episodes.

    Archived episodes are on the paths like others.
    """

    _operations = "relationships"

    @operation
    def add(
        self,
        from_id: UUID | str,
        to_id: UUID | str,
        kind: RelationshipKind | str,
        *,
        weight: float | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> Relationship:
        """Store a relationship from one episode to another. Idempotent: a stored one gets the new weight and metadata.

        Args:
            from_id: The ID of the episode at which it begins, like the parent of a `parent_child`.
            to_id: The ID of the episode at which it ends.
            kind: One of the seven kinds of `Relationship`, or a name of your own.
            weight: Its strength, from 0.
            metadata: Further data, like a reason.

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
        new = to_list(relationships, "relationships")
        return self._add(new) if new else []

    @operation
    def get(self, relationship_id: UUID | str) -> Relationship:
        """Return the relationship.

        Raises:
            NotFoundError: The relationship does not exist.
        """
        relationship = self.find(relationship_id)
        if relationship is None:
            raise NotFoundError("relationship", relationship_id)
        return relationship

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
        edges: EdgeDirection = "both",
        kind: RelationshipKind | str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[Relationship]:
        """Return a page of the relationships of an episode, the oldest first.

        Args:
            episode_id: The ID of the episode.
            edges: "outgoing" for those that begin at the episode, "incoming" for those that end there, or "both".
            kind: Only relationships of this kind.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        choice("edges", edges, get_args(EdgeDirection))
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        order, where, values = order_and_condition("created_at", place, descending=False)
        key = {"episode_id": as_id(episode_id, "episode_id"), **_kind_values(kind)}
        statement = sql.query(edges, order, where, of_kind=kind is not None)
        step = statement.bind(namespace=self._session.namespace, limit=most + 1, **key, **values)
        rows = self._session.read(step)
        items = [relationship_from_row(row[2:]) for row in rows]
        return page(items, [(row[0], row[1]) for row in rows], most, place)

    @operation
    def ancestors(
        self,
        episode_id: UUID | str,
        kind: RelationshipKind | str | None = "parent_child",
        *,
        max_depth: int = 20,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RelatedEpisode]:
        """Return a page of the ancestors of an episode, the nearest first: its parents, then theirs.

        Args:
            episode_id: The ID of the episode.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships between the two, up to 10,000.
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
        kind: RelationshipKind | str | None = "parent_child",
        *,
        max_depth: int = 20,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RelatedEpisode]:
        """Return a page of the descendants of an episode, the nearest first: its children, then theirs.

        Args:
            episode_id: The ID of the episode.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships between the two, up to 10,000.
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
        self,
        episode_id: UUID | str,
        kind: RelationshipKind = "parent_child",
        *,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page[RelatedEpisode]:
        """Return a page of an episode and its descendants in topological order, ancestors first.

        Of `depends_on` it is the reverse of the order of work: what is needed first comes last. Each page reads the
        whole graph below the episode.

        Args:
            episode_id: The ID of the episode.
            kind: An acyclic kind: `parent_child`, `depends_on`, `follows` or `blocks`.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.

        Returns:
            The page, with cursors of the next and the previous one. `depth` is the length of the longest path from the
            episode.

        Raises:
            ValidationError: An argument is invalid.
            CorruptDataError: The relationships form a cycle, which this package does not store.
        """
        choice("kind", kind, tuple(sorted(ACYCLIC)))
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        key = as_id(episode_id, "episode_id")
        rows = self._session.read(sql.DESCENDANTS.bind(namespace=self._session.namespace, episode_id=key, kind=kind))
        edges = {seq: decode_value(targets, "relationships", episode) for seq, episode, targets in rows}
        ids = {seq: UUID(episode) for seq, episode, _ in rows}
        order = sorted((depth, seq) for seq, depth in _longest_paths(edges, key).items())
        if place is not None and place.backwards:
            order = [position for position in reversed(order) if position < place.position]
        elif place is not None:
            order = [position for position in order if position > place.position]
        order = order[: most + 1]
        return page([RelatedEpisode(ids[seq], depth) for depth, seq in order], order, most, place)

    @operation
    def path(
        self,
        from_id: UUID | str,
        to_id: UUID | str,
        kind: RelationshipKind | str | None = "parent_child",
        *,
        max_depth: int = 20,
    ) -> list[UUID]:
        """Return a shortest path from one episode to another, both included.

        Args:
            from_id: The ID of the episode at which it begins.
            to_id: The ID of the episode at which it ends.
            kind: The kind of the relationships; None for all.
            max_depth: The most relationships on the path, up to 10,000.

        Returns:
            The IDs in the order of the path; none if every path has more than `max_depth` relationships, or there is
            none.

        Raises:
            ValidationError: An argument is invalid.
        """
        values = {"from_id": as_id(from_id, "from_id"), "episode_id": as_id(to_id, "to_id"), **_kind_values(kind)}
        statement = sql.path(of_kind=kind is not None)
        step = statement.bind(namespace=self._session.namespace, max_depth=_checked_depth(max_depth), **values)
        return [UUID(key) for (key,) in self._session.read(step)]

    @operation
    def iterate(self) -> Iterator[Relationship]:
        """Iterate over all relationships by ID, in pages of 100 or about 4 MB."""
        values = {"namespace": self._session.namespace, "limit": ITERATE_PAGE + 1, "page_bytes": PAGE_BYTES}

        def read(after: str) -> Sequence[Row]:
            return self._session.read(sql.PAGE.bind(after=after, **values))

        yield from iterate_by_id(read, lambda row: relationship_from_row(row[1:]))

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

        remaining = partial(self._remaining, skip_stored=True, refused_before=set())
        return retry_on_row_conflict(write, encoded, remaining, "importing these relationships")

    def _related(
        self,
        episode_id: UUID | str,
        kind: RelationshipKind | str | None,
        max_depth: int,
        limit: int | None,
        cursor: str | None,
        *,
        forwards: bool,
    ) -> Page[RelatedEpisode]:
        place, most = parse_cursor(cursor), check_limit(limit, self._session.limits)
        order, where, position = order_and_condition("depth", place, descending=False)
        key = {"namespace": self._session.namespace, "episode_id": as_id(episode_id, "episode_id")}
        values = {**key, **_kind_values(kind), **position, "max_depth": _checked_depth(max_depth), "limit": most + 1}
        statement = sql.related(order, where, forwards=forwards, of_kind=kind is not None)
        rows = self._session.read(statement.bind(**values))
        items = [RelatedEpisode(UUID(episode), depth) for depth, _, episode in rows]
        return page(items, [(depth, seq) for depth, seq, _ in rows], most, place)

    def _add(self, new: list[Relationship]) -> list[Relationship]:
        encoded = self._encoded(new)
        namespace = self._session.namespace

        def write(remaining: list[_Encoded]) -> list[Row]:
            read = sql.STORED.bind(namespace=namespace, rows=_as_array(remaining))
            return list(self._session.write([*self._writes(sql.ADD, remaining), read]))

        remaining = partial(self._remaining, skip_stored=False, refused_before=set())
        rows = retry_on_row_conflict(write, encoded, remaining, "changing these relationships")
        stored = {_key_of(one): one for one in map(relationship_from_row, rows)}
        for one in new:
            if _key_of(one) not in stored:  # an episode was deleted between the unacknowledged write and the read
                raise NotFoundError("relationship", one.id)
        return [stored[_key_of(one)] for one in new]

    def _writes(self, statements: dict[bool, SqlTemplate], encoded: Sequence[_Encoded]) -> list[BatchStep]:
        """Return the statements: first those of kinds that allow cycles, many rows in each; see `_refused`."""
        key = {"namespace": self._session.namespace, "now": to_micros(self._session.now())}
        groups = _groups_that_allow_cycles(encoded)
        steps = [statements[False].bind(len(group), rows=f"[{','.join(group)}]", **key) for group in groups]
        steps += [
            statements[True].bind(1, rows=f"[{document}]", **key) for document, one in encoded if one.kind in ACYCLIC
        ]
        weights = ((_key_of(one), (one.weight,)) for _, one in encoded)
        return [*steps, *RELATIONSHIP_WEIGHTS.steps(self._session.namespace, weights)]

    def _encoded(self, new: Sequence[Relationship]) -> list[_Encoded]:
        encoded = []
        for number, one in enumerate(new):
            field = f"relationships.{number}" if len(new) > 1 else ""
            document, stored = encode(Relationship, one, field)
            check_document(field, stored, document, self._session.limits, self._session.max_value_bytes)
            encoded.append((document, stored))
        for name, values in (("ID", [str(one.id) for one in new]), ("relationship", [*map(_key_of, new)])):
            if len(set(values)) != len(values):
                raise ValidationError("relationships", f"each {name} once", values)
        return encoded

    def _remaining(
        self, encoded: list[_Encoded], error: RowCountError, *, skip_stored: bool, refused_before: set[_Key]
    ) -> list[_Encoded]:
        """Return what is still to be written after a row conflict.

        Args:
            encoded: The relationships.
            error: The conflict.
            skip_stored: Whether stored ones are left as they are.
            refused_before: Keys of those that were refused before, though their episodes existed and they were not
                stored: this call adds to it.

        Raises:
            NotFoundError: An episode does not exist.
            ValidationError: A relationship would close a cycle, with stored ones or with those before it.
        """
        rows = self._session.read(sql.PROBLEMS.bind(namespace=self._session.namespace, rows=_as_array(encoded)))
        remaining = []
        for number, is_without_source, is_without_target, is_stored in rows:
            one = encoded[number][1]
            if is_without_source or is_without_target:
                raise NotFoundError("episode", one.from_id if is_without_source else one.to_id) from error
            if not (is_stored and skip_stored):
                remaining.append(encoded[number])
        refused = _refused(encoded, error)
        if refused in remaining:
            if _key_of(refused[1]) in refused_before:  # twice: it was not another writer that is done since
                place = encoded.index(refused)
                raise _cycle_error(
                    refused[1], f"relationships.{place}.to_id" if len(encoded) > 1 else "to_id"
                ) from error
            refused_before.add(_key_of(refused[1]))
        return remaining


def _as_array(encoded: Sequence[_Encoded]) -> str:
    return f"[{','.join(document for document, _ in encoded)}]"


def _groups_that_allow_cycles(encoded: Sequence[_Encoded]) -> list[list[str]]:
    """Return the documents of kinds that allow cycles, in groups that fit into a statement."""
    documents = [document for document, one in encoded if one.kind not in ACYCLIC]
    return list(chunked(documents, size, most_bytes=CHUNK_BYTES))


def _refused(encoded: Sequence[_Encoded], error: RowCountError) -> _Encoded | None:
    """Return the relationship of an acyclic kind whose statement has changed no row, by its place in `_writes`."""
    number = error.index - 1 - len(_groups_that_allow_cycles(encoded))
    acyclic = [pair for pair in encoded if pair[1].kind in ACYCLIC]
    return acyclic[number] if 0 <= number < len(acyclic) else None


def _longest_paths(edges: dict[int, list[int]], episode_id: str) -> dict[int, int]:
    """Return the length of the longest path from the one root of an acyclic graph to each of its nodes.

    Args:
        edges: The nodes to which each node leads.
        episode_id: The ID of the root, for the error.

    Raises:
        CorruptDataError: There is a cycle.
    """
    sources: dict[int, list[int]] = {node: [] for node in edges}
    for node, targets in edges.items():
        for target in targets:
            sources[target].append(node)
    lengths: dict[int, int] = {}
    try:
        for node in TopologicalSorter(sources).static_order():
            lengths[node] = max((lengths[source] + 1 for source in sources[node]), default=0)
    except CycleError as error:
        message = f"relationships: those below the episode {episode_id} form a cycle: run `memory-storage doctor`"
        raise CorruptDataError(message, table="relationships", id=episode_id) from error
    return lengths


def _key_of(one: Relationship) -> _Key:
    return str(one.from_id), one.kind, str(one.to_id)


def _cycle_error(one: Relationship, field: str) -> ValidationError:
    limit = f"an episode from which no {one.kind} leads to {one.from_id}: this relationship would close a cycle"
    return ValidationError(field, limit, str(one.to_id))


def _kind_values(kind: str | None) -> dict[str, str]:
    if kind is None:
        return {}
    if not isinstance(kind, str):
        raise ValidationError("kind", "the name of a kind, like 'parent_child', or None for all", kind)
    refuse_unstorable("kind", kind)
    return {"kind": kind}


def _checked_depth(depth: int) -> int:
    if whole("max_depth", depth) > _MAX_DEPTH:
        raise ValidationError("max_depth", f"a whole number from 1 to {_MAX_DEPTH:,}", depth)
    return depth
