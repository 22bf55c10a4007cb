"""Erasure of an episode, or of a whole namespace: the rows. The module `memory_storage.erasure` scrubs the file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError
from memory_storage.errors import UnavailableError
from memory_storage.monitoring import note_removed
from memory_storage.schema.words import words_of_pattern
from memory_storage.sql.documents import to_micros
from memory_storage.sql.session import SAVE_ATTEMPTS, Row, SessionProtocol, ids_as_json
from memory_storage.sql.statement import SqlTemplate
from memory_storage.sql.validation import as_id

from . import sql
from .deletion import BatchDeleter, Item
from .pacing import BatchSizer
from .quarantine import Quarantine
from .task_quotes import MINED_TAG, TASK_QUOTE, without_task_quote
from .tombstones import (
    ADD_TOMBSTONES,
    FIND_TOMBSTONES,
    digest_of,
    digests_of,
    replace_all_eviction_keys,
    replace_eviction_keys,
)

# Small pages: each is a transaction that holds the write lock.
_PATTERNS_PER_PAGE = 200

_MENTIONS_EPISODE = """SELECT owner_seq FROM facets WHERE namespace = :namespace AND owner_type = 'pattern'
    AND name = 'evidence' AND value = :id"""
_OTHER_EVIDENCE = "(SELECT value FROM json_each(p.document, '$.evidence') WHERE value <> :id)"
_QUOTES_TASKS = f"""instr(p.document ->> '$.description', '{TASK_QUOTE}')
    AND EXISTS (SELECT 1 FROM json_each(p.document, '$.tags') WHERE value = '{MINED_TAG}')"""
# Patterns that name the episode as evidence: whether they name others too, and the document where it quotes tasks.
_MENTIONING = SqlTemplate(f"""
SELECT p.id, EXISTS {_OTHER_EVIDENCE}, p.version, CASE WHEN {_QUOTES_TASKS} THEN p.document END
FROM patterns AS p WHERE p.seq IN ({_MENTIONS_EPISODE})
""")
_WITHOUT_OTHER_EVIDENCE = f"""FROM patterns AS p WHERE p.namespace = :namespace AND p.seq IN ({_MENTIONS_EPISODE})
    AND NOT EXISTS {_OTHER_EVIDENCE}"""
_DELETE_MINED_FROM_IT_ALONE = SqlTemplate(f"DELETE {_WITHOUT_OTHER_EVIDENCE}")
# The version grows: a copy that still names the episode is stale from here on.
_REMOVE_FROM_EVIDENCE = SqlTemplate(f"""
UPDATE patterns AS p SET version = p.version + 1, updated_at = :now, document = json_set(p.document, '$.evidence',
    json((SELECT json_group_array(value) FROM {_OTHER_EVIDENCE})))
WHERE p.seq IN ({_MENTIONS_EPISODE})
""")
# Guarded by the version that was read: a concurrent edit makes the row count differ.
_REPLACE_DESCRIPTION = SqlTemplate("""
UPDATE patterns SET document = json_set(document, '$.description', :description), words = :words
WHERE namespace = :namespace AND id = :id AND version = :version
""")
_PATTERN_PAGE = SqlTemplate("SELECT id FROM patterns WHERE namespace = :namespace ORDER BY id LIMIT :limit")
_DELETE_PATTERNS = SqlTemplate("""
DELETE FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
_EXISTING_PATTERNS = SqlTemplate("""
SELECT id FROM patterns WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
_ROWS_PER_PAGE = 500
_HOLDERS = [
    "SELECT namespace, id FROM episodes",
    "SELECT namespace, id FROM patterns",
    "SELECT namespace, value FROM facets WHERE owner_type = 'pattern' AND name = 'evidence'",
]
_QUARANTINE_TABLES = BatchStep(
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'quarantined!_%' ESCAPE '!'", ()
)
_QUARANTINED_HOLDERS = {
    "quarantined_episodes": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_episodes",
    "quarantined_patterns": "SELECT CAST(namespace AS TEXT), CAST(id AS TEXT) FROM quarantined_patterns",
    "quarantined_steps": "SELECT CAST(namespace AS TEXT), CAST(episode_id AS TEXT) FROM quarantined_steps",
    "quarantined_embeddings": "SELECT CAST(namespace AS TEXT), CAST(owner_id AS TEXT) FROM quarantined_embeddings",
}
# Triggers delete these rows with their owners. Rows that another program has written may have none.
_DELETE_ORPHANS = [
    SqlTemplate(f"DELETE FROM {table} WHERE namespace = :namespace")
    for table in ("embeddings", "spatiotemporal_index", "facets")
]

MERGE_WORDS = [
    SqlTemplate(f"INSERT INTO {table} ({table}) VALUES ('optimize')")
    for table in ("episodes_fts", "steps_fts", "patterns_fts")
]
"""What makes the full-text indexes forget the words of rows that are gone: each segment of them is merged."""


class ErasedRows(NamedTuple):
    """The numbers of erased and changed rows."""

    episodes: int = 0
    patterns: int = 0
    patterns_changed: int = 0


def erase_episode(session: SessionProtocol, episode_id: object, batch_sizer: BatchSizer) -> ErasedRows:
    """Erase an episode with everything it owns, and patterns mined from it alone. It need not exist any more."""
    key = as_id(episode_id)  # type: ignore[arg-type] # it is checked
    learned = session.read(_MENTIONING.bind(namespace=session.namespace, id=key))
    Quarantine(session).erase_episode(key, [row[0] for row in learned if not row[1]])
    targets = _targets(session.read(sql.ONE_EPISODE.bind(namespace=session.namespace, id=key)))
    removed = sum(len(removed_ids) for _, removed_ids in BatchDeleter(session, batch_sizer).delete(targets))
    session.write(replace_eviction_keys(session, [key]))
    return ErasedRows(removed, *_remove_from_patterns(session, key))


def erase_namespace(session: SessionProtocol, batch_sizer: BatchSizer) -> ErasedRows:
    """Erase all rows of a namespace.

    Raises:
        UnavailableError: Other clients keep writing to it.
    """
    episodes = patterns = 0
    for _ in range(SAVE_ATTEMPTS):
        targets = _targets(session.read(sql.ALL_EPISODES.bind(namespace=session.namespace)))
        episodes += sum(len(removed_ids) for _, removed_ids in BatchDeleter(session, batch_sizer).delete(targets))
        for ids in _pages_of_patterns(session):
            patterns += len(ids)
        if not targets:
            break
    else:
        raise UnavailableError("others keep writing to this namespace: stop them, and forget it again")
    session.write([statement.bind(namespace=session.namespace) for statement in _DELETE_ORPHANS])
    Quarantine(session).erase_namespace()
    replace_all_eviction_keys(session)
    return ErasedRows(episodes, patterns)


def rows_of(session: SessionProtocol) -> Iterator[list[tuple[str, UUID]]]:
    """The namespace and id of each episode and pattern, of quarantined ones too, and of evidence, in pages."""
    quarantined = {row[0] for row in session.read(_QUARANTINE_TABLES)}
    selects = [*_HOLDERS, *(sql for table, sql in _QUARANTINED_HOLDERS.items() if table in quarantined)]
    rows = iter(session.read(BatchStep(" UNION ".join(selects), ())))
    while page := [(str(namespace), row_id) for namespace, row_id in islice(rows, _ROWS_PER_PAGE)]:
        yield [(namespace, UUID(str(row_id))) for namespace, row_id in page if _is_uuid(row_id)]


def tombstoned(session: SessionProtocol, rows: Sequence[tuple[str, UUID]]) -> list[tuple[str, UUID]]:
    """Return those rows, of any namespace, that `forget` or retention erased; without the evicted ones."""
    by_digest = {digest_of(*row): row for row in rows}
    tombstones = session.read(FIND_TOMBSTONES.bind(digests=json.dumps(list(by_digest))))
    return [by_digest[row[0].lower()] for row in tombstones]


def erase_tombstoned(session: SessionProtocol, ids: Sequence[UUID]) -> ErasedRows:
    """Erase the episodes and patterns of these ids from a file that no other process uses."""
    episodes = patterns = 0
    for row_id in ids:
        erased = erase_episode(session, row_id, BatchSizer(sleep=_no_pause))
        episodes, patterns = episodes + erased.episodes, patterns + erased.patterns
    for start in range(0, len(ids), _PATTERNS_PER_PAGE):
        page = ids_as_json([str(row_id) for row_id in ids[start : start + _PATTERNS_PER_PAGE]])
        patterns += len(session.read(_EXISTING_PATTERNS.bind(namespace=session.namespace, ids=page)))
        session.write([_DELETE_PATTERNS.bind(namespace=session.namespace, ids=page)])
    return ErasedRows(episodes, patterns)


def _no_pause(seconds: float) -> None:
    """Continue at once."""


def _is_uuid(text: object) -> bool:
    try:
        return bool(UUID(str(text)))
    except ValueError:  # what another program has written
        return False


def _pages_of_patterns(session: SessionProtocol) -> Iterator[Sequence[str]]:
    namespace = session.namespace
    page = _PATTERN_PAGE.bind(namespace=namespace, limit=_PATTERNS_PER_PAGE)
    while ids := [row[0] for row in session.read(page)]:
        remember = ADD_TOMBSTONES.bind(digests=digests_of(namespace, ids))
        session.write([remember, _DELETE_PATTERNS.bind(namespace=namespace, ids=ids_as_json(ids))])
        note_removed(ids)
        yield ids


def _remove_from_patterns(session: SessionProtocol, episode_id: str) -> tuple[int, int]:
    """Delete the patterns mined from an episode alone, and remove it from the evidence of the others.

    What the others quote of tasks is removed, too: it may be words of this one.
    """
    values = {"namespace": session.namespace, "id": episode_id}
    for _ in range(SAVE_ATTEMPTS):
        learned = session.read(_MENTIONING.bind(**values))
        alone = [row[0] for row in learned if not row[1]]
        steps = [
            ADD_TOMBSTONES.bind(digests=digests_of(session.namespace, alone)),
            *(step for row in learned if row[1] and row[3] for step in _without_task_quotes(session.namespace, *row)),
            _DELETE_MINED_FROM_IT_ALONE.bind(len(alone), **values),
            _REMOVE_FROM_EVIDENCE.bind(len(learned) - len(alone), now=to_micros(session.now()), **values),
        ]
        try:
            if learned:
                session.write(steps)
        except RowCountError:
            continue  # another writer came between
        note_removed(row[0] for row in learned)
        return len(alone), len(learned) - len(alone)
    raise UnavailableError("other writers keep changing the patterns of this episode: forget it again")


def _without_task_quotes(
    namespace: str, pattern_id: str, _: object, version: int, document: str
) -> Iterator[BatchStep]:
    pattern = json.loads(document)
    description = without_task_quote(pattern["description"])
    if description != pattern["description"]:
        words = words_of_pattern(json.dumps({**pattern, "description": description}, ensure_ascii=False))
        values = {"description": description, "words": words}
        yield _REPLACE_DESCRIPTION.bind(1, namespace=namespace, id=pattern_id, version=version, **values)


def _targets(rows: Sequence[Row]) -> list[Item]:
    return [Item(*row) for row in rows]
