"""The rows that travel: their kinds, columns and names, and the SQL that reads them.

A row travels as its columns, without the numbers that are its database's own (`seq`) and what triggers derive from it:
each side builds its own indexes of words, facets, places and vectors. A statement returns rows of all kinds, so it has
as many columns as the widest kind; `Change.of` cuts them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from memory_storage.repositories.patterns.sql import COUNTERS
from memory_storage.sql.episode_rows import EPISODE_COLUMNS, STEP_COLUMNS
from memory_storage.sql.statement import bytes_of_step

Values = tuple[Any, ...]
Name = tuple[int, str, str]
"""What names a row in all databases: its kind, namespace and key."""

EPISODE, STEP, PATTERN, EMBEDDING, PLACE, FORGOTTEN = range(1, 7)
"""The kinds of `sync_changes`. The last one has no rows, but digests of what was erased."""

PATTERN_COUNTERS = (*COUNTERS, "last_used_at")
PATTERN_COLUMNS = (
    *("namespace", "id", "version", "kind", "domain", "language", "success_rate", "occurrence_count"),
    *PATTERN_COUNTERS,
    *("created_at", "updated_at", "document", "words"),
)
EMBEDDING_COLUMNS = (
    *("namespace", "owner_type", "owner_id", "model", "space", "vector_seq", "created_at", "updated_at"),
    *("text_digest", "text_version"),
)
PLACE_COLUMNS = (
    *("namespace", "id", "owner_type", "owner_id", "latitude", "longitude", "x", "y", "z", "place_name", "starts_at"),
    *("ends_at", "until_at", "created_at", "document"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of row.

    Attributes:
        number: As in `sync_changes`.
        name: What callers call it.
        table: Its table.
        columns: The columns that travel, in order; the first is the namespace.
        key: Those that name the row within its namespace.
    """

    number: int
    name: str
    table: str
    columns: tuple[str, ...]
    key: tuple[str, ...] = ("id",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.columns)})

    def place(self, column: str) -> int:
        """Return the position of a column."""
        places: dict[str, int] = self._places  # type: ignore[attr-defined]
        return places[column]

    def key_of(self, values: Sequence[Any]) -> str:
        """Return the key of a row, as `sync_changes` has it."""
        return " ".join(values[self.place(name)] for name in self.key)

    def key_sql(self, row: str) -> str:
        """Return SQL for the key of a row."""
        return " || ' ' || ".join(f"{row}.{name}" for name in self.key)

    def columns_of(self, row: str) -> str:
        """Return the select list of the columns of a row."""
        return ", ".join(f"{row}.{name}" for name in self.columns)

    def replaced(self, values: Values, **changes: Any) -> Values:
        """Return the row with other values in some columns."""
        row = list(values)
        for name, value in changes.items():
            row[self.place(name)] = value
        return tuple(row)


KINDS = {
    kind.number: kind
    for kind in (
        Kind(EPISODE, "episode", "episodes", EPISODE_COLUMNS),
        Kind(STEP, "step", "steps", STEP_COLUMNS),
        Kind(PATTERN, "pattern", "patterns", PATTERN_COLUMNS),
        Kind(EMBEDDING, "embedding", "embeddings", EMBEDDING_COLUMNS, ("owner_type", "owner_id", "model")),
        Kind(PLACE, "place", "spatiotemporal_index", PLACE_COLUMNS),
    )
}
_WIDTH = max(len(kind.columns) for kind in KINDS.values())
_N_HEAD = 7  # columns of a change before those of its row


class Change(NamedTuple):
    """A change, as it travels.

    Attributes:
        number: Its number in the log that it comes from; 0 of a row that was asked for.
        kind: The number of its kind.
        namespace: The namespace of the row; empty for a digest.
        key: The key of the row, or a digest.
        values: The columns of the row; None of a tombstone.
        created_at: When the row of a tombstone was created.
        writer: The name of the replica that pushed it; None if it was written at the server.
    """

    number: int
    kind: int
    namespace: str
    key: str
    values: Values | None = None
    created_at: int | None = None
    writer: str | None = None

    @property
    def name(self) -> Name:
        """The kind, namespace and key."""
        return self[1:4]

    @classmethod
    def of(cls, row: Sequence[Any]) -> Change:
        """Return the change in a row of `select_rows`."""
        number, kind, namespace, key, created_at, writer, is_live = row[:_N_HEAD]
        if not is_live:
            return cls(number, kind, namespace, key, None, created_at, writer)
        one = KINDS[kind]
        values = tuple(row[_N_HEAD : _N_HEAD + len(one.columns)])
        return cls(number, kind, values[0], one.key_of(values), values, None, writer)


def select_rows(page: str, kinds: Sequence[int] = tuple(KINDS), *, tombstones: bool = True) -> str:
    """Return SQL for the rows of a page, a table with `number`, `kind`, `namespace`, `seq`, `key` and more.

    Args:
        page: Its name.
        kinds: The kinds that may be in it.
        tombstones: Whether it may have tombstones.
    """
    parts = []
    for number in kinds:
        kind = KINDS[number]
        columns = [f"r.{name}" for name in kind.columns] + ["NULL"] * (_WIDTH - len(kind.columns))
        parts.append(
            f"SELECT p.number, {number}, NULL, NULL, NULL, p.writer, 1, {', '.join(columns)}\n"
            f"FROM {page} AS p CROSS JOIN {kind.table} AS r ON r.seq = p.seq WHERE p.kind = {number}"
        )
    if tombstones:
        nothing = ", ".join(["NULL"] * _WIDTH)
        parts.append(
            f'SELECT p.number, p.kind, p.namespace, p."key", p.created_at, p.writer, 0, {nothing}\n'
            f"FROM {page} AS p WHERE p.seq IS NULL"
        )
    return "\nUNION ALL\n".join(parts)


def bytes_of(kind: str, seq: str) -> str:
    """Return SQL for about how many bytes a row has, of a kind and a `seq` in SQL."""
    return f"""coalesce(CASE {kind}
        WHEN {EPISODE} THEN (SELECT octet_length(document) FROM episodes WHERE seq = {seq})
        WHEN {STEP} THEN (SELECT {bytes_of_step("s")} FROM steps AS s WHERE seq = {seq})
        WHEN {PATTERN} THEN (SELECT octet_length(document) FROM patterns WHERE seq = {seq})
        WHEN {EMBEDDING} THEN (SELECT 6 * v.dimension + 400 FROM embeddings AS m
            CROSS JOIN vector_models AS v ON v.token = m.space WHERE m.seq = {seq})
        WHEN {PLACE} THEN (SELECT octet_length(document) FROM spatiotemporal_index WHERE seq = {seq})
        END, 0)"""


def is_named(kind: Kind) -> str:
    """Return SQL for whether a row `r` is the one of [kind, namespace, key, ...], the `value` of json_each()."""
    if kind.number != EMBEDDING:
        return "r.namespace = value ->> 1 AND r.id = value ->> 2"
    # The index begins with the owner, whose id has 36 characters.
    return f"""r.namespace = value ->> 1
    AND r.owner_type = substr(value ->> 2, 1, instr(value ->> 2, ' ') - 1)
    AND r.owner_id = substr(value ->> 2, instr(value ->> 2, ' ') + 1, 36)
    AND {kind.key_sql("r")} = value ->> 2"""


BASES = {
    EPISODE: (
        *("version", "created_at", "updated_at", "archived_at", "task_type", "domain", "language", "framework"),
        *("complexity", "started_at", "completed_at"),
    ),
    STEP: ("step_number", "tool", "status", "latency_ms", "tokens_used", "started_at", "episode_id"),
    PATTERN: ("version", "created_at", "updated_at", "kind"),
    EMBEDDING: ("updated_at", "text_digest", "text_version"),
    PLACE: ("owner_type", "owner_id", "created_at"),
}
"""The columns of a row that `sync_bases` has as JSON, as revision 0011 has them in its triggers."""
