"""Moves unusable rows, unchanged, to tables that no query reads.

Rows of `steps` are moved to `quarantined_steps`, which has the same columns after `quarantined_at` and `reason`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sqlalchemy import Connection

from .findings import has_table, seqs_of

_TRIGGERS = "SELECT name, sql FROM sqlite_master WHERE type = 'trigger' ORDER BY rowid"
_COLUMNS = "SELECT name FROM pragma_table_info(?)"
_OWNED = ("embeddings", "spatiotemporal_index")
_OF_EPISODES = {"relationships": "o.from_id, o.to_id", "checkpoints": "o.episode_id"}
_KINDS = {"episodes": "episode", "steps": "step", "patterns": "pattern"}


def quarantine_rows(connection: Connection, table: str, seqs: Sequence[int], reason: str) -> None:
    """Move rows and everything they own. Indexes have to be rebuilt afterwards."""
    with _without_triggers(connection):
        _move(connection, table, seqs, reason)


@contextmanager
def _without_triggers(connection: Connection) -> Iterator[None]:
    # Triggers would fail on the unreadable rows, and delete the rows that belong to them.
    triggers = connection.exec_driver_sql(_TRIGGERS).all()
    for name, _ in triggers:
        connection.exec_driver_sql(f'DROP TRIGGER "{name}"')
    yield
    for _, sql in triggers:
        connection.exec_driver_sql(sql)


def _move(connection: Connection, table: str, seqs: Sequence[int], reason: str) -> None:
    if not seqs:
        return
    chosen = json.dumps(list(seqs))
    if table == "episodes":
        steps = """SELECT s.seq FROM steps AS s JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id
            WHERE e.seq IN (SELECT value FROM json_each(?))"""
        _move(connection, "steps", seqs_of(connection, steps, chosen), "its episode was moved")
        for of_episode, columns in _OF_EPISODES.items():
            belonging = f"""SELECT o.seq FROM {of_episode} AS o JOIN episodes AS e
                ON e.namespace = o.namespace AND e.id IN ({columns}) WHERE e.seq IN (SELECT value FROM json_each(?))"""
            _move(connection, of_episode, seqs_of(connection, belonging, chosen), "its episode was moved")
    for owned in _OWNED if table in _KINDS else ():
        belonging = f"""SELECT o.seq FROM {owned} AS o
            JOIN {table} AS t ON t.namespace = o.namespace AND t.id = o.owner_id
            WHERE o.owner_type = '{_KINDS[table]}' AND t.seq IN (SELECT value FROM json_each(?))"""
        _move(connection, owned, seqs_of(connection, belonging, chosen), "its owner was moved")
    if table == "items":
        vectors = "SELECT seq FROM item_vectors WHERE item_seq IN (SELECT value FROM json_each(?))"
        _move(connection, "item_vectors", seqs_of(connection, vectors, chosen), "its item was moved")
    _copy(connection, table, chosen, reason)
    connection.exec_driver_sql(f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))", (chosen,))


def _copy(connection: Connection, table: str, chosen: str, reason: str) -> None:
    kept = f"quarantined_{table}"
    columns = [row[0] for row in connection.exec_driver_sql(_COLUMNS, (table,))]
    if not has_table(connection, kept):
        names = ", ".join(["quarantined_at", "reason", *columns])
        connection.exec_driver_sql(f"CREATE TABLE {kept} ({names})")  # no column types: values are stored unchanged
    present = {row[0] for row in connection.exec_driver_sql(_COLUMNS, (kept,))}
    for column in columns:
        if column not in present:
            connection.exec_driver_sql(f"ALTER TABLE {kept} ADD COLUMN {column}")
    names = ", ".join(columns)
    connection.exec_driver_sql(
        f"""INSERT INTO {kept} (quarantined_at, reason, {names})
        SELECT ?, ?, {names} FROM {table} WHERE seq IN (SELECT value FROM json_each(?))""",
        (time.time_ns() // 1000, reason, chosen),
    )
