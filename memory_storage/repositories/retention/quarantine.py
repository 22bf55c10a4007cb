"""Erasure from the quarantine: the tables to which the doctor moves unusable rows. Their values may be of any type.

A vector there has no owner of its own: one that no row of `quarantined_embeddings` references is deleted by the next
erasure, as it may belong to any owner.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from memory_storage.dbapi import BatchStep
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.search import vector_sql as embedding_sql
from memory_storage.sql.session import SessionProtocol

_COLUMNS = BatchStep("""
SELECT schema_tables.name, schema_columns.name FROM sqlite_master AS schema_tables
    CROSS JOIN pragma_table_info(schema_tables.name) AS schema_columns
WHERE schema_tables.type = 'table' AND schema_tables.name LIKE 'quarantined!_%' ESCAPE '!'
ORDER BY schema_tables.name, schema_columns.cid
""")
_STEPS = "SELECT id FROM steps WHERE namespace = ? AND episode_id = ?"
_OF_NAMESPACE = "CAST(namespace AS TEXT) = ?"
_PREFIX = "quarantined_"
_BoundCondition = tuple[str, tuple[str, ...]]  # SQL and what it binds


class Quarantine:
    """The quarantine tables of a database, for one namespace."""

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session
        self._tables: dict[str, set[str]] = {}
        for table, column in session.read(_COLUMNS):
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
        owners.update(str(row[0]) for row in self._read(_STEPS, self._session.namespace, episode_id))
        owners.update(self._ids("quarantined_steps", "CAST(episode_id AS TEXT) = ?", episode_id))
        owners.update(self._ids("quarantined_patterns", "instr(CAST(document AS TEXT), ?)", episode_id))
        ids = json.dumps(sorted(owners))  # what another program has written may be no UUID
        conditions: dict[str, _BoundCondition] = {}
        for table, columns in self._tables.items():
            named = sorted(columns & {"id", "episode_id", "owner_id"})
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
        steps += [self._delete_unreferenced(table) for table in self._tables if table.startswith(f"{_PREFIX}vectors_")]
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
