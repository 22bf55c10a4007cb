"""What every peer does in its own way."""

from __future__ import annotations

import sqlite3
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar, Literal

import memory_storage as ms

Record = Any
"""An episode in the form that a peer's own users give it."""
Document = dict[str, Any]
"""An episode as JSON-compatible values."""
Array = Any
"""A numpy array of float32, a vector per row."""

PAGE = 50
WORDS = 10  # results of a search by words
OUTCOME: Literal["failure"] = "failure"
K = 10


class Store(ABC):
    """An open store with the episodes of one peer. What a peer cannot do is the base's method."""

    note: ClassVar[str] = ""  # how the peer keeps an episode

    @abstractmethod
    def record(self, episode: ms.Episode) -> Record:
        """Return the episode in the peer's form; not timed."""

    @abstractmethod
    def save(self, record: Record) -> object:
        """Store a new episode with its steps."""

    @abstractmethod
    def get(self, key: str) -> int:
        """Read an episode and decode every step. Returns the number of its steps."""

    def get_lazily(self, key: str) -> object:
        """Read an episode, and look at none of its steps."""
        raise NotImplementedError

    def page(self) -> int:
        """Read a page of episodes and decode every step. Returns the number of episodes."""
        raise NotImplementedError

    def page_lazily(self) -> int:
        """Read a page of episodes, and look at none of their steps. Returns the number of episodes."""
        raise NotImplementedError

    def page_by_outcome(self) -> int:
        """Read a page of the episodes with one outcome, and decode every step. Returns the number of episodes."""
        raise NotImplementedError

    def search(self, word: str) -> int:
        """Read the first episodes that have the word, and decode every step. Returns the number of episodes."""
        raise NotImplementedError

    @abstractmethod
    def durability(self) -> str:
        """Return the journal mode and the synchronous level, as the connection or its file says."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""

    def supports(self, operation: str) -> bool:
        """Whether the peer has this operation."""
        return getattr(type(self), operation) is not getattr(Store, operation)


class VectorStore(ABC):
    """A store with vectors, numbered from 0."""

    method: str  # exact, or the name of the index

    @abstractmethod
    def similar(self, query: Array) -> list[int]:
        """Return the numbers of the K most similar vectors."""

    @abstractmethod
    def close(self) -> None:
        """Close the files."""


def document(episode: ms.Episode) -> Document:
    """Return the episode with its steps as JSON-compatible values."""
    return episode.model_dump(mode="json")


def levels(journal_mode: object, synchronous: object) -> str:
    """Return the two pragmas in words."""
    names = {0: "OFF", 1: "NORMAL", 2: "FULL", 3: "EXTRA"}
    return f"journal {str(journal_mode).upper()}, synchronous {names.get(synchronous, '?')}"  # type: ignore[call-overload]


def level_of_file(path: Path) -> str:
    """Return the journal mode of a file, with the default level of sqlite3: for peers that set neither."""
    with closing(sqlite3.connect(path)) as connection:
        pragmas: Sequence[Any] = [
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
        ]
    return f"{levels(*pragmas)} (by the file and the default of sqlite3)"
