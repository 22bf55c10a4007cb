"""Chroma: a collection of `PersistentClient`, with its own defaults."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import chromadb

import memory_storage as ms

from ._store import OUTCOME, PAGE, WORDS, Array, K, Store, VectorStore, document, level_of_file

_BATCH = 2_000
_DIMENSION = 384


class Chroma(Store):
    """A document for each episode: its JSON, with the outcome as metadata."""

    note = (
        "the document as JSON text, the outcome as metadata, with a vector that it requires; words: any with $contains"
    )

    def __init__(self, directory: Path) -> None:
        self._client, self._collection = _open_collection(directory)
        self._path = directory / "chroma.sqlite3"

    def record(self, episode: ms.Episode) -> dict[str, Any]:
        record = document(episode)
        outcome = {"outcome": record["outcome"]["kind"]}
        # Without vectors it embeds the documents itself, by a model that it downloads.
        chance = random.Random(record["id"])
        return {
            "ids": [record["id"]],
            "documents": [json.dumps(record)],
            "metadatas": [outcome],
            "embeddings": [[chance.gauss(0, 1) for _ in range(_DIMENSION)]],
        }

    def save(self, record: dict[str, Any]) -> object:
        return self._collection.add(**record)

    def get(self, key: str) -> int:
        (episode,) = _decoded(self._collection.get(ids=[key]))
        return len(episode["steps"])

    def page(self) -> int:
        return len(_decoded(self._collection.get(limit=PAGE)))

    def page_by_outcome(self) -> int:
        return len(_decoded(self._collection.get(where={"outcome": OUTCOME}, limit=PAGE)))

    def search(self, word: str) -> int:
        return len(_decoded(self._collection.get(where_document={"$contains": word}, limit=WORDS)))

    def durability(self) -> str:
        return f"{level_of_file(self._path).partition(',')[0]} (by the file); what it syncs is in the table"

    def close(self) -> None:
        self._client.close()


class ChromaVectors(VectorStore):
    """A collection of vectors alone."""

    method = "HNSW"

    def __init__(self, directory: Path, vectors: Array) -> None:
        self._client, self._collection = _open_collection(directory)
        for first in range(0, len(vectors), _BATCH):
            rows = vectors[first : first + _BATCH]
            self._collection.add(ids=[str(first + number) for number in range(len(rows))], embeddings=rows)

    def similar(self, query: Array) -> list[int]:
        return [int(key) for key in self._collection.query(query_embeddings=[query], n_results=K)["ids"][0]]

    def close(self) -> None:
        self._client.close()


open_store = Chroma
open_vectors = ChromaVectors


def _open_collection(directory: Path) -> tuple[Any, Any]:
    client = chromadb.PersistentClient(str(directory), chromadb.Settings(anonymized_telemetry=False))
    return client, client.get_or_create_collection(
        "episodes", metadata={"hnsw:space": "cosine"}, embedding_function=None
    )


def _decoded(results: Any) -> list[Any]:
    return [json.loads(text) for text in results["documents"]]
