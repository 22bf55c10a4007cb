"""Irreversible erasure: of the rows, and then of the bytes that a DELETE leaves behind.

A database only unlinks what it deletes. Words stay in the segments of the full-text index until these are merged,
compressed copies of vectors in the edges of their neighbours, and text in free pages, in free space within pages, and
in the WAL. So `scrub` merges the segments, drops the vector indexes, rewrites the file (VACUUM), recreates the indexes
and truncates the WAL.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

from sqlalchemy import Connection

from ._execution import Executor
from ._files import MaintenanceLock, sweep
from .errors import ConfigurationError, UnavailableError
from .models import ErasureResult, ScrubResult
from .monitoring import named_operation
from .repositories.retention.deletion import BatchSizer
from .repositories.retention.erasure import ErasedRows, erase_episode, erase_namespace
from .repositories.retention.sql import MERGE_WORDS
from .search.hnsw import delete_sidecars
from .search.session import SearchSession
from .search.vector_index import VectorIndex
from .settings import Settings

_PAUSE = 0.02
_ON_A_SERVER = (
    "the rows are erased from every table and index of the server; its file, log, replicas and backups "
    "cannot be scrubbed by a client, and may keep old pages for a while; ask the server's operator"
)
_OPEN_READER = (
    "an open read transaction prevents truncating the WAL; the rows are erased; call scrub() again after it ends "
    "(setting: request_timeout)"
)
_FOREIGN_INDEX = (
    "the vector index {} is not of this package, and VACUUM would damage it; drop it and call scrub() again"
)


class Eraser:
    """Erases rows of one namespace, and scrubs the whole file."""

    def __init__(
        self,
        executor: Executor,
        settings: Settings,
        session: SearchSession,
        maintenance: MaintenanceLock,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._executor = executor
        self._settings = settings
        self._session = session
        self._maintenance = maintenance
        self._index = VectorIndex(session)
        self._sleep = sleep

    @named_operation("forget")
    def episode(self, episode_id: UUID | str, *, scrub: bool) -> ErasureResult:
        """See `MemoryStorage.forget`."""
        return self._result(erase_episode(self._session, episode_id, BatchSizer(sleep=self._sleep)), scrub=scrub)

    @named_operation("forget")
    def everything(self, *, scrub: bool) -> ErasureResult:
        """See `MemoryStorage.forget`."""
        return self._result(erase_namespace(self._session, BatchSizer(sleep=self._sleep)), scrub=scrub)

    @named_operation("scrub")
    def scrub(self) -> ScrubResult:
        """See `MemoryStorage.scrub`."""
        for merge in MERGE_WORDS:
            self._session.write([merge.bind()])
        if self._settings.path is None:
            self._rebuild_fragmented_indexes()
            return (
                ScrubResult(complete=False, why=_ON_A_SERVER) if self._settings.server else ScrubResult(complete=True)
            )
        with self._maintenance.exclusive(self._settings.request_timeout, sleep=self._sleep):
            if foreign_indexes := self._index.foreign_indexes():
                return ScrubResult(complete=False, why=_FOREIGN_INDEX.format(", ".join(foreign_indexes)))
            done = self._vacuum(self._settings.path)
        self._index.repair_missing()  # another process may have created a vector table concurrently, without an index
        for model in self._index.status():
            self._index.catch_up(model.name)
        return done

    def _result(self, erased: ErasedRows, *, scrub: bool) -> ErasureResult:
        if not scrub:
            return ErasureResult(
                **erased._asdict(),
                scrubbed=False,
                why="not requested (scrub=False); call scrub() later, once for all erasures",
            )
        try:
            scrubbed = self.scrub()
        except (UnavailableError, ConfigurationError) as error:  # the rows are erased: the result must say so
            scrubbed = ScrubResult(complete=False, why=f"{error}; then call scrub() again")
        return ErasureResult(**erased._asdict(), scrubbed=scrubbed.complete, why=scrubbed.why)

    def _rebuild_fragmented_indexes(self) -> None:
        for model in self._index.status():
            if model.removed:
                self._index.rebuild(model.name)

    def _vacuum(self, path: Path) -> ScrubResult:
        sweep(path)
        is_encrypted = self._settings.encryption_key is not None
        if is_encrypted:  # such a file has no sidecars: delete those of before
            delete_sidecars(path)
        self._index.drop_all()
        try:
            with self._executor.autocommit() as connection:
                if not is_encrypted:  # else the copy of VACUUM, which is in plain, stays in memory
                    connection.exec_driver_sql("PRAGMA temp_store = FILE")
                try:
                    connection.exec_driver_sql("VACUUM")
                finally:
                    if not is_encrypted:
                        connection.exec_driver_sql("PRAGMA temp_store = DEFAULT")
        finally:
            self._index.recreate_all()
        with self._executor.autocommit() as connection:
            return (
                ScrubResult(complete=True)
                if self._truncate_log(connection)
                else ScrubResult(complete=False, why=_OPEN_READER)
            )

    def _truncate_log(self, connection: Connection) -> bool:
        deadline = time.monotonic() + self._settings.request_timeout
        while connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()[0]:
            if time.monotonic() > deadline:
                return False
            self._sleep(_PAUSE)
        return True
