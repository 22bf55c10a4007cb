"""mem0: `Memory` without a language model (`infer=False`), with fixed vectors, on its local Qdrant."""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path
from typing import Any

_settings = tempfile.TemporaryDirectory(prefix="mem0-")
# It reads both on import: the first would send telemetry, the second is where it writes its settings.
os.environ.setdefault("MEM0_TELEMETRY", "False")
os.environ.setdefault("MEM0_DIR", _settings.name)

from mem0 import Memory  # noqa: E402 - after its settings

import memory_storage as ms  # noqa: E402 - as above

from ._store import OUTCOME, PAGE, Array, Document, K, Store, VectorStore, document, level_of_file  # noqa: E402 - as above

_DIMENSION = 384
_USER = {"user_id": "agent"}
_IDS: dict[Path, dict[str, str]] = {}  # of the memories, which mem0 makes, by the ids of the episodes

logging.getLogger("mem0").setLevel(logging.ERROR)  # it warns of each package without which it has no search by words


class Mem0(Store):
    """A memory for each episode: the task is its text, the document its metadata."""

    note = (
        "a memory: the task, with the document as metadata and a vector; local Qdrant, read from memory, and a history"
    )

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._memory = _open_memory(directory, _Fixed())
        self._ids = _IDS.setdefault(directory, {})

    def record(self, episode: ms.Episode) -> Document:
        return document(episode)

    def save(self, record: Document) -> object:
        metadata = {"episode": record, "outcome_kind": record["outcome"]["kind"]}
        memories = self._memory.add(record["task_description"], **_USER, metadata=metadata, infer=False)
        self._ids[record["id"]] = memories["results"][0]["id"]
        return memories

    def get(self, key: str) -> int:
        return len(self._memory.get(self._ids[key])["metadata"]["episode"]["steps"])

    def page(self) -> int:
        return len(self._memory.get_all(filters=_USER, top_k=PAGE)["results"])

    def page_by_outcome(self) -> int:
        return len(self._memory.get_all(filters={**_USER, "outcome_kind": OUTCOME}, top_k=PAGE)["results"])

    def durability(self) -> str:
        return level_of_file(next(self._directory.rglob("storage.sqlite")))

    def close(self) -> None:
        _close(self._memory)


class Mem0Vectors(VectorStore):
    """Memories with the given vectors, stored in a batch; searched through `Memory.search`."""

    method = "exact"

    def __init__(self, directory: Path, vectors: Array) -> None:
        self._embedder = _Fixed()
        self._memory = _open_memory(directory, self._embedder)
        numbers = range(len(vectors))
        payloads = [{**_USER, "data": str(number)} for number in numbers]
        self._memory.vector_store.insert(vectors=vectors.tolist(), ids=list(numbers), payloads=payloads)

    def similar(self, query: Array) -> list[int]:
        self._embedder.vector = query.tolist()
        memories = self._memory.search("query", filters=_USER, top_k=K, threshold=0.0)["results"]
        return [int(memory["memory"]) for memory in memories]

    def close(self) -> None:
        _close(self._memory)


open_store = Mem0
open_vectors = Mem0Vectors


class _Fixed:
    """An embedder that returns one vector, in no time: its search is exact, for which it makes no difference."""

    def __init__(self) -> None:
        self.vector = [1.0] + [0.0] * (_DIMENSION - 1)

    def embed(self, text: str, memory_action: str | None = None) -> list[float]:  # noqa: ARG002 - mem0's interface
        return self.vector


def _open_memory(directory: Path, embedder: _Fixed) -> Any:
    local = {"path": str(directory / "qdrant"), "embedding_model_dims": _DIMENSION, "on_disk": True}
    unused = {"provider": "openai", "config": {"api_key": "unused"}}  # never called
    memory: Any = Memory.from_config(
        {
            "vector_store": {"provider": "qdrant", "config": local},
            "history_db_path": str(directory / "history.db"),
            "llm": unused,
            "embedder": unused,
        }
    )
    memory.embedding_model = embedder
    return memory


def _close(memory: Any) -> None:
    memory.close()
    memory.vector_store.client.close()
