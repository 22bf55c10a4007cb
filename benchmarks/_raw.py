"""The baseline: apsw with hand-written SQL on the tables of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import apsw

from memory_storage._execution import Indexer
from memory_storage.dbapi._vector_functions import add_vector_functions

Row = tuple[Any, ...]
Rows = tuple[list[Row], list[Row]]
"""Rows of episodes, and the rows of their steps."""

_PRAGMAS = (
    "journal_mode = WAL",
    "synchronous = FULL",
    "foreign_keys = ON",
    "busy_timeout = 30000",
    "secure_delete = OFF",
)
_ROWS = 200  # per statement; more are not faster
_NEWEST_FIRST = "ORDER BY started_at DESC, seq DESC LIMIT ?"


class Raw:
    """One connection for everything. Each SQL text is built once, and apsw keeps its prepared statement."""

    def __init__(self, path: Path) -> None:
        self.connection = apsw.Connection(str(path))
        self._indexer = Indexer(at_once=False)
        add_vector_functions(self.connection)
        for pragma in _PRAGMAS:
            self.connection.execute(f"PRAGMA {pragma}").fetchall()
        episodes, steps = self._columns("episodes"), self._columns("steps")
        self._add_episode = _insert("episodes", episodes)
        self._add_step = _insert("steps", steps)
        self._heads = f"SELECT {', '.join(episodes)} FROM episodes WHERE namespace = ?"
        self._steps = f"SELECT {', '.join(steps)} FROM steps WHERE namespace = ? AND episode_id"
        self._one = self._heads + " AND id = ?"
        self._steps_of_one = self._steps + " = ? ORDER BY step_number"
        self._first_page = f"{self._heads} AND archived_at IS NULL {_NEWEST_FIRST}"
        self._next_page = f"{self._heads} AND archived_at IS NULL AND (started_at, seq) < (?, ?) {_NEWEST_FIRST}"
        self._started_at, self._id = episodes.index("started_at"), episodes.index("id")

    def save(self, episodes: list[Row], steps: list[Row]) -> None:
        """Insert the rows (without `seq`, which the engine assigns) in one transaction."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        if len(episodes) == 1:
            execute(self._add_episode, episodes[0])
        else:
            self.connection.executemany(self._add_episode, episodes)
        self.connection.executemany(self._add_step, steps)
        self._index(len(episodes))
        execute("COMMIT")

    def save_at_once(self, episodes: list[Row], steps: list[Row]) -> None:
        """Save with many rows per statement."""
        self.connection.execute("BEGIN IMMEDIATE")
        for insert, rows in ((self._add_episode, episodes), (self._add_step, steps)):
            for first in range(0, len(rows), _ROWS):
                some = rows[first : first + _ROWS]
                more = f", ({', '.join('?' * len(some[0]))})" * (len(some) - 1)
                self.connection.execute(insert + more, tuple(value for row in some for value in row))
        self._index(len(episodes))
        self.connection.execute("COMMIT")

    def append(self, step: Row) -> None:
        """Insert one step, whose number is known, in a transaction."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        execute(self._add_step, step)
        self._index(1)
        execute("COMMIT")

    def _index(self, changed: int) -> None:
        """Index the changed episodes when the package does."""
        for step in self._indexer.steps(changed):
            self.connection.execute(step.sql)

    def get(self, episode_id: str) -> Rows:
        """Return all columns of an episode and of its steps."""
        execute = self.connection.execute
        head = execute(self._one, ("default", episode_id)).fetchall()
        return head, execute(self._steps_of_one, ("default", episode_id)).fetchall()

    def page(self, limit: int, after: Row | None = None) -> Rows:
        """Return the newest episodes, or those after a row of the previous page, and their steps by one statement."""
        execute = self.connection.execute
        if after is None:
            heads = execute(self._first_page, ("default", limit)).fetchall()
        else:
            heads = execute(self._next_page, ("default", after[self._started_at], after[0], limit)).fetchall()
        steps = f"{self._steps} IN ({','.join('?' * len(heads))}) ORDER BY episode_id, step_number"
        return heads, execute(steps, ("default", *[head[self._id] for head in heads])).fetchall()

    def pages(self, size: int) -> list[Rows]:
        """Return all episodes, page by page."""
        found = [self.page(size)]
        while len(found[-1][0]) == size:
            found.append(self.page(size, found[-1][0][-1]))
        return found

    def rows(self, table: str, where: str = "true", values: Row = ()) -> list[Row]:
        """Return all columns except `seq` of the rows, in order of insertion."""
        columns = ", ".join(self._columns(table)[1:])
        sql = f"SELECT {columns} FROM {table} WHERE {where} ORDER BY seq"
        found: list[Row] = self.connection.execute(sql, values).fetchall()
        return found

    def close(self) -> None:
        """Checkpoint the log into the file, so that it can be copied, and close the connection."""
        self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.connection.close()

    def _columns(self, table: str) -> list[str]:
        return [str(row[1]) for row in self.connection.execute(f"PRAGMA table_info({table})").fetchall()]


def decoded(rows: Rows) -> list[Any]:
    """Decode the documents of the rows: the minimum that a caller needs."""
    return [json.loads(row[-2]) for some in rows for row in some]  # the last column has the words of other scripts


def _insert(table: str, columns: list[str]) -> str:
    given = columns[1:]
    return f"INSERT INTO {table} ({', '.join(given)}) VALUES ({', '.join('?' * len(given))})"
