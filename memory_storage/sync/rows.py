"""The rows that travel: their kinds, columns and names, and the SQL that reads them.

A row travels as its columns, without the numbers that are its database's own and what triggers derive from it: each
side builds its own indexes of words, facets, places and vectors. In a response each value is an object with its
type, so a page is few values: one JSON array has the short columns of all rows, and the sizes of the long ones; these
are one text; and floats, which SQLite's JSON rounds, are rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from operator import itemgetter
from typing import Any, NamedTuple

from memory_storage.errors import CorruptDataError
from memory_storage.repositories.patterns.sql import COUNTERS
from memory_storage.sql.episode_rows import EPISODE_COLUMNS, STEP_COLUMNS
from memory_storage.sql.statement import bytes_of_step

Values = tuple[Any, ...]
Name = tuple[int, str, str]
"""What names a row in all databases: its kind, namespace and key."""

_NO_FLOATS = (None,) * 5  # as many as a kind has at most

EPISODE, STEP, PATTERN, EMBEDDING, PLACE, FORGOTTEN, RELATIONSHIP, CHECKPOINT = range(1, 9)
"""The kinds of `sync_changes`. FORGOTTEN has no rows, but digests of what was erased."""

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
RELATIONSHIP_COLUMNS = ("namespace", "id", "from_id", "to_id", "kind", "weight", "created_at", "document")
CHECKPOINT_COLUMNS = ("namespace", "id", "episode_id", "step_number", "label", "created_at", "document")


@dataclass(frozen=True)
class Kind:
    """A kind of row.

    Attributes:
        number: As in `sync_changes`.
        name: What callers call it.
        table: Its table.
        columns: The columns that travel, in order; the first is the namespace.
        texts: The long ones among them.
        floats: Those that are floats.
        key: Those that name the row within its namespace.
    """

    number: int
    name: str
    table: str
    columns: tuple[str, ...]
    texts: tuple[str, ...] = ()
    floats: tuple[str, ...] = ()
    key: tuple[str, ...] = ("id",)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_places", {name: place for place, name in enumerate(self.columns)})
        as_sent = [*self.short, *self.texts, *self.floats]
        object.__setattr__(self, "in_order", itemgetter(*map(as_sent.index, self.columns)))

    in_order: Callable[[Sequence[Any]], Values] = field(init=False, repr=False, compare=False)
    """Returns the values of `short`, `texts` and `floats` in the order of `columns`."""

    @property
    def short(self) -> tuple[str, ...]:
        """The other columns."""
        return tuple(name for name in self.columns if name not in (*self.texts, *self.floats))

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
        Kind(EPISODE, "episode", "episodes", EPISODE_COLUMNS, ("document", "words"), ("reward",)),
        Kind(STEP, "step", "steps", STEP_COLUMNS, ("document", "output", "words")),
        Kind(
            PATTERN, "pattern", "patterns", PATTERN_COLUMNS, ("document", "words"), ("success_rate", "avg_reward_delta")
        ),
        Kind(EMBEDDING, "embedding", "embeddings", EMBEDDING_COLUMNS, key=("owner_type", "owner_id", "model")),
        Kind(PLACE, "place", "spatiotemporal_index", PLACE_COLUMNS, ("document",), ("latitude", "longitude", *"xyz")),
        Kind(RELATIONSHIP, "relationship", "relationships", RELATIONSHIP_COLUMNS, ("document",), ("weight",)),
        Kind(CHECKPOINT, "checkpoint", "checkpoints", CHECKPOINT_COLUMNS, ("document",)),
    )
}


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


def read_rows(rows: Sequence[Sequence[Any]]) -> tuple[list[Change], list[Any] | None]:
    """Return the changes in the rows of `select_rows`, and the array of the end, if it was selected.

    Raises:
        CorruptDataError: The long texts have another size than they should have: the server has changed them.
    """
    (abouts, joined, *_), *with_floats = rows
    floats = {(row[0], row[1]): row[2:] for row in with_floats}
    texts, changes, end = _Texts(joined or ""), [], None
    for about in json.loads(abouts):
        number, kind, writer, seq, *rest = about
        if kind is None:
            end = about
        elif seq is None:
            namespace, key, created_at = rest
            changes.append(Change(number, kind, namespace, key, None, created_at, writer))
        else:
            one = KINDS[kind]
            n_short = len(rest) - len(one.texts)
            of_row = floats.get((seq, kind), _NO_FLOATS)[: len(one.floats)]
            values = one.in_order([*rest[:n_short], *map(texts.cut, rest[n_short:]), *of_row])
            changes.append(Change(number, kind, values[0], one.key_of(values), values, None, writer))
    texts.close()
    return changes, end


class _Texts:
    """Texts that have travelled as one."""

    def __init__(self, joined: str) -> None:
        self._bytes, self._at = joined.encode("utf-8", "surrogatepass"), 0

    def cut(self, size: int | None) -> str | None:
        """Return the next text, of this size in bytes; None if it has none."""
        if size is None:
            return None
        start, self._at = self._at, self._at + size
        return self._bytes[start : self._at].decode("utf-8", "surrogatepass")

    def close(self) -> None:
        """Check that nothing is left, and nothing was missing."""
        if self._at != len(self._bytes):
            raise CorruptDataError(
                f"the server sent {len(self._bytes):,} bytes of texts of {self._at:,}: one of them may not be UTF-8; "
                "nothing of this page was stored"
            )


def select_rows(
    page: str,
    kinds: Sequence[int] = tuple(KINDS),
    *,
    tombstones: bool = True,
    end: tuple[str, str] | None = None,
) -> str:
    """Return SQL for the rows of a page, a table with `number`, `kind`, `namespace`, `seq`, `key` and more.

    Args:
        page: Its name.
        kinds: The kinds that may be in it.
        tombstones: Whether it may have tombstones.
        end: SQL for the array of the end, whose second value is NULL, and its FROM clause.
    """
    width = max(len(KINDS[number].floats) for number in kinds)
    parts, floats = [], []
    for number in kinds:
        kind = KINDS[number]
        source = f"FROM {page} AS p CROSS JOIN {kind.table} AS r ON r.seq = p.seq WHERE p.kind = {number}"
        columns = [f"r.{name}" for name in kind.short] + [f"octet_length(r.{name})" for name in kind.texts]
        text = " || ".join(f"coalesce(r.{name}, '')" for name in kind.texts) or "''"
        parts.append(f"SELECT json_array(p.number, {number}, p.writer, r.seq, {', '.join(columns)}), {text} {source}")
        if kind.floats:
            values = [f"r.{name}" for name in kind.floats]
            padded = values + ["NULL"] * (width - len(values))
            is_given = f"coalesce({', '.join([*values, 'NULL'])}) IS NOT NULL"
            floats.append(f"SELECT r.seq, {number}, {', '.join(padded)} {source} AND {is_given}")
    if tombstones:
        about = 'json_array(p.number, p.kind, p.writer, NULL, p.namespace, p."key", p.created_at)'
        parts.append(f"SELECT {about}, '' FROM {page} AS p WHERE p.seq IS NULL")
    if end is not None:
        parts.append(f"SELECT {end[0]}, '' {end[1]}")
    sent, nothing = "\nUNION ALL\n".join(parts), ", NULL" * width
    return f"""SELECT json_group_array(json(about)), group_concat("text", ''){nothing} FROM (
SELECT NULL AS about, NULL AS "text" WHERE false UNION ALL
{sent})""" + "".join(f"\nUNION ALL\n{one}" for one in floats)


def bytes_of(kind: str, seq: str) -> str:
    """Return SQL for about how many bytes a row has, of a kind and a `seq` in SQL."""
    return f"""coalesce(CASE {kind}
        WHEN {EPISODE} THEN (SELECT octet_length(document) FROM episodes WHERE seq = {seq})
        WHEN {STEP} THEN (SELECT {bytes_of_step("s")} FROM steps AS s WHERE seq = {seq})
        WHEN {PATTERN} THEN (SELECT octet_length(document) FROM patterns WHERE seq = {seq})
        WHEN {EMBEDDING} THEN (SELECT 6 * v.dimension + 400 FROM embeddings AS m
            CROSS JOIN vector_models AS v ON v.token = m.space WHERE m.seq = {seq})
        WHEN {PLACE} THEN (SELECT octet_length(document) FROM spatiotemporal_index WHERE seq = {seq})
        WHEN {RELATIONSHIP} THEN (SELECT octet_length(document) FROM relationships WHERE seq = {seq})
        WHEN {CHECKPOINT} THEN (SELECT octet_length(document) FROM checkpoints WHERE seq = {seq})
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
    RELATIONSHIP: ("from_id", "to_id", "kind", "weight", "created_at"),
    CHECKPOINT: ("episode_id", "step_number", "label", "created_at"),
}
"""The columns of a row that `sync_bases` has as JSON, as revisions 0011 and 0013 have them in their triggers."""
