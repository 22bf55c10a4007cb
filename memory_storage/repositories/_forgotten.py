"""What must not come back: a digest for each episode and pattern that was forgotten. Deletes nothing itself.

A digest says nothing of the person: it is one of the namespace and the id, and kept so that a stale copy of a row (an
old export, the first save of an episode that is repeated) is not taken for a new one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from uuid import UUID

from memory_storage.dbapi import Step
from memory_storage.errors import ValidationError

from ._session import Session
from ._statement import Prepared

_GIVEN = "digest IN (SELECT unhex(value) FROM json_each(:digests))"

REMEMBER = Prepared("""
INSERT INTO forgotten (digest) SELECT unhex(value) FROM json_each(:digests) WHERE true ON CONFLICT DO NOTHING
""")
# It changes nothing, and tells by the number of rows.
_GUARD = Prepared(f"UPDATE forgotten SET digest = digest WHERE {_GIVEN}")
_KNOWN = Prepared(f"SELECT hex(digest) FROM forgotten WHERE {_GIVEN}")


def digest_of(namespace: str, row_id: UUID | str) -> str:
    """What is kept of a row that was forgotten, in hexadecimal."""
    return blake2b(f"{namespace}\0{row_id}".encode(), digest_size=16).hexdigest()


def digests_of(namespace: str, ids: Iterable[UUID | str]) -> str:
    """Those of several, as the JSON array that a statement reads."""
    return json.dumps([digest_of(namespace, one) for one in ids])


def guard(session: Session, ids: Sequence[UUID]) -> list[Step]:
    """What a write begins with that may bring a row anew: it is undone if one of these was forgotten."""
    return [_GUARD.step(0, digests=digests_of(session.namespace, ids))] if ids else []


def forgotten_among(session: Session, ids: Iterable[UUID]) -> set[UUID]:
    """Those that were forgotten."""
    by_digest = {digest_of(session.namespace, one).upper(): one for one in ids}
    rows = session.read(_KNOWN.step(digests=json.dumps(list(by_digest))))
    return {by_digest[row[0]] for row in rows}


def refuse_forgotten(session: Session, ids: Sequence[UUID]) -> None:
    """ValidationError if one of these was forgotten."""
    for one in forgotten_among(session, ids):
        raise ValidationError("id", "it was forgotten, and does not come back: give it a new id", str(one))
