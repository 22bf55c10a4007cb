"""What must not come back: a tombstone for each episode and pattern that was erased. Deletes nothing itself.

A tombstone keeps a stale copy of a row (an old export, the first save of an episode that is repeated) from being taken
for a new one. There are two forms:

- the digest of the namespace and the id, of what was forgotten or removed by retention. It says nothing of the person.
- an eviction's key: the digest of the namespace, then the id. `when_full="evict"` chooses its episodes in SQL, which
  has no digests, so that a save stays one round trip. `forget` replaces the key by the digest.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from uuid import UUID

from memory_storage.dbapi import Step
from memory_storage.errors import ConflictError, ValidationError
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.statement import SqlTemplate

_GIVEN = "digest IN (SELECT unhex(value) FROM json_each(:digests))"
_PAGE = 200
_ERASED = "it was erased (forgotten, or removed by retention or eviction)"

REMEMBER = SqlTemplate("""
INSERT INTO forgotten (digest) SELECT unhex(value) FROM json_each(:digests) WHERE true ON CONFLICT DO NOTHING
""")
# It changes nothing, and tells by the number of rows.
_GUARD = SqlTemplate(f"UPDATE forgotten SET digest = digest WHERE {_GIVEN}")
KNOWN = SqlTemplate(f"SELECT hex(digest) FROM forgotten WHERE {_GIVEN}")
_REMOVE = SqlTemplate(f"DELETE FROM forgotten WHERE {_GIVEN}")
_EVICTED = SqlTemplate("""
SELECT CAST(substr(digest, 9) AS TEXT) FROM forgotten
WHERE digest > unhex(:space) AND digest < unhex(:space || 'ff') AND length(digest) > 16 LIMIT :limit
""")

EVICTED_KEY = "unhex(:space || hex({id}))"
"""SQL for an eviction's key; longer than any digest."""


def digest_of(namespace: str, row_id: UUID | str) -> str:
    """What is kept of a row that was forgotten, in hexadecimal."""
    return blake2b(f"{namespace}\0{row_id}".encode(), digest_size=16).hexdigest()


def digests_of(namespace: str, ids: Iterable[UUID | str]) -> str:
    """Those of several, as the JSON array that a statement reads."""
    return json.dumps([digest_of(namespace, one) for one in ids])


def space_of(namespace: str) -> str:
    """What the eviction keys of a namespace begin with, in hexadecimal."""
    return blake2b(namespace.encode(), digest_size=8).hexdigest()


def guard(session: SessionProtocol, ids: Sequence[UUID]) -> list[Step]:
    """What a write that may insert a row begins with: the write is undone if one of these was erased."""
    return [_GUARD.bind(0, digests=json.dumps(list(_tombstones(session, ids))))] if ids else []


def restored(session: SessionProtocol, ids: Sequence[UUID]) -> list[Step]:
    """What an import begins with that brings back what was erased: it removes the tombstones of these."""
    return [_REMOVE.bind(digests=json.dumps(list(_tombstones(session, ids))))] if ids else []


def forgotten_among(session: SessionProtocol, ids: Iterable[UUID]) -> set[UUID]:
    """Those that were erased."""
    tombstones = _tombstones(session, ids)
    rows = session.read(KNOWN.bind(digests=json.dumps(list(tombstones))))
    return {tombstones[row[0].lower()] for row in rows}


def refuse_forgotten(session: SessionProtocol, ids: Sequence[UUID]) -> None:
    """ValidationError if one of these was erased."""
    for one in forgotten_among(session, ids):
        raise ValidationError("id", f"{_ERASED}, and does not come back: give it a new id", str(one))


def stale(session: SessionProtocol, kind: str, row_id: UUID, version: int, stored: int | None) -> ConflictError:
    """The error for a copy of `version`, where `stored` is the version in the database, and None if there is none."""
    if stored == version:
        detail = f"it was deleted and made again since this copy was read: version {version} is another one"
        return ConflictError(kind, row_id, expected=version, actual=stored, detail=detail)
    if stored is not None:
        return ConflictError(kind, row_id, expected=version, actual=stored)
    if forgotten_among(session, [row_id]):
        detail = _ERASED
        advice = "it cannot be saved again; to store its content on purpose, give it a new id and version=0"
    else:
        detail = f"version {version} was given, and it is not stored any more: it was deleted"
        advice = "to store it again on purpose, save it with version=0"
    return ConflictError(kind, row_id, expected=version, actual=None, detail=detail, advice=advice)


def forget_evictions(session: SessionProtocol, ids: Sequence[str]) -> list[Step]:
    """Replace what may be left of these by an eviction: its key has the id in it."""
    keys = [_evicted_key(session, one) for one in ids]
    return [REMEMBER.bind(digests=digests_of(session.namespace, ids)), _REMOVE.bind(digests=json.dumps(keys))]


def forget_all_evictions(session: SessionProtocol) -> None:
    """Replace all eviction keys of the namespace by digests."""
    page = _EVICTED.bind(space=space_of(session.namespace), limit=_PAGE)
    while ids := [row[0] for row in session.read(page)]:
        session.write(forget_evictions(session, ids))


def evicted_from(session: SessionProtocol) -> list[UUID]:
    """The ids of the namespace's episodes that were evicted, and not forgotten."""
    rows = session.read(_EVICTED.bind(space=space_of(session.namespace), limit=2**62))
    return [UUID(row[0]) for row in rows]


def _tombstones(session: SessionProtocol, ids: Iterable[UUID]) -> dict[str, UUID]:
    """Both forms of each, in hexadecimal."""
    forms = [(one, (digest_of(session.namespace, one), _evicted_key(session, one))) for one in ids]
    return {form: one for one, both in forms for form in both}


def _evicted_key(session: SessionProtocol, row_id: UUID | str) -> str:
    return space_of(session.namespace) + str(row_id).encode().hex()
