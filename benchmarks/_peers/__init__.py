"""The stores that the benchmark `peers` compares, one module for each library.

Each module has `open_store(directory)`, which returns a `Store`, and those of libraries that search vectors have
`open_vectors(directory, vectors)`, which returns a `VectorStore`.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from ._store import OUTCOME, PAGE, Array, Document, Record, Store, VectorStore

__all__ = ["OURS", "OUTCOME", "PAGE", "PEERS", "Array", "Document", "Peer", "Record", "Store", "VectorStore"]


@dataclass(frozen=True)
class Peer:
    """A library: its distribution (empty: part of Python), and the import that an application needs to open a store."""

    name: str
    module: str
    distribution: str
    statement: str
    packages: tuple[str, ...]
    is_baseline: bool = False

    @property
    def is_installed(self) -> bool:
        """Whether its packages can be imported; imports only those that others of them are in, which come first."""
        return all(importlib.util.find_spec(package) for package in self.packages)

    def open_store(self, directory: Path) -> Store:
        """Open the store in a directory, which it creates if there is none."""
        return cast("Store", importlib.import_module(f"{__name__}.{self.module}").open_store(directory))

    def open_vectors(self, directory: Path, vectors: Array) -> VectorStore | None:
        """Store the vectors in a new directory. Returns None if the library has no search by vector here."""
        module = importlib.import_module(f"{__name__}.{self.module}")
        return cast(
            "VectorStore | None", module.open_vectors(directory, vectors) if "open_vectors" in dir(module) else None
        )


OURS = Peer(
    "memory_storage",
    "ours",
    "memory-storage",
    "from memory_storage import MemoryStorage; MemoryStorage",
    ("memory_storage",),
)
PEERS = (
    OURS,
    Peer(
        "LangGraph",
        "langgraph_store",
        "langgraph-checkpoint-sqlite",
        "from langgraph.store.sqlite import SqliteStore",
        ("langgraph", "langgraph.store", "langgraph.store.sqlite", "sqlite_vec"),
    ),
    Peer(
        "agno",
        "agno_sessions",
        "agno[sqlite]",
        "from agno.db.sqlite import SqliteDb; from agno.run.agent import RunOutput",
        ("agno", "greenlet"),
    ),
    Peer("openai-agents", "openai_sessions", "openai-agents", "from agents import SQLiteSession", ("agents",)),
    Peer("mem0", "mem0_memory", "mem0ai", "from mem0 import Memory", ("mem0", "qdrant_client")),
    Peer("chromadb", "chroma_collection", "chromadb", "import chromadb", ("chromadb",)),
    Peer("sqlite3", "raw_sqlite3", "", "import json, sqlite3", ("sqlite3",), is_baseline=True),
    Peer("libsql", "raw_libsql", "libsql", "import json, libsql", ("libsql",), is_baseline=True),
)
