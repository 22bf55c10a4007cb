"""LangGraph: `SqliteStore`, with its own defaults."""

from __future__ import annotations

import json
import sqlite3
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from langgraph.store.sqlite import SqliteStore

import memory_storage as ms

from ._store import OUTCOME, PAGE, Array, Document, K, Store, VectorStore, document, levels

_NAMESPACE = ("episodes",)


class LangGraph(Store):
    """An item for each episode: its document, with the steps in it."""

    note = "one item, the whole document; filtered by a top-level field"

    def __init__(self, directory: Path) -> None:
        self._files = ExitStack()
        self._store: Any = self._files.enter_context(SqliteStore.from_conn_string(str(directory / "store.db")))
        self._store.setup()

    def record(self, episode: ms.Episode) -> tuple[str, Document]:
        # A filter compares top-level fields, so that the outcome is one.
        record = document(episode)
        return record["id"], {**record, "outcome_kind": record["outcome"]["kind"]}

    def save(self, record: tuple[str, Document]) -> object:
        return self._store.put(_NAMESPACE, *record)

    def get(self, key: str) -> int:
        return len(self._store.get(_NAMESPACE, key).value["steps"])

    def page(self) -> int:
        return len(self._store.search(_NAMESPACE, limit=PAGE))

    def page_by_outcome(self) -> int:
        return len(self._store.search(_NAMESPACE, filter={"outcome_kind": OUTCOME}, limit=PAGE))

    def durability(self) -> str:
        pragmas = ("journal_mode", "synchronous")
        return levels(*(self._store.conn.execute(f"PRAGMA {name}").fetchone()[0] for name in pragmas))

    def close(self) -> None:
        self._files.close()


class LangGraphVectors(VectorStore):
    """An item for each vector; the text that is embedded is its number."""

    method = "exact"

    def __init__(self, directory: Path, vectors: Array) -> None:
        self._vectors = {str(number): vector.tolist() for number, vector in enumerate(vectors)}
        index: Any = {"dims": vectors.shape[1], "embed": self._embed, "fields": ["text"]}
        self._files = ExitStack()
        path = str(directory / "store.db")
        self._store: Any = self._files.enter_context(SqliteStore.from_conn_string(path, index=index))
        self._store.setup()
        for number in range(len(vectors)):
            self._store.put(_NAMESPACE, str(number), {"text": str(number)})

    def _embed(self, texts: list[str]) -> list[list[float]]:
        # It embeds the whole document, as JSON, whatever `fields` says.
        keys = [json.loads(text)["text"] if text.startswith("{") else text for text in texts]
        return [self._vectors[key] for key in keys]

    def similar(self, query: Array) -> list[int]:
        self._vectors["query"] = query.tolist()
        return [int(item.key) for item in self._store.search(_NAMESPACE, query="query", limit=K)]

    def close(self) -> None:
        self._files.close()


def open_vectors(directory: Path, vectors: Array) -> LangGraphVectors | None:
    """Open the vectors, unless this Python cannot load SQLite's extensions, which the store needs for them."""
    return LangGraphVectors(directory, vectors) if hasattr(sqlite3.Connection, "enable_load_extension") else None


open_store = LangGraph
