"""Writes that go to the server first: a file as a cache of the server.

A write is acknowledged by the server, and then pulled into the file. Reads are of the file. So what the server has
refused is never read, and a read costs no round trip.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import UUID

from typing_extensions import Self

from memory_storage.dbapi import BatchStep, RowCountError
from memory_storage.embedders import Embedder, text_of
from memory_storage.errors import MemoryStorageError
from memory_storage.models import Embedding, IndexPreset, OwnerType
from memory_storage.repositories import EmbeddingRepository
from memory_storage.repositories.embeddings.repository import Item
from memory_storage.search.vector_index import Progress
from memory_storage.session import Session, StorageContext, Transaction
from memory_storage.sql.session import Row

from .replica import Replica

_log = logging.getLogger(__name__)


class WriteThroughSession(Session):
    """A session that reads the file, and writes at the server.

    Args:
        context: The file.
        server: The session that writes, of the same namespace.
        replica: Pulls after each write, also after one that was refused: the error is about what is there.
    """

    def __init__(self, context: StorageContext, server: Session, replica: Replica) -> None:
        super().__init__(context, server.namespace, server.actor)
        self._server, self._replica = server, replica
        self.max_value_bytes = server.max_value_bytes
        self.write = self._write

    def _write(self, steps: Sequence[BatchStep], *, again: BatchStep | None = None, changed: int = 0) -> Sequence[Row]:
        self._replica.join()
        try:
            rows = self._server.write(steps, again=again, changed=changed)
        except (MemoryStorageError, RowCountError):
            pull_quietly(self._replica)
            raise
        pull_quietly(self._replica)
        return rows


class WriteThroughTransaction(Transaction):
    """A transaction at the server; what it has written is pulled when it is committed."""

    def __init__(self, context: StorageContext, namespace: str, actor: str, replica: Replica) -> None:
        super().__init__(context, namespace, actor)
        self._replica = replica

    def __enter__(self) -> Self:
        self._replica.join()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        pull_quietly(self._replica)


class WriteThroughEmbeddings(EmbeddingRepository):
    """Embeddings of the file, which are written at the server: it has tables of vectors of its own."""

    def __init__(self, session: Session, server: EmbeddingRepository, replica: Replica) -> None:
        super().__init__(session)
        self._server, self._replica = server, replica

    def put_many(
        self,
        items: Iterable[Item],
        *,
        model: str,
        preset: IndexPreset = "balanced",
        index: bool = True,
        progress: Progress | None = None,
    ) -> None:
        """See `EmbeddingRepository.put_many`."""
        self._replica.join()
        self._server.put_many(items, model=model, preset=preset, index=index, progress=progress)
        pull_quietly(self._replica)

    def embed(
        self,
        embedder: Embedder,
        *,
        owner_type: OwnerType = "episode",
        text_of: Callable[[Any], str] = text_of,
        batch_size: int = 256,
        preset: IndexPreset = "balanced",
        progress: Progress | None = None,
    ) -> int:
        """See `EmbeddingRepository.embed`."""
        self._replica.join()
        stored = self._server.embed(
            embedder,
            owner_type=owner_type,
            text_of=text_of,
            batch_size=batch_size,
            preset=preset,
            progress=progress,
        )
        pull_quietly(self._replica)
        return stored

    def reembed(
        self,
        model: str,
        embedder: Embedder,
        *,
        text_of: Callable[[Any], str] = text_of,
        batch_size: int = 256,
        preset: IndexPreset = "balanced",
        progress: Progress | None = None,
    ) -> int:
        """See `EmbeddingRepository.reembed`."""
        self._replica.join()
        stored = self._server.reembed(
            model, embedder, text_of=text_of, batch_size=batch_size, preset=preset, progress=progress
        )
        pull_quietly(self._replica)
        return stored

    def import_many(self, embeddings: Sequence[Embedding]) -> int:
        """See `EmbeddingRepository.import_many`."""
        self._replica.join()
        stored = self._server.import_many(embeddings)
        pull_quietly(self._replica)
        return stored

    def delete(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> bool:
        """See `EmbeddingRepository.delete`."""
        self._replica.join()
        existed = self._server.delete(owner_type, owner_id, model=model)
        pull_quietly(self._replica)
        return existed


def pull_quietly(replica: Replica) -> None:
    """Pull. An error is logged: what was written is at the server, and a later call brings it here."""
    try:
        replica.pull()
    except MemoryStorageError as error:
        _log.warning("what was written at the server is not in the file yet, until the next write or sync: %s", error)
