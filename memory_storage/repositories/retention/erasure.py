"""Erasure of an episode, or of a whole namespace: the rows, in the tables and in the quarantine.

The module `memory_storage.erasure` scrubs the file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import NamedTuple
from uuid import UUID

from memory_storage.dbapi import BatchStep, RowCountError
from memory_storage.errors import UnavailableError
from memory_storage.monitoring import note_removed
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.schema.words import words_of_pattern
from memory_storage.search import vector_sql as embedding_sql
from memory_storage.sql.session import SAVE_ATTEMPTS, Row, SessionProtocol, ids_as_json
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import as_id

from . import sql
from .deletion import BatchDeleter, BatchSizer, Item
from .tombstones import (
    ADD_TOMBSTONES,
    FIND_TOMBSTONES,
    digest_of,
    digests_of,
    erase_traces,
    replace_all_eviction_keys,
    replace_eviction_keys,
)

# Small pages: each is a transaction that holds the write lock.
_PATTERNS_PER_PAGE = 200
_ROWS_PER_PAGE = 500

_QUARANTINE_COLUMNS = BatchStep("""
SELECT schema_tables.name, schema_columns.name FROM sqlite_master AS schema_tables
    CROSS JOIN pragma_table_info(schema_tables.name) AS schema_columns
WHERE schema_tables.type = 'table' AND schema_tables.name LIKE 'quarantined!_%' ESCAPE '!'
ORDER BY schema_tables.name, schema_columns.cid
""")
_STEP_IDS = "SELECT id FROM steps WHERE namespace = ? AND episode_id = ?"
_OF_NAMESPACE = "CAST(namespace AS TEXT) = ?"
_BoundCondition = tuple[str, tuple[str, ...]]  # SQL and what it binds


class ErasedRows(NamedTuple):
    """The numbers of erased and changed rows."""

    episodes: int = 0
    patterns: int = 0
    patterns_changed: int = 0
    items: int = 0
    records: int = 0


def erase_episode(session: SessionProtocol, episode_id: object, batch_sizer: BatchSizer) -> ErasedRows:
    """Erase an episode with everything it owns, and patterns mined from it alone. It need not exist any more.

    A playbook that was composed from such a pattern is erased too.
    """
    key = as_id(episode_id)  # type: ignore[arg-type] # it is checked
    learned = session.read(sql.EVIDENCED_PATTERNS.bind(namespace=session.namespace, id=key))
    _Quarantine(session).erase_episode(key, [row[0] for row in learned if not row[1]])
    targets = _targets(session.read(sql.ONE_EPISODE.bind(namespace=session.namespace, id=key)))
    removed = sum(len(removed_ids) for _, removed_ids in BatchDeleter(session, batch_sizer).delete(targets))
    session.write([*replace_eviction_keys(session, [key]), *erase_traces([(session.namespace, key)])])
    # What quotes the episode, or a pattern that is erased with it, as recalled.
    ids = ids_as_json([key, *(row[0] for row in learned if not row[1])])
    of_erased = {"namespace": session.namespace, "ids": ids}
    session.write(
        [
            sql.REMOVE_FROM_RECEIPTS.bind(now=to_micros(session.now()), **of_erased),
            sql.REMOVE_FROM_RECALLS.bind(**of_erased),
        ]
    )
    # Last: their evidence names the episode, so that an interrupted erasure finds them when it is repeated.
    return ErasedRows(removed, *_remove_from_patterns(session, key))


def erase_namespace(session: SessionProtocol, batch_sizer: BatchSizer) -> ErasedRows:
    """Erase all rows of a namespace.

    Raises:
        UnavailableError: Other clients keep writing to it.
    """
    episodes = patterns = 0
    items = records = 0
    for _ in range(SAVE_ATTEMPTS):
        is_empty = True
        for targets in _pages_of_episodes(session):
            is_empty = False
            episodes += sum(len(removed_ids) for _, removed_ids in BatchDeleter(session, batch_sizer).delete(targets))
        for ids in _pages_of_patterns(session):
            patterns += len(ids)
        if any(removed := erase_items_and_logs(session)):
            is_empty = False
            items, records = items + removed[0], records + removed[1]
        if is_empty:
            break
    else:
        raise UnavailableError(
            "other clients keep writing to this namespace; their last rows are not erased; stop the clients, and "
            "forget the namespace again"
        )
    session.write([statement.bind(namespace=session.namespace) for statement in sql.DELETE_ORPHANS])
    _Quarantine(session).erase_namespace()
    replace_all_eviction_keys(session)
    return ErasedRows(episodes, patterns, items=items, records=records)


def erase_items_and_logs(session: SessionProtocol) -> tuple[int, int]:
    """Delete the items and the log records of a namespace, in pages, and return how many of each there were.

    Kept receipts of recalls are deleted too, and not counted.
    """
    counts = []
    session.write([sql.DELETE_RECALLS.bind(namespace=session.namespace)])
    for statement in sql.DELETE_SOME_OF_NAMESPACE.values():
        page = statement.bind(namespace=session.namespace, limit=_ROWS_PER_PAGE)
        counts.append(0)
        while deleted := len(session.write([page])):
            counts[-1] += deleted
    return counts[0], counts[1]


def rows_of(session: SessionProtocol) -> Iterator[list[tuple[str, UUID]]]:
    """The namespace and id of each episode and pattern, of quarantined ones too, and of evidence, in pages."""
    quarantined = {row[0] for row in session.read(sql.QUARANTINE_TABLES)}
    selects = [
        *sql.ID_SOURCES,
        *(select for table, select in sql.QUARANTINED_ID_SOURCES.items() if table in quarantined),
    ]
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
    for row_id in ids:  # without pauses: no other process waits for the lock
        erased = erase_episode(session, row_id, BatchSizer(sleep=_no_pause))
        episodes, patterns = episodes + erased.episodes, patterns + erased.patterns
    for start in range(0, len(ids), _PATTERNS_PER_PAGE):
        page = ids_as_json([str(row_id) for row_id in ids[start : start + _PATTERNS_PER_PAGE]])
        patterns += len(session.read(sql.EXISTING_PATTERNS.bind(namespace=session.namespace, ids=page)))
        of_page = {"namespace": session.namespace, "ids": page}
        session.write([sql.DELETE_PATTERNS.bind(**of_page), sql.REMOVE_FROM_RECALLS.bind(**of_page)])
    return ErasedRows(episodes, patterns)


def _no_pause(seconds: float) -> None:
    """Do not wait."""


def _is_uuid(text: object) -> bool:
    try:
        return bool(UUID(str(text)))
    except ValueError:  # what another program has written
        return False


def _pages_of_episodes(session: SessionProtocol) -> Iterator[list[Item]]:
    """Yield the episodes that exist now, the oldest first, in pages; without those that are saved later."""
    namespace = session.namespace
    ((newest_seq,),) = session.read(sql.NEWEST_EPISODE.bind(namespace=namespace))
    started_at = seq = -(2**63)
    while newest_seq is not None:
        rows = session.read(
            sql.EPISODE_PAGE.bind(
                namespace=namespace, newest_seq=newest_seq, started_at=started_at, seq=seq, limit=_ROWS_PER_PAGE
            )
        )
        if not rows:
            return
        started_at, seq = rows[-1][-2:]
        yield _targets(rows)


def _pages_of_patterns(session: SessionProtocol) -> Iterator[Sequence[str]]:
    namespace = session.namespace
    page = sql.PATTERN_PAGE.bind(namespace=namespace, limit=_PATTERNS_PER_PAGE)
    while ids := [row[0] for row in session.read(page)]:
        remember = ADD_TOMBSTONES.bind(digests=digests_of(namespace, ids))
        traces = erase_traces([(namespace, one) for one in ids])
        session.write([remember, sql.DELETE_PATTERNS.bind(namespace=namespace, ids=ids_as_json(ids)), *traces])
        note_removed(ids)
        yield ids


def _remove_from_patterns(session: SessionProtocol, episode_id: str) -> tuple[int, int]:
    """Delete the patterns mined from an episode alone, and remove it from the evidence of the others.

    Playbooks that were composed from a deleted pattern are deleted too. Words of tasks in the other patterns'
    descriptions are removed, as they may come from this episode.
    """
    values = {"namespace": session.namespace, "id": episode_id}
    for _ in range(SAVE_ATTEMPTS):
        learned = session.read(sql.EVIDENCED_PATTERNS.bind(**values))
        alone = [row[0] for row in learned if not row[1]]
        # Each count of rows is checked: a pattern that was learned or edited since it was read rolls all of it back.
        steps = [
            ADD_TOMBSTONES.bind(digests=digests_of(session.namespace, alone)),
            *(step for row in learned if row[1] and row[3] for step in _description_changes(session.namespace, *row)),
            sql.DELETE_PATTERNS_WITHOUT_OTHER_EVIDENCE.bind(len(alone), **values),
            sql.REMOVE_FROM_EVIDENCE.bind(len(learned) - len(alone), now=to_micros(session.now()), **values),
        ]
        steps += erase_traces([(session.namespace, one) for one in alone])
        try:
            if learned:
                session.write(steps)
        except RowCountError:
            continue  # a concurrent writer changed it
        note_removed(row[0] for row in learned)
        return len(alone), len(learned) - len(alone)
    raise UnavailableError(
        "other writers keep changing the patterns of this episode; the episode is erased, but patterns still name it; "
        "forget it again"
    )


def _description_changes(
    namespace: str, pattern_id: str, _: object, version: int, document: str
) -> Iterator[BatchStep]:
    pattern = json.loads(document)
    description = _without_task_quote(pattern["description"])
    if description != pattern["description"]:
        words = words_of_pattern(json.dumps({**pattern, "description": description}, ensure_ascii=False))
        values = {"description": description, "words": words}
        yield sql.REPLACE_DESCRIPTION.bind(1, namespace=namespace, id=pattern_id, version=version, **values)


def _without_task_quote(description: str) -> str:
    """Return the description of a mined pattern without the words of tasks, unless they were edited."""
    before, mark, words = description.rpartition(sql.TASK_QUOTE)
    return before if mark and words.find(")") == len(words) - 1 else description


def _targets(rows: Sequence[Row]) -> list[Item]:
    return [Item(*row[:-2]) for row in rows]


class _Quarantine:
    """The quarantine of a database, for one namespace: the tables to which the doctor moves unusable rows.

    Their values may be of any type. A vector there has no owner of its own: one that no row of `quarantined_embeddings`
    references is deleted by the next erasure, as it may belong to any owner.
    """

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session
        self._tables: dict[str, set[str]] = {}
        for table, column in session.read(_QUARANTINE_COLUMNS):
            self._tables.setdefault(str(table), set()).add(str(column))

    def erase_episode(self, episode_id: str, learned: Sequence[str]) -> None:
        """Erase an episode with everything it owns, and patterns that mention it.

        Args:
            episode_id: The episode's id. Its live steps must still exist: their embeddings are found through them.
            learned: The ids of live patterns that will be erased with it.
        """
        if not self._tables:
            return
        owners = {episode_id, *learned}
        owners.update(str(row[0]) for row in self._read(_STEP_IDS, self._session.namespace, episode_id))
        owners.update(self._ids("quarantined_steps", "CAST(episode_id AS TEXT) = ?", episode_id))
        # The document may be no JSON any more: it is searched as text.
        owners.update(self._ids("quarantined_patterns", "instr(CAST(document AS TEXT), ?)", episode_id))
        ids = json.dumps(sorted(owners))  # another program may have written a string that is not a UUID
        conditions: dict[str, _BoundCondition] = {}
        for table, columns in self._tables.items():
            named = sorted(columns & {"id", "episode_id", "owner_id", "from_id", "to_id"})
            if "namespace" in columns and named:
                parts = " OR ".join(f"CAST({name} AS TEXT) IN (SELECT value FROM json_each(?))" for name in named)
                values = (self._session.namespace, *(ids for _ in named))
                conditions[table] = (f"{_OF_NAMESPACE} AND ({parts})", values)
        self._erase(conditions)

    def erase_namespace(self) -> None:
        """Erase all rows of the namespace."""
        condition = _OF_NAMESPACE, (self._session.namespace,)
        self._erase({table: condition for table, columns in self._tables.items() if "namespace" in columns})

    def _erase(self, conditions: dict[str, _BoundCondition]) -> None:
        vectors = self._vectors(conditions)
        steps = [
            BatchStep(f"DELETE FROM {_quoted(table)} WHERE {condition}", values)
            for table, (condition, values) in conditions.items()
        ]
        steps += [
            self._delete_orphaned_vector(VectorSpace(model) if not token else None, str(token), seq)
            for token, model, seq in vectors
        ]
        steps += [
            self._delete_unreferenced(table) for table in self._tables if table.startswith("quarantined_vectors_")
        ]
        if steps:
            self._session.write(steps)

    def _vectors(self, conditions: dict[str, _BoundCondition]) -> list[tuple[str, str, int]]:
        """Return token (or ''), model and number of the vectors that the embeddings reference."""
        table = "quarantined_embeddings"
        if table not in conditions:
            return []
        condition, values = conditions[table]
        space = "space" if "space" in self._tables[table] else "''"
        rows = self._read(f"SELECT coalesce({space}, ''), model, vector_seq FROM {table} WHERE {condition}", *values)
        # Tokens become names of tables in SQL, and these rows may hold anything: only known ones are used.
        known = {row[0] for row in self._session.read(embedding_sql.MODELS.bind())}
        vectors = [(str(token), str(model), seq) for token, model, seq in rows if isinstance(seq, int)]
        return [vector for vector in vectors if (vector[0] or VectorSpace(vector[1]).token) in known]

    def _delete_orphaned_vector(self, space: VectorSpace | None, token: str, seq: int) -> BatchStep:
        """Return the statement that deletes a vector that no embedding references any more."""
        token = space.token if space else token
        return BatchStep(
            f"""DELETE FROM vectors_{token} WHERE seq = ? AND NOT EXISTS (
                SELECT 1 FROM embeddings WHERE vector_seq = ? AND space = ?)""",
            (seq, seq, token),
        )

    def _delete_unreferenced(self, table: str) -> BatchStep:
        if "quarantined_embeddings" not in self._tables:
            return BatchStep(f"DELETE FROM {_quoted(table)}")
        return BatchStep(
            f"""DELETE FROM {_quoted(table)} AS v WHERE NOT EXISTS (
                SELECT 1 FROM quarantined_embeddings WHERE vector_seq = v.seq)"""
        )

    def _ids(self, table: str, condition: str, value: str) -> list[str]:
        if table not in self._tables:
            return []
        sql = f"SELECT CAST(id AS TEXT) FROM {table} WHERE {_OF_NAMESPACE} AND {condition}"
        return [str(row[0]) for row in self._read(sql, self._session.namespace, value)]

    def _read(self, sql: str, *values: str) -> Sequence[tuple[object, ...]]:
        return self._session.read(BatchStep(sql, values))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
