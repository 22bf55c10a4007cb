"""Writes that go to the server first: a file as a cache of the server.

A write is acknowledged by the server, and then pulled into the file. Reads are of the file. So what the server has
refused is never read, and a read costs no round trip.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn
from uuid import UUID

from typing_extensions import Self

from memory_storage.dbapi import BatchStep, RowCountError
from memory_storage.errors import ConfigurationError, MemoryStorageError
from memory_storage.models import Embedding, IndexPreset, OwnerType
from memory_storage.repositories import EmbeddingRepository
from memory_storage.repositories.embeddings.repository import Item
from memory_storage.search.vector_index import Progress
from memory_storage.session import Session, StorageContext, Transaction
from memory_storage.sql.session import Row

from .replica import Replica

_log = logging.getLogger(__name__)

_LOCAL = (
    "{0}: with sync_mode='write_through' a transaction writes at the server, and {0} are only in the file; nothing was "
    "stored; use storage.{0}, outside of the transaction"
)


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
        with through(self._replica):
            return self._server.write(steps, again=again, changed=changed)


class WriteThroughTransaction(Transaction):
    """A transaction at the server; what it has written is pulled when it is committed."""

    def __init__(self, context: StorageContext, namespace: str, actor: str, replica: Replica) -> None:
        super().__init__(context, namespace, actor)
        self._replica = replica

    def __enter__(self) -> Self:
        self._replica.join()
        return super().__enter__()

    @property
    def items(self) -> NoReturn:
        """Refuse: the transaction is at the server, and items stay in the file."""
        raise ConfigurationError(_LOCAL.format("items"))

    @property
    def logs(self) -> NoReturn:
        """Refuse: the transaction is at the server, and logs stay in the file."""
        raise ConfigurationError(_LOCAL.format("logs"))

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        _pull(self._replica)


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
        with through(self._replica):
            self._server.put_many(items, model=model, preset=preset, index=index, progress=progress)

    def _embed(self, *arguments: Any) -> int:
        with through(self._replica):
            return self._server._embed(*arguments)

    def import_many(self, embeddings: Sequence[Embedding]) -> int:
        """See `EmbeddingRepository.import_many`."""
        with through(self._replica):
            return self._server.import_many(embeddings)

    def delete(self, owner_type: OwnerType, owner_id: UUID | str, *, model: str) -> bool:
        """See `EmbeddingRepository.delete`."""
        with through(self._replica):
            return self._server.delete(owner_type, owner_id, model=model)


@contextmanager
def through(replica: Replica) -> Iterator[None]:
    """Write at the server in the block, and then pull, also if it was refused: the error is about what is there.

    An error of the pull is logged: what was written is at the server, and a later call brings it here.
    """
    replica.join()
    try:
        yield
    except (MemoryStorageError, RowCountError):
        _pull(replica)
        raise
    _pull(replica)


def _pull(replica: Replica) -> None:
    try:
        replica.pull()
    except MemoryStorageError as error:
        _log.warning("what was written at the server is not in the file yet, until the next write or sync: %s", error)
