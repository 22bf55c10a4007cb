"""Two plain tables and hand-written SQL, for each driver of Python's own interface."""

from __future__ import annotations

import json
from abc import abstractmethod
from pathlib import Path
from typing import Any

import memory_storage as ms

from ._store import OUTCOME, PAGE, Store, document, levels

_TABLES = (
    "CREATE TABLE IF NOT EXISTS episodes (id TEXT PRIMARY KEY, outcome TEXT, document TEXT NOT NULL)",
    "CREATE TABLE IF NOT EXISTS steps (episode_id TEXT, number INTEGER, document TEXT NOT NULL, "
    "PRIMARY KEY (episode_id, number)) WITHOUT ROWID",
)
_NEWEST = f"ORDER BY rowid DESC LIMIT {PAGE}"


class RawTables(Store):
    """A row for each episode and for each step, as JSON. No index but the keys, no checks."""

    note = "a row of JSON for the episode and each step; json.dumps and json.loads are in the time"

    def __init__(self, directory: Path) -> None:
        self._connection = self.connect(directory / "raw.db")
        for statement in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", *_TABLES):
            self._connection.execute(statement).fetchall()

    @abstractmethod
    def connect(self, path: Path) -> Any:
        """Return a connection without implicit transactions."""

    def record(self, episode: ms.Episode) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        head = document(episode)
        return head, head.pop("steps")

    def save(self, record: tuple[dict[str, Any], list[dict[str, Any]]]) -> object:
        head, steps = record
        key, outcome = head["id"], head["outcome"]["kind"]
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        execute("INSERT INTO episodes VALUES (?, ?, ?)", (key, outcome, json.dumps(head)))
        rows = [(key, number, json.dumps(step)) for number, step in enumerate(steps)]
        self._connection.executemany("INSERT INTO steps VALUES (?, ?, ?)", rows)
        return execute("COMMIT")

    def get(self, key: str) -> int:
        execute = self._connection.execute
        head = json.loads(execute("SELECT document FROM episodes WHERE id = ?", (key,)).fetchone()[0])
        rows = execute("SELECT document FROM steps WHERE episode_id = ? ORDER BY number", (key,)).fetchall()
        head["steps"] = [json.loads(text) for (text,) in rows]
        return len(head["steps"])

    def page(self) -> int:
        return self._page(f"SELECT id, document FROM episodes {_NEWEST}")

    def page_by_outcome(self) -> int:
        return self._page(f"SELECT id, document FROM episodes WHERE outcome = ? {_NEWEST}", OUTCOME)

    def _page(self, sql: str, *values: str) -> int:
        execute = self._connection.execute
        heads = {key: {**json.loads(text), "steps": []} for key, text in execute(sql, values).fetchall()}
        marks = ",".join("?" * len(heads))
        steps = f"SELECT episode_id, document FROM steps WHERE episode_id IN ({marks}) ORDER BY episode_id, number"
        for key, text in execute(steps, tuple(heads)).fetchall():
            heads[key]["steps"].append(json.loads(text))
        return len(heads)

    def durability(self) -> str:
        pragmas = ("journal_mode", "synchronous")
        return levels(*(self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas))

    def close(self) -> None:
        self._connection.close()
