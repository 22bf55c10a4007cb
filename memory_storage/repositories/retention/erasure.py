"""Erasing an episode, or all of a namespace: the rows. The bytes that are left of them are `erasure`'s affair."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from memory_storage.dbapi import RowCountError, Step
from memory_storage.errors import UnavailableError
from memory_storage.monitoring import note_removed
from memory_storage.schema.words import words_of_pattern
from memory_storage.sql.documents import to_micros
from memory_storage.sql.session import SAVE_ATTEMPTS, Row, SessionProtocol, as_id, json_ids
from memory_storage.sql.statement import SqlTemplate

from . import sql
from .deletion import Item, Remover
from .pacing import Pace
from .quarantine import Quarantine
from .task_quotes import ABOUT_TASKS, LEARNED, without_tasks
from .tombstones import KNOWN, REMEMBER, digest_of, digests_of, forget_all_evictions, forget_evictions

_PATTERNS = 200

_NAMED = """SELECT owner_seq FROM facets WHERE namespace = :namespace AND owner_type = 'pattern'
    AND name = 'evidence' AND value = :id"""
_OTHERS = "(SELECT value FROM json_each(p.document, '$.evidence') WHERE value <> :id)"
_TELLS_OF_TASKS = f"""instr(p.document ->> '$.description', '{ABOUT_TASKS}')
    AND EXISTS (SELECT 1 FROM json_each(p.document, '$.tags') WHERE value = '{LEARNED}')"""
_LEARNED = SqlTemplate(f"""
SELECT p.id, EXISTS {_OTHERS}, p.version, CASE WHEN {_TELLS_OF_TASKS} THEN p.document END
FROM patterns AS p WHERE p.seq IN ({_NAMED})
""")
_ONLY_FROM_IT = f"""FROM patterns AS p WHERE p.namespace = :namespace AND p.seq IN ({_NAMED})
    AND NOT EXISTS {_OTHERS}"""
_UNLEARN = SqlTemplate(f"DELETE {_ONLY_FROM_IT}")
_CLEAR = SqlTemplate(f"""
UPDATE patterns AS p SET version = p.version + 1, updated_at = :now, document = json_set(p.document, '$.evidence',
    json((SELECT json_group_array(value) FROM {_OTHERS})))
WHERE p.seq IN ({_NAMED})
""")
_RETELL = SqlTemplate("""
UPDATE patterns SET document = json_set(document, '$.description', :description), words = :words
WHERE namespace = :namespace AND id = :id AND version = :version
""")
_SOME_PATTERNS = SqlTemplate("SELECT id FROM patterns WHERE namespace = :namespace ORDER BY id LIMIT :limit")
_DELETE_PATTERNS = SqlTemplate("""
DELETE FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
_NAMED_PATTERNS = SqlTemplate("""
SELECT id FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
_PAGE = 500
_HOLDERS = [
    "SELECT namespace, id FROM episodes",
    "SELECT namespace, id FROM patterns",
    "SELECT namespace, value FROM facets WHERE owner_type = 'pattern' AND name = 'evidence'",
]
_QUARANTINED = Step("SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'quarantined!_%' ESCAPE '!'", ())
_QUARANTINED_HOLDERS = {
    "quarantined_episodes": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_episodes",
    "quarantined_patterns": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_patterns",
    "quarantined_steps": "SELECT CAST(namespace AS TEXT), CAST(episode_id AS TEXT) FROM quarantined_steps",
    "quarantined_embeddings": "SELECT CAST(namespace AS TEXT), CAST(owner_id AS TEXT) FROM quarantined_embeddings",
}
# They go with their owners. What another program has written there may have none.
_OWNERLESS = [
    SqlTemplate(f"DELETE FROM {table} WHERE namespace = :namespace")
    for table in ("embeddings", "spatiotemporal_index", "facets")
]

MERGE_WORDS = [
    SqlTemplate(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
    for table in ("episodes_fts", "steps_fts", "patterns_fts")
]
"""What makes the full-text indexes forget the words of rows that are gone: each segment of them is merged."""


class Erased(NamedTuple):
    """How many rows."""

    episodes: int = 0
    patterns: int = 0
    patterns_changed: int = 0


def erase_episode(session: SessionProtocol, episode_id: object, pace: Pace) -> Erased:
    """An episode with all that is its own; and what was learned from it alone. It need not be there any more."""
    key = as_id(episode_id)  # type: ignore[arg-type] # it is checked
    learned = session.read(_LEARNED.bind(namespace=session.namespace, id=key))
    Quarantine(session).erase_episode(key, [row[0] for row in learned if not row[1]])
    found = _items(session.read(sql.ONE.bind(namespace=session.namespace, id=key)))
    gone = sum(len(went) for _, went in Remover(session, pace).delete(found))
    session.write(forget_evictions(session, [key]))
    return Erased(gone, *_unlearn(session, key))


def erase_namespace(session: SessionProtocol, pace: Pace) -> Erased:
    """All of a namespace's rows.

    UnavailableError if others keep writing there.
    """
    episodes = patterns = 0
    for _ in range(SAVE_ATTEMPTS):
        found = _items(session.read(sql.EVERYTHING.bind(namespace=session.namespace)))
        episodes += sum(len(went) for _, went in Remover(session, pace).delete(found))
        for ids in _pages_of_patterns(session):
            patterns += len(ids)
        if not found:
            break
    else:
        raise UnavailableError("others keep writing to this namespace: stop them, and forget it again")
    session.write([statement.bind(namespace=session.namespace) for statement in _OWNERLESS])
    Quarantine(session).erase_namespace()
    forget_all_evictions(session)
    return Erased(episodes, patterns)


def rows_of(session: SessionProtocol) -> Iterator[list[tuple[str, UUID]]]:
    """The namespace and id of each episode and pattern, of quarantined ones too, and of evidence, in pages."""
    quarantined = {row[0] for row in session.read(_QUARANTINED)}
    selects = [*_HOLDERS, *(sql for table, sql in _QUARANTINED_HOLDERS.items() if table in quarantined)]
    rows = iter(session.read(Step(" UNION ".join(selects), ())))
    while page := [(str(namespace), row_id) for namespace, row_id in islice(rows, _PAGE)]:
        yield [(namespace, UUID(str(row_id))) for namespace, row_id in page if _is_uuid(row_id)]


def tombstoned(session: SessionProtocol, rows: Sequence[tuple[str, UUID]]) -> list[tuple[str, UUID]]:
    """Those of the rows, of any namespace, that were forgotten or removed by retention: not the evicted ones."""
    by_digest = {digest_of(*row): row for row in rows}
    found = session.read(KNOWN.bind(digests=json.dumps(list(by_digest))))
    return [by_digest[row[0].lower()] for row in found]


def erase_tombstoned(session: SessionProtocol, ids: Sequence[UUID]) -> Erased:
    """Erase the episodes and patterns of these ids from a file that no other process uses."""
    episodes = patterns = 0
    for row_id in ids:
        erased = erase_episode(session, row_id, Pace(sleep=_no_pause))
        episodes, patterns = episodes + erased.episodes, patterns + erased.patterns
    for start in range(0, len(ids), _PATTERNS):
        page = json_ids([str(row_id) for row_id in ids[start : start + _PATTERNS]])
        patterns += len(session.read(_NAMED_PATTERNS.bind(namespace=session.namespace, ids=page)))
        session.write([_DELETE_PATTERNS.bind(namespace=session.namespace, ids=page)])
    return Erased(episodes, patterns)


def _no_pause(seconds: float) -> None:
    """Continue at once."""


def _is_uuid(text: object) -> bool:
    try:
        return bool(UUID(str(text)))
    except ValueError:  # what another program has written
        return False


def _pages_of_patterns(session: SessionProtocol) -> Iterator[Sequence[str]]:
    namespace = session.namespace
    page = _SOME_PATTERNS.bind(namespace=namespace, limit=_PATTERNS)
    while ids := [row[0] for row in session.read(page)]:
        remember = REMEMBER.bind(digests=digests_of(namespace, ids))
        session.write([remember, _DELETE_PATTERNS.bind(namespace=namespace, ids=json_ids(ids))])
        note_removed(ids)
        yield ids


def _unlearn(session: SessionProtocol, episode_id: str) -> tuple[int, int]:
    """Delete the patterns that were learned from an episode alone, and take it out of the others' evidence.

    What the others tell of the tasks of their evidence goes too: it may be words of this one.
    """
    values = {"namespace": session.namespace, "id": episode_id}
    for _ in range(SAVE_ATTEMPTS):
        learned = session.read(_LEARNED.bind(**values))
        alone = [row[0] for row in learned if not row[1]]
        steps = [
            REMEMBER.bind(digests=digests_of(session.namespace, alone)),
            *(step for row in learned if row[1] and row[3] for step in _retold(session.namespace, *row)),
            _UNLEARN.bind(len(alone), **values),
            _CLEAR.bind(len(learned) - len(alone), now=to_micros(session.now()), **values),
        ]
        try:
            if learned:
                session.write(steps)
        except RowCountError:
            continue  # another writer came between
        note_removed(row[0] for row in learned)
        return len(alone), len(learned) - len(alone)
    raise UnavailableError("other writers keep changing the patterns of this episode: forget it again")


def _retold(namespace: str, pattern_id: str, _: object, version: int, document: str) -> Iterator[Step]:
    pattern = json.loads(document)
    description = without_tasks(pattern["description"])
    if description != pattern["description"]:
        words = words_of_pattern(json.dumps({**pattern, "description": description}, ensure_ascii=False))
        values = {"description": description, "words": words}
        yield _RETELL.bind(1, namespace=namespace, id=pattern_id, version=version, **values)


def _items(rows: Sequence[Row]) -> list[Item]:
    return [Item(*row) for row in rows]
