"""The repository of places and times of episodes and steps. The spatial queries are inherited."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from uuid import UUID

from typing_extensions import Unpack

from memory_storage._deprecation import renamed_arguments, renamed_attributes
from memory_storage.dbapi import BatchStep, RowCountError
from memory_storage.errors import ConflictError, NotFoundError, ValidationError
from memory_storage.models import (
    Direction,
    DomainNode,
    Episode,
    EpisodeFilter,
    EpisodeFilters,
    Interval,
    Page,
    PlaceOwner,
    TimeUnit,
)
from memory_storage.models import SpatiotemporalEntry as Entry
from memory_storage.monitoring import operation
from memory_storage.repositories.episodes.rows import episodes_by_seq
from memory_storage.sql.documents import POSITIONS, chunk_documents, decode, encode
from memory_storage.sql.paging import ITERATE_PAGE, PAGE_BYTES, iterate_by_id
from memory_storage.sql.session import Row, ids_as_json, retry_on_row_conflict
from memory_storage.sql.statement import SqlTemplate, from_micros, to_micros
from memory_storage.sql.validation import as_id, check_document, check_k, flag, to_list

from . import spatial_sql, sql
from .geo import on_sphere
from .hierarchy import diverse, hierarchy
from .spatial_queries import SpatialQueries, interval_values

_Encoded = tuple[str, Entry]


@renamed_attributes(of="for_owner")
class SpatiotemporalRepository(SpatialQueries[Entry]):
    """The spatiotemporal entries of one namespace. `episodes` has the same queries for the episodes that own them."""

    _operations = "spatiotemporal"
    _finds_episodes = False

    @cached_property
    def episodes(self) -> EpisodesByLocation:
        """The same queries for episodes, like `episodes.near(...)`; each once, at its nearest or newest entry."""
        return EpisodesByLocation(self._session)

    @operation
    def put(self, entry: Entry) -> Entry:
        """Insert or replace an entry by its ID, and return the stored entry.

        Raises:
            NotFoundError: The owner does not exist.
            ConflictError: An entry of another owner has this ID.
        """
        return self._put([self._encoded(entry)])[0]

    @operation
    def put_many(self, entries: Sequence[Entry]) -> list[Entry]:
        """Insert or replace entries atomically, in one round trip; see `put`.

        Raises:
            NotFoundError: An owner does not exist.
            ConflictError: An entry of another owner has one of the IDs.
            ValidationError: An ID is given twice.
        """
        encoded = self._encoded_list(entries)
        return self._put(encoded) if encoded else []

    @operation
    def import_many(self, entries: Sequence[Entry]) -> int:
        """Insert copies with their `created_at`; existing entries (by ID) are not changed. Idempotent.

        Returns:
            The number of new entries.

        Raises:
            NotFoundError: The owner of an entry does not exist here. Nothing is stored.
        """
        encoded = self._encoded_list(entries)

        def write(new: list[_Encoded]) -> int:
            if new:
                self._session.write(self._writes(sql.IMPORT, new))
            return len(new)

        def rest(new: list[_Encoded], error: RowCountError) -> list[_Encoded]:
            known = self._known([entry for _, entry in new])
            unknown = [pair for pair in new if str(pair[1].id) not in known]
            self._reject_orphans([entry for _, entry in unknown], error)
            return unknown

        return retry_on_row_conflict(write, encoded, rest, "importing these places")

    @operation
    def get(self, entry_id: UUID | str) -> Entry:
        """Return the entry.

        Raises:
            NotFoundError: The entry does not exist.
        """
        entry = self.find(entry_id)
        if entry is None:
            raise NotFoundError("place", entry_id)
        return entry

    @operation
    def find(self, entry_id: UUID | str) -> Entry | None:
        """Return the entry, or None if it does not exist."""
        rows = self._session.read(sql.GET.bind(namespace=self._session.namespace, id=as_id(entry_id)))
        return _entry_from_row(rows[0]) if rows else None

    @operation
    def for_owner(self, owner_type: PlaceOwner, owner_id: UUID | str) -> list[Entry]:
        """Return all entries of one owner, by time.

        Args:
            owner_type: "episode" or "step".
            owner_id: The ID of the owner.

        Returns:
            The entries, the earliest first.

        Raises:
            ValidationError: An argument is invalid.
        """
        values = {"owner_type": _check_owner_type(owner_type), "owner_id": as_id(owner_id, "owner_id")}
        step = sql.OF_OWNER.bind(namespace=self._session.namespace, **values)
        return [_entry_from_row(row) for row in self._session.read(step)]

    @operation
    def timeline(
        self,
        owner_type: PlaceOwner,
        owner_id: UUID | str,
        *,
        between: Interval | None = None,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "oldest_first",
    ) -> Page[Entry]:
        """Return a page of the entries of one owner, by time; entries without a time come first.

        Args:
            owner_type: "episode" or "step".
            owner_id: The ID of the owner.
            between: Only entries that overlap this interval.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "oldest_first" or "newest_first".

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        owner = {"kind": _check_owner_type(owner_type), "owner_id": as_id(owner_id, "owner_id")}
        branches = spatial_sql.owned_by(in_time=between is not None)
        return self._by_time(branches, {**owner, **interval_values(between)}, limit, cursor, direction, None)

    @operation
    def trajectory(
        self,
        episode_id: UUID | str,
        *,
        limit: int | None = None,
        cursor: str | None = None,
        direction: Direction = "oldest_first",
    ) -> Page[Entry]:
        """Return a page of the entries of an episode and of its steps, by time.

        Args:
            episode_id: The ID of the episode.
            limit: The maximum number of rows, 100 by default and 1,000 at most (`limits.query_default`,
                `query_maximum`).
            cursor: `next_cursor` or `previous_cursor` of a page with the same arguments.
            direction: "oldest_first" or "newest_first".

        Returns:
            The page, with cursors of the next and the previous one.

        Raises:
            ValidationError: An argument is invalid.
        """
        values = {"episode_id": as_id(episode_id, "episode_id")}
        return self._by_time(spatial_sql.of_trajectory(), values, limit, cursor, direction, None)

    @renamed_arguments(by="unit", zone="tz")
    @operation
    def hierarchy(
        self, *, unit: TimeUnit = "day", tz: str = "UTC", **filters: Unpack[EpisodeFilters]
    ) -> list[DomainNode]:
        """Count episodes by domain, task type and the period in which they started.

        A day has 23 or 25 hours where clocks change, and an hour that occurs twice is two. One statement; a second one
        only if an episode is later than 2037.

        Args:
            unit: "hour", "day", "week" or "month".
            tz: The IANA name of the time zone whose clocks count.
            **filters: The filters of `episodes.query`.

        Returns:
            A node for each domain, with its task types and their periods.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        return hierarchy(self._session, unit, tz, EpisodeFilter(**filters))

    @renamed_arguments(by="unit", zone="tz")
    @operation
    def diverse(
        self,
        k: int = 10,
        *,
        unit: TimeUnit = "day",
        tz: str = "UTC",
        steps: bool = True,
        **filters: Unpack[EpisodeFilters],
    ) -> list[Episode]:
        """Return `k` episodes that differ: domains alternate, within them task types, and within those periods.

        Of each period the episode with the highest reward comes first, then the newest; the newest periods come first.

        Args:
            k: The number of episodes, from 1 to 1,000.
            unit: "hour", "day", "week" or "month".
            tz: The IANA name of the time zone whose clocks count.
            steps: Whether the episodes have their steps.
            **filters: The filters of `episodes.query`.

        Returns:
            The episodes, or all of them if there are fewer.

        Raises:
            ValidationError: An argument or a filter is invalid.
        """
        return diverse(self._session, check_k(k), unit, tz, EpisodeFilter(**filters), steps=flag("steps", steps))

    @operation
    def iterate(self) -> Iterator[Entry]:
        """Iterate over all entries by ID, in pages of 100 entries or about 4 MB."""
        values = {"namespace": self._session.namespace, "limit": ITERATE_PAGE + 1, "page_bytes": PAGE_BYTES}

        def read(after: str) -> Sequence[Row]:
            return self._session.read(sql.PAGE.bind(after=after, **values))

        yield from iterate_by_id(read, _entry_from_row)

    @operation
    def delete(self, entry_id: UUID | str) -> bool:
        """Delete the entry. Returns whether it existed."""
        return bool(self._session.write([sql.DELETE.bind(namespace=self._session.namespace, id=as_id(entry_id))]))

    @operation
    def count(self) -> int:
        """Count the entries."""
        return int(self._session.read(sql.COUNT.bind(namespace=self._session.namespace))[0][0])

    def _by_seq(self, rows: Sequence[Row]) -> dict[int, Entry]:
        return {row[1]: _entry_from_row(row[2:5]) for row in rows}

    def _put(self, encoded: list[_Encoded]) -> list[Entry]:
        ids = ids_as_json([str(entry.id) for _, entry in encoded])
        read = sql.CREATED.bind(namespace=self._session.namespace, ids=ids)

        def write(new: list[_Encoded]) -> dict[str, int]:
            return dict(self._session.write([*self._writes(sql.PUT, new), read]))

        def rest(new: list[_Encoded], error: RowCountError) -> list[_Encoded]:
            entries = [entry for _, entry in new]
            self._reject_changed_owners(entries, error)
            self._reject_orphans(entries, error)
            return new  # another writer has removed the conflicting row since

        created = retry_on_row_conflict(write, encoded, rest, "changing these places")
        return [_with_created_at(entry, created) for _, entry in encoded]

    def _writes(self, statements: dict[str, SqlTemplate], encoded: Sequence[_Encoded]) -> list[BatchStep]:
        values = {"namespace": self._session.namespace, "now": to_micros(self._session.now())}
        # A statement for each type of owner: it joins their table, so that a missing owner shows in the count of rows.
        writes = [
            statement.bind(chunk.documents, entries=chunk.text, **values)
            for owner_type, statement in statements.items()
            for chunk in chunk_documents(map(_with_point, (one for one in encoded if one[1].owner_type == owner_type)))
        ]
        positions = [((str(entry.id),), (entry.latitude, entry.longitude)) for _, entry in encoded]
        return [*writes, *POSITIONS.steps(self._session.namespace, positions)]

    def _encoded(self, entry: Entry, field: str = "") -> _Encoded:
        document, stored = encode(Entry, entry, field)
        check_document(field, stored, document, self._session.limits, self._session.max_value_bytes)
        return document, stored

    def _encoded_list(self, entries: Sequence[Entry]) -> list[_Encoded]:
        copies = to_list(entries, "places")
        fields = [f"places.{number}" if len(copies) > 1 else "" for number in range(len(copies))]
        encoded = [self._encoded(entry, field) for entry, field in zip(copies, fields, strict=True)]
        ids = [str(entry.id) for _, entry in encoded]
        if len(set(ids)) != len(ids):
            raise ValidationError("places", "each id once", ids)
        return encoded

    def _known(self, entries: Sequence[Entry]) -> dict[str, tuple[str, str]]:
        ids = ids_as_json([str(entry.id) for entry in entries])
        rows = self._session.read(sql.OWNERS_BY_ID.bind(namespace=self._session.namespace, ids=ids))
        return {row[0]: (row[1], row[2]) for row in rows}

    def _reject_changed_owners(self, entries: Sequence[Entry], error: RowCountError) -> None:
        known = self._known(entries)
        for entry in entries:
            if known.get(str(entry.id), _owner(entry)) != _owner(entry):
                detail, advice = "the stored one has another owner", "to store it for this owner, give it a new id"
                raise ConflictError("place", entry.id, expected=0, actual=None, detail=detail, advice=advice) from error

    def _reject_orphans(self, entries: Sequence[Entry], error: RowCountError) -> None:
        ids = ids_as_json(sorted({str(entry.owner_id) for entry in entries}))
        rows = self._session.read(sql.OWNERS.bind(namespace=self._session.namespace, ids=ids))
        owners = {(row[0], row[1]) for row in rows}
        for entry in entries:
            if _owner(entry) not in owners:
                raise NotFoundError(entry.owner_type, entry.owner_id) from error


class EpisodesByLocation(SpatialQueries[Episode]):
    """Queries for episodes by the place and time of their entries and of their steps' entries. Each is returned once.

    The distance of an episode is that of its nearest entry. By time, it is ordered by its newest entry, or by its
    oldest one with "oldest_first".
    """

    _operations = "spatiotemporal.episodes"
    _finds_episodes = True

    def _by_seq(self, rows: Sequence[Row]) -> dict[int, Episode]:
        return episodes_by_seq(rows)


def _owner(entry: Entry) -> tuple[str, str]:
    return entry.owner_type, str(entry.owner_id)


def _with_point(encoded: _Encoded) -> str:
    document, entry = encoded
    if entry.latitude is None or entry.longitude is None:
        return f"[{document}]"
    # With 18 digits the engine does not misread the number as a neighbouring float.
    x, y, z = (f"{side:.18g}" for side in on_sphere(entry.latitude, entry.longitude))
    return f"[{document},{x},{y},{z}]"


def _with_created_at(entry: Entry, created: dict[str, int]) -> Entry:
    if (
        str(entry.id) not in created
    ):  # a concurrent writer deleted the row between the unacknowledged write and the read
        raise NotFoundError("place", entry.id)
    entry.__dict__["created_at"] = from_micros(created[str(entry.id)])
    return entry


def _check_owner_type(owner_type: str) -> str:
    if not isinstance(owner_type, str) or owner_type not in sql.TABLES:
        raise ValidationError("owner_type", f"one of {', '.join(sql.TABLES)}", owner_type)
    return owner_type


def _entry_from_row(row: Row) -> Entry:
    key, document, created_at = row
    entry = decode(Entry.model_validate_json, document, "spatiotemporal_index", key)
    entry.__dict__["created_at"] = from_micros(created_at)
    return entry
