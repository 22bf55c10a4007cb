"""SQL that writes rows that have travelled: those that a replica pushes at the server, and those it pulls in its file.

At the server a row is accepted if the replica has seen its latest change: if its number in the server's log is not
above the one up to which the replica has pulled. A new row is accepted if there is none, and neither a tombstone of it
nor a digest. What is accepted is returned; so a request can be repeated, and one that is delayed does no harm.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from memory_storage.dbapi import BatchStep, chunked
from memory_storage.models.relationship import ACYCLIC
from memory_storage.schema.vector_tables import VectorSpace, digest
from memory_storage.search import vector_sql
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.statement import upsert_assignments

from .rows import (
    CHECKPOINT,
    EMBEDDING,
    EPISODE,
    KINDS,
    PATTERN,
    PATTERN_COUNTERS,
    PLACE,
    RELATIONSHIP,
    STEP,
    Values,
)

_MOST_ROWS = 64  # of one statement: a text is compiled for each number of rows

_GUARDS = ("is_new", "digest", "eviction_key")
"""What a pushed row has after its columns: whether the server should not have it, and both forms of its tombstone."""

_IS_FORGOTTEN = "EXISTS (SELECT 1 FROM forgotten WHERE digest IN (g.digest, g.eviction_key))"
_EPISODE_SEQ = """CASE g.owner_type
        WHEN 'episode' THEN (SELECT seq FROM episodes WHERE namespace = g.namespace AND id = g.owner_id)
        WHEN 'step' THEN (SELECT e.seq FROM steps AS s CROSS JOIN episodes AS e
            ON e.namespace = s.namespace AND e.id = s.episode_id WHERE s.namespace = g.namespace AND s.id = g.owner_id)
        WHEN 'pattern' THEN (SELECT seq FROM patterns WHERE namespace = g.namespace AND id = g.owner_id) END"""
"""The row that a search finds by an embedding or a place of an owner; NULL without the owner."""


class Pushed(NamedTuple):
    """A row to push.

    Attributes:
        values: Its columns.
        is_new: Whether it has never been in sync.
        digest: Its tombstone, if it is erased: of a part of an episode, the episode's.
        eviction_key: The tombstone's other form.
    """

    values: Values
    is_new: bool
    digest: bytes | None
    eviction_key: bytes | None

    @property
    def row(self) -> Values:
        """The values of a statement."""
        return (*self.values, int(self.is_new), self.digest, self.eviction_key)


def push_rows(kind: int, rows: Sequence[Pushed], since: int) -> Iterator[BatchStep]:
    """Yield the statements that store rows at the server if they are accepted, and return the keys of those.

    Args:
        kind: The kind of the rows; embeddings have `push_embeddings`.
        rows: The rows.
        since: The number up to which the replica has pulled.
    """
    if kind == STEP:
        new, known = [row for row in rows if row.is_new], [row for row in rows if not row.is_new]
        yield from _statements(_new_steps, [row.row for row in new], ())
        yield from _statements(_changed_steps, [row.row for row in known], (since,))
    else:
        yield from _statements(_GUARDED[kind], [row.row for row in rows], (since,))


def apply_rows(kind: int, rows: Sequence[Values]) -> BatchStep:
    """Return the statement that stores rows as they are, in the file of a replica.

    Args:
        kind: The kind of the rows; embeddings have `apply_embeddings`.
        rows: The rows, at least one, at most some hundreds. Nothing is stored of a place without its owner.
    """
    return BatchStep(_APPLIED[kind](len(rows)), tuple(chain.from_iterable(rows)))


def delete_named(names: Sequence[tuple[str, str]]) -> Iterator[BatchStep]:
    """Yield the statements that delete episodes and patterns by their namespaces and ids."""
    pairs = json.dumps(names)
    for table in ("episodes", "patterns"):
        yield BatchStep(
            f"""DELETE FROM {table} WHERE seq IN (
    SELECT r.seq FROM json_each(?) CROSS JOIN {table} AS r ON r.namespace = value ->> 0 AND r.id = value ->> 1)""",
            (pairs,),
        )


def push_embeddings(space: VectorSpace, rows: Sequence[tuple[Pushed, bytes]], since: int) -> Iterator[BatchStep]:
    """Yield the statements that store embeddings of one space at the server, and return the keys of those accepted.

    Args:
        space: Where the server has the vectors of their model and dimension.
        rows: The embeddings with their vectors.
        since: The number up to which the replica has pulled.
    """
    values = [(*row.row, digest(vector)) for row, vector in rows]
    write = _statements(lambda n: _embeddings(space, n, guarded=True), values, (since,))
    yield from _with_vectors(space, [vector for _, vector in rows], write)


def apply_embeddings(space: VectorSpace, rows: Sequence[tuple[Values, bytes]]) -> Iterator[BatchStep]:
    """Yield the statements that store embeddings of one space as they are, in the file of a replica."""
    values = [(*row, digest(vector)) for row, vector in rows]
    write = _statements(lambda n: _embeddings(space, n, guarded=False), values, ())
    yield from _with_vectors(space, [vector for _, vector in rows], write)


def _statements(sql: Callable[[int], str], rows: Iterable[Values], after: Values) -> Iterator[BatchStep]:
    for group in chunked(rows, _bytes_of, most_bytes=CHUNK_BYTES, most=_MOST_ROWS):
        yield BatchStep(sql(len(group)), (*chain.from_iterable(group), *after))


def _bytes_of(row: Values) -> int:
    # A character has at most four bytes: to count them exactly would encode each text.
    return 4 * sum(len(value) for value in row if type(value) is str)


def _given(columns: Sequence[str], rows: int) -> str:
    row = f"({', '.join('?' * len(columns))})"
    return f"WITH g ({', '.join(columns)}) AS (VALUES {', '.join([row] * rows)})"


def _list(columns: Sequence[str], prefix: str = "") -> str:
    return ", ".join(prefix + name for name in columns)


def _assignments(columns: Iterable[str], row: str) -> str:
    return ", ".join(f"{name} = {row}.{name}" for name in columns)


def _is_accepted(kind: int) -> str:
    """Return SQL for whether the server accepts the row `g`; its last value is the number that the replica has seen."""
    one = KINDS[kind]
    stored = f"{one.table} AS r WHERE r.namespace = g.namespace AND " + " AND ".join(
        f"r.{name} = g.{name}" for name in one.key
    )
    return f"""CASE WHEN g.is_new THEN
        NOT EXISTS (SELECT 1 FROM {stored}) AND NOT {_IS_FORGOTTEN} AND NOT EXISTS (
            SELECT 1 FROM sync_changes AS t
            WHERE t.kind = {kind} AND t.namespace = g.namespace AND t."key" = {one.key_sql("g")}
                AND t.created_at = g.created_at)
    ELSE EXISTS (SELECT 1 FROM {stored} AND r.created_at = g.created_at AND coalesce(
        (SELECT c.number FROM sync_changes AS c WHERE c.kind = {kind} AND c.seq = r.seq), 0) <= ?) END"""


def _upsert(
    kind: int,
    kept: Sequence[str],
    *,
    guarded: bool,
    n: int,
    expressions: dict[str, str] | None = None,
    condition: str = "true",
) -> str:
    """Return the SQL that inserts or updates rows of a kind.

    Args:
        kind: The kind.
        kept: Columns that an update leaves as they are.
        guarded: Whether only what is accepted is stored, and returned.
        n: The number of rows.
        expressions: Columns with their SQL, where that is not the value that has travelled.
        condition: SQL of a row `g` that has to hold too.
    """
    one, expressions = KINDS[kind], expressions or {}
    targets = {name: expressions.get(name, f"g.{name}") for name in one.columns} | expressions
    where = f"{condition} AND {_is_accepted(kind)}" if guarded else condition
    if "episode_seq" in targets:
        where = f"{targets['episode_seq']} IS NOT NULL AND {where}"
    changes = upsert_assignments(targets, "namespace", *one.key, *kept)
    return f"""{_given((*one.columns, *(_GUARDS if guarded else ())), n)}
INSERT INTO {one.table} ({", ".join(targets)})
SELECT {", ".join(targets.values())} FROM g WHERE {where}
ON CONFLICT (namespace, {_list(one.key)}) DO UPDATE SET {changes}
{f"RETURNING {kind}, namespace, id, NULL" if guarded else ""}"""


@lru_cache(maxsize=_MOST_ROWS)
def _push_episodes(n: int) -> str:
    return _upsert(EPISODE, ("created_at",), guarded=True, n=n)


@lru_cache(maxsize=_MOST_ROWS)
def _push_patterns(n: int) -> str:
    # The counters of a new pattern are differences from nothing: they come with the others.
    zero = dict.fromkeys(PATTERN_COUNTERS, "0") | {"last_used_at": "NULL"}
    return _upsert(PATTERN, ("created_at", *PATTERN_COUNTERS), guarded=True, n=n, expressions=zero)


@lru_cache(maxsize=_MOST_ROWS)
def _push_places(n: int) -> str:
    return _upsert(PLACE, ("created_at",), guarded=True, n=n, expressions={"episode_seq": _EPISODE_SEQ})


# An episode may have been deleted at the server. Of two relationships that were added at once between the same episodes
# the server keeps the first; and of those that form a cycle all but the last. Rows of this statement that were created
# earlier count as stored, so that its rows close no cycle together.
_ACYCLIC_KINDS = ", ".join(f"'{kind}'" for kind in sorted(ACYCLIC))
_IS_POSSIBLE = f"""EXISTS (SELECT 1 FROM episodes AS e WHERE e.namespace = g.namespace AND e.id = g.from_id)
    AND EXISTS (SELECT 1 FROM episodes AS e WHERE e.namespace = g.namespace AND e.id = g.to_id)
    AND NOT EXISTS (SELECT 1 FROM relationships AS r WHERE r.namespace = g.namespace AND r.from_id = g.from_id
        AND r.kind = g.kind AND r.to_id = g.to_id AND r.id <> g.id)
    AND NOT (g.kind IN ({_ACYCLIC_KINDS}) AND EXISTS (
        WITH RECURSIVE descendants (id) AS (
            SELECT g.to_id
            UNION SELECT r.to_id FROM descendants AS d CROSS JOIN relationships AS r
                ON r.namespace = g.namespace AND r.from_id = d.id AND r.kind = g.kind
            UNION SELECT o.to_id FROM descendants AS d CROSS JOIN g AS o
                ON o.namespace = g.namespace AND o.from_id = d.id AND o.kind = g.kind
                    AND (o.created_at, o.id) < (g.created_at, g.id))
        SELECT 1 FROM descendants WHERE id = g.from_id))"""


@lru_cache(maxsize=_MOST_ROWS)
def _push_relationships(n: int) -> str:
    return _upsert(RELATIONSHIP, ("created_at",), guarded=True, n=n, condition=_IS_POSSIBLE)


@lru_cache(maxsize=_MOST_ROWS)
def _push_checkpoints(n: int) -> str:
    has_episode = "EXISTS (SELECT 1 FROM episodes AS e WHERE e.namespace = g.namespace AND e.id = g.episode_id)"
    return _upsert(CHECKPOINT, ("created_at",), guarded=True, n=n, condition=has_episode)


@lru_cache(maxsize=_MOST_ROWS)
def _apply_relationships(n: int) -> str:
    return _upsert(RELATIONSHIP, (), guarded=False, n=n)


@lru_cache(maxsize=_MOST_ROWS)
def _apply_checkpoints(n: int) -> str:
    return _upsert(CHECKPOINT, (), guarded=False, n=n)


@lru_cache(maxsize=_MOST_ROWS)
def _apply_episodes(n: int) -> str:
    return _upsert(EPISODE, (), guarded=False, n=n)


@lru_cache(maxsize=_MOST_ROWS)
def _apply_patterns(n: int) -> str:
    return _upsert(PATTERN, (), guarded=False, n=n)


@lru_cache(maxsize=_MOST_ROWS)
def _apply_places(n: int) -> str:
    return _upsert(PLACE, (), guarded=False, n=n, expressions={"episode_seq": _EPISODE_SEQ})


@lru_cache(maxsize=_MOST_ROWS)
def _apply_steps(n: int) -> str:
    columns = KINDS[STEP].columns
    changed = [name for name in columns if name not in ("namespace", "id", "episode_id")]
    return f"""{_given(columns, n)}
INSERT INTO steps ({_list(columns)}) SELECT {_list(columns, "g.")} FROM g WHERE true
ON CONFLICT (namespace, id) DO UPDATE SET {_assignments(changed, "excluded")}
WHERE ({_list(changed, "steps.")}) IS NOT ({_list(changed, "excluded.")})"""


@lru_cache(maxsize=_MOST_ROWS)
def _new_steps(n: int) -> str:
    # Where one of the numbers is taken, all new steps of the episode move behind the stored ones, in their order.
    columns = KINDS[STEP].columns
    values = ", ".join("f.step_number + m.shift" if name == "step_number" else f"f.{name}" for name in columns)
    return f"""{_given((*columns, *_GUARDS), n)},
fresh AS MATERIALIZED (
    SELECT g.*, EXISTS (SELECT 1 FROM steps AS s WHERE s.namespace = g.namespace AND s.episode_id = g.episode_id
        AND s.step_number = g.step_number) AS is_taken
    FROM g WHERE EXISTS (SELECT 1 FROM episodes AS e WHERE e.namespace = g.namespace AND e.id = g.episode_id)
        AND NOT EXISTS (SELECT 1 FROM steps AS s WHERE s.namespace = g.namespace AND s.id = g.id)
        AND NOT EXISTS (SELECT 1 FROM sync_changes AS t
            WHERE t.kind = {STEP} AND t.namespace = g.namespace AND t."key" = g.id)
        AND NOT {_IS_FORGOTTEN}),
moved AS MATERIALIZED (
    SELECT namespace, episode_id, CASE WHEN max(is_taken) THEN (
        SELECT max(s.step_number) FROM steps AS s WHERE s.namespace = fresh.namespace
            AND s.episode_id = fresh.episode_id) - min(step_number) + 1 ELSE 0 END AS shift
    FROM fresh GROUP BY namespace, episode_id)
INSERT INTO steps ({_list(columns)})
SELECT {values} FROM fresh AS f CROSS JOIN moved AS m ON m.namespace = f.namespace AND m.episode_id = f.episode_id
ORDER BY f.namespace, f.episode_id, f.step_number
RETURNING {STEP}, namespace, id, step_number"""


@lru_cache(maxsize=_MOST_ROWS)
def _changed_steps(n: int) -> str:
    columns = KINDS[STEP].columns
    changed = [name for name in columns if name not in ("namespace", "id", "episode_id", "step_number")]
    return f"""{_given((*columns, *_GUARDS), n)}
UPDATE steps SET {_assignments(changed, "g")} FROM g
WHERE steps.namespace = g.namespace AND steps.id = g.id AND steps.episode_id = g.episode_id AND coalesce(
    (SELECT c.number FROM sync_changes AS c WHERE c.kind = {STEP} AND c.seq = steps.seq), 0) <= ?
RETURNING {STEP}, namespace, id, step_number"""


@lru_cache(maxsize=4 * _MOST_ROWS)
def _embeddings(space: VectorSpace, n: int, *, guarded: bool) -> str:
    columns = KINDS[EMBEDDING].columns
    vector = f"(SELECT v.seq FROM {space.table} AS v WHERE v.digest = g.vector_digest)"
    accepted = _is_accepted(EMBEDDING) if guarded else "true"
    changed = ["vector_seq", "item_seq", "updated_at", "space", "text_digest", "text_version"]
    if not guarded:
        changed.append("created_at")
    # All vectors of a model and namespace are in one space.
    is_alone = f"""NOT EXISTS (SELECT 1 FROM embeddings AS o WHERE o.namespace = g.namespace AND o.model = g.model
        AND o.space <> '{space.token}')"""
    key = "owner_type || ' ' || owner_id || ' ' || model"
    return f"""{_given((*columns, *(_GUARDS if guarded else ()), "vector_digest"), n)}
INSERT INTO embeddings (namespace, owner_type, owner_id, model, vector_seq, item_seq, created_at, updated_at, space,
    text_digest, text_version)
SELECT g.namespace, g.owner_type, g.owner_id, g.model, {vector}, {_EPISODE_SEQ}, g.created_at, g.updated_at,
    '{space.token}', g.text_digest, g.text_version
FROM g WHERE {_EPISODE_SEQ} IS NOT NULL AND {is_alone} AND {accepted}
ON CONFLICT (namespace, owner_type, owner_id, model) DO UPDATE SET {_assignments(changed, "excluded")}
{f"RETURNING {EMBEDDING}, namespace, {key}, NULL" if guarded else ""}"""


def _with_vectors(space: VectorSpace, vectors: Sequence[bytes], write: Iterable[BatchStep]) -> Iterator[BatchStep]:
    """Yield statements that add vectors, those that refer to them, and those that delete what nothing refers to."""
    statements, discards = vector_sql.of(space), []
    for group in chunked(vectors, len, most_bytes=CHUNK_BYTES):
        values = {
            "rows": json.dumps([0] * len(group)),  # as many as there are digests and vectors
            "digests": b"".join(map(digest, group)),
        }
        yield statements.add.bind(vectors=b"".join(group), size=len(group[0]), **values)
        discards.append(statements.discard.bind(model=space.model, space=space.token, **values))
    yield from write
    yield from discards


_GUARDED = {
    EPISODE: _push_episodes,
    PATTERN: _push_patterns,
    PLACE: _push_places,
    RELATIONSHIP: _push_relationships,
    CHECKPOINT: _push_checkpoints,
}
_APPLIED = {
    EPISODE: _apply_episodes,
    STEP: _apply_steps,
    PATTERN: _apply_patterns,
    PLACE: _apply_places,
    RELATIONSHIP: _apply_relationships,
    CHECKPOINT: _apply_checkpoints,
}
