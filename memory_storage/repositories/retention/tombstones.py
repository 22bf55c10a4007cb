"""Tombstones of erased episodes and patterns.

A tombstone keeps a stale copy of a row (an old export, or the retried first save of an episode) from being stored as a
new one. It has one of two forms:

- the digest of the namespace and the id, for what `forget` or retention erased. It reveals nothing about the row.
- an eviction key: the digest of the namespace, then the id. `when_full="evict"` selects its episodes in SQL, which has
  no digest functions, so that a save stays one round trip. `forget` replaces the key by the digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from uuid import UUID

from memory_storage.dbapi import BatchStep
from memory_storage.errors import ConflictError, ValidationError
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.statement import SqlTemplate

_BY_DIGEST = "digest IN (SELECT unhex(value) FROM json_each(:digests))"
_ROWS_PER_PAGE = 200
_ERASED = "it was erased (forgotten, or removed by retention or eviction)"

# A row that was erased before keeps its tombstone.
ADD_TOMBSTONES = SqlTemplate("""
INSERT INTO forgotten (digest) SELECT unhex(value) FROM json_each(:digests) WHERE true ON CONFLICT DO NOTHING
""")
# Changes nothing: the number of rows that it matches rolls the batch back.
_REJECT_TOMBSTONED = SqlTemplate(f"UPDATE forgotten SET digest = digest WHERE {_BY_DIGEST}")
_REJECT_ONE = SqlTemplate("UPDATE forgotten SET digest = digest WHERE digest IN (:digest, :eviction_key)")
FIND_TOMBSTONES = SqlTemplate(f"SELECT hex(digest) FROM forgotten WHERE {_BY_DIGEST}")
_REMOVE_TOMBSTONES = SqlTemplate(f"DELETE FROM forgotten WHERE {_BY_DIGEST}")
# All keys of a namespace are one range of the primary key; a digest alone has 16 bytes.
_EVICTED_IDS = SqlTemplate("""
SELECT CAST(substr(digest, 9) AS TEXT) FROM forgotten
WHERE digest > unhex(:prefix) AND digest < unhex(:prefix || 'ff') AND length(digest) > 16 LIMIT :limit
""")

EVICTED_KEY = "unhex(:prefix || hex({id}))"
"""SQL for an eviction's key; longer than any digest."""


def digest_of(namespace: str, row_id: UUID | str) -> str:
    """Return the tombstone of an erased row, in hexadecimal."""
    # No namespace has a NUL. An id of this package has 74 random bits: no digest is reversed by trying.
    return blake2b(f"{namespace}\0{row_id}".encode(), digest_size=16).hexdigest()


def digests_of(namespace: str, ids: Iterable[UUID | str]) -> str:
    """Return the tombstones of several rows, as the JSON array that a statement reads."""
    return json.dumps([digest_of(namespace, one) for one in ids])


def eviction_prefix(namespace: str) -> str:
    """Return the prefix of a namespace's eviction keys, in hexadecimal."""
    return blake2b(namespace.encode(), digest_size=8).hexdigest()


def tombstone_forms(namespace: str, row_id: UUID | str) -> tuple[str, str]:
    """Return both forms that the tombstone of a row may have: the digest, and the eviction key; in hexadecimal."""
    return digest_of(namespace, row_id), _eviction_key(namespace, row_id)


def assert_not_tombstoned(session: SessionProtocol, ids: Sequence[UUID]) -> list[BatchStep]:
    """Return the first statement of an insert: it rolls the write back if one of these was erased."""
    if len(ids) == 1:
        digest, key = map(bytes.fromhex, _tombstone_forms(session, ids))
        return [_REJECT_ONE.bind(0, digest=digest, eviction_key=key)]
    return [_REJECT_TOMBSTONED.bind(0, digests=json.dumps(list(_tombstone_forms(session, ids))))] if ids else []


def remove_tombstones(session: SessionProtocol, ids: Sequence[UUID]) -> list[BatchStep]:
    """Return the first statement of an import that restores erased rows: it removes their tombstones."""
    return [_REMOVE_TOMBSTONES.bind(digests=json.dumps(list(_tombstone_forms(session, ids))))] if ids else []


def tombstoned_among(session: SessionProtocol, ids: Iterable[UUID]) -> set[UUID]:
    """Return the ids that were erased."""
    tombstones = _tombstone_forms(session, ids)
    rows = session.read(FIND_TOMBSTONES.bind(digests=json.dumps(list(tombstones))))
    return {tombstones[row[0].lower()] for row in rows}


def reject_tombstoned(session: SessionProtocol, ids: Sequence[UUID]) -> None:
    """Raise ValidationError if one of these was erased."""
    for one in tombstoned_among(session, ids):
        raise ValidationError(
            "id", f"{_ERASED}; nothing was stored; to store its content on purpose, give it a new id", str(one)
        )


def stale_copy_error(
    session: SessionProtocol, kind: str, row_id: UUID, version: int, stored: int | None
) -> ConflictError:
    """Return the error for a copy of `version`, where `stored` is the stored version or None."""
    if stored == version:
        detail = f"another one with version {version} was stored under this id since this copy was read"
        return ConflictError(kind, row_id, expected=version, actual=stored, detail=detail)
    if stored is not None:
        return ConflictError(kind, row_id, expected=version, actual=stored)
    if tombstoned_among(session, [row_id]):
        detail = _ERASED
        advice = "it cannot be saved again; to store its content on purpose, give it a new id and version=0"
    else:
        detail = f"version {version} was given, but it was deleted"
        advice = "to store it again on purpose, save it with version=0"
    return ConflictError(kind, row_id, expected=version, actual=None, detail=detail, advice=advice)


def replace_eviction_keys(session: SessionProtocol, ids: Sequence[str]) -> list[BatchStep]:
    """Return statements that replace the eviction keys of these episodes, which contain the id, by digests."""
    keys = [_eviction_key(session.namespace, one) for one in ids]
    return [
        ADD_TOMBSTONES.bind(digests=digests_of(session.namespace, ids)),
        _REMOVE_TOMBSTONES.bind(digests=json.dumps(keys)),
    ]


def replace_all_eviction_keys(session: SessionProtocol) -> None:
    """Replace all eviction keys of the namespace by digests."""
    page = _EVICTED_IDS.bind(prefix=eviction_prefix(session.namespace), limit=_ROWS_PER_PAGE)
    while ids := [row[0] for row in session.read(page)]:
        session.write(replace_eviction_keys(session, ids))


def erase_traces(names: Sequence[tuple[str, str]]) -> list[BatchStep]:
    """Return statements that erase what reconciliation keeps of erased rows: conflicts, and the ids of tombstones.

    A replica keeps the ids of tombstones until it has pushed them, since the server finds its rows by them.

    Args:
        names: The namespace and the id of each row.
    """
    if not names:
        return []
    pairs = json.dumps(names)
    is_pushed = "(SELECT mode FROM sync_state WHERE id = 1) <> 2"
    named = "t.namespace = value ->> 0 AND t.{0} = value ->> 1"
    logged = "DELETE FROM sync_changes WHERE number IN (SELECT t.number FROM json_each(?) CROSS JOIN sync_changes AS t"
    # The key of a vector begins with its owner's type and id. An exclamation mark comes after a space.
    of_owner = """t."key" BETWEEN '{0} ' || (value ->> 1) || ' ' AND '{0} ' || (value ->> 1) || '!'"""
    statements = [
        *(
            f"DELETE FROM sync_conflicts WHERE seq IN (SELECT t.seq FROM json_each(?)"
            f" CROSS JOIN sync_conflicts AS t ON {named.format(name)})"
            for name in ("object_id", "episode_id", "mine ->> '$.to_id'")  # the last one of relationships
        ),
        "DELETE FROM sync_wanted WHERE (namespace, episode_id) IN (SELECT value ->> 0, value ->> 1 FROM json_each(?))",
        *(f"""{logged} ON t.kind = {kind} AND {named.format('"key"')} AND {is_pushed})""" for kind in (1, 3)),
        *(
            f"{logged} ON t.kind = 4 AND t.namespace = value ->> 0 AND {of_owner.format(owner)} AND {is_pushed})"
            for owner in ("episode", "pattern")
        ),
    ]
    return [BatchStep(statement, (pairs,)) for statement in statements]


def evicted_ids(session: SessionProtocol) -> list[UUID]:
    """Return the ids of the namespace's episodes that were evicted, and not erased by `forget`."""
    rows = session.read(_EVICTED_IDS.bind(prefix=eviction_prefix(session.namespace), limit=2**62))
    return [UUID(row[0]) for row in rows]


def _tombstone_forms(session: SessionProtocol, ids: Iterable[UUID]) -> dict[str, UUID]:
    """Return both forms of each tombstone, in hexadecimal."""
    return {form: one for one in ids for form in tombstone_forms(session.namespace, one)}


def _eviction_key(namespace: str, row_id: UUID | str) -> str:
    return eviction_prefix(namespace) + str(row_id).encode().hex()
