"""Atomic file creation: a new file replaces the old one by one rename, when it is complete.

The path leads at all times to the complete old database or to the complete new one. The old database's log files are
moved away before the exchange: the engine would apply them to the new database.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from memory_storage import dbapi
from memory_storage._files import create, mode_of, replacing, scratch_beside, sweep, sync, sync_directory
from memory_storage._paths import why_unwritable
from memory_storage.dbapi import EncryptionKey
from memory_storage.errors import ConfigurationError, UnavailableError
from memory_storage.search.hnsw import delete_sidecars, sidecar_names

_log = logging.getLogger(__name__)

LOGS = ("-wal", "-shm", "-journal")

_REPLACES_OPEN_FILES = sys.platform != "win32"
_IN_USE = "is in use; nothing was replaced; end the programs that use it first"


@dataclass
class Replacement:
    """The replacement of a database file by a new one.

    Attributes:
        path: the file to replace; it may be missing.
        partial: the new file, until the exchange.
        key: the encryption key of the old file.
        keeps_old: whether the old file is kept under another name.
        old_path: the path of the old file after the exchange; None if it is not kept or was missing.
    """

    path: Path
    partial: Path
    key: EncryptionKey | None
    keeps_old: bool
    old_path: Path | None = None
    _moved: list[tuple[Path, Path]] = field(default_factory=list)

    def exchange(self) -> None:
        """Replace the old file by the new one.

        Raises:
            UnavailableError: the old file is in use.
            ConfigurationError: there was no old file, and another process has created one concurrently.
        """
        sync(self.partial)
        with _exclusive_access(self.path, self.key) as connection:
            old_name = self._unused_name()
            try:
                self._move_logs(old_name)
                if connection is not None and not _REPLACES_OPEN_FILES:
                    connection.close()
                self._swap(old_name)
            except BaseException:
                self._undo(old_name)
                raise
        try:
            sync_directory(self.path.parent)
            self._move_sidecars()
            if not self.keeps_old:
                for _, log in self._moved:
                    log.unlink(missing_ok=True)
        except OSError as error:  # the exchange is done
            _log.warning("%s is replaced, but temporary files are left: %s", self.path.name, error)

    def _unused_name(self) -> Path:
        names = (self.path.with_name(f"{self.path.name}.old-{number}") for number in range(1, 10_000))
        return next(name for name in names if not any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *LOGS)))

    def _move_logs(self, old_name: Path) -> None:
        """Move the logs. Only a database that cannot be opened, or that was deleted without its log, still has any."""
        for suffix in LOGS:
            log, name = Path(f"{self.path}{suffix}"), Path(f"{old_name}{suffix}")
            with suppress(FileNotFoundError):
                log.rename(name)
                self._moved.append((log, name))

    def _swap(self, old_name: Path) -> None:
        if not self.path.exists():
            _link_or_rename(self.partial, self.path)
            return
        if self.keeps_old:
            _link_or_copy(self.path, old_name)
            self.old_path = old_name
            sync_directory(self.path.parent)
        try:
            self.partial.replace(self.path)
        except PermissionError as error:
            if _REPLACES_OPEN_FILES:
                raise
            raise UnavailableError(f"{self.path} {_IN_USE}", code="SQLITE_BUSY") from error  # opened in the meantime

    def _undo(self, old_name: Path) -> None:
        for log, name in self._moved:
            name.rename(log)
        if self.old_path is not None:
            old_name.unlink(missing_ok=True)

    def _move_sidecars(self) -> None:
        """Delete the old database's sidecars, and rename those of the new one."""
        delete_sidecars(self.path)
        for name in sidecar_names(self.partial):
            self.partial.with_name(name).rename(self.path.with_name(self.path.name + name[len(self.partial.name) :]))


@contextmanager
def replacement(path: Path, key: EncryptionKey | None, *, keeps_old: bool) -> Iterator[Replacement]:
    """Yield the replacement of a file: write its `partial`, then call `exchange`. Temporary files are deleted.

    Raises:
        ConfigurationError: the directory does not exist or is not writable.
    """
    path = Path(os.path.realpath(path))
    partial = scratch_beside(path)
    try:
        sweep(path)
        _remove_interrupted_exchange(path)
        create(partial, mode_of(path)).close()
        yield Replacement(path, partial, key, keeps_old)
    except OSError as error:
        raise ConfigurationError(f"{why_unwritable(path, error)}; nothing was replaced") from error
    finally:
        for suffix in ("", *LOGS):
            Path(f"{partial}{suffix}").unlink(missing_ok=True)
        if partial.parent.is_dir():
            delete_sidecars(partial)


def _remove_interrupted_exchange(path: Path) -> None:
    """Remove the second link to the database, left by a process that was killed before its rename."""
    for other in path.parent.glob(f"{path.name}.old-*"):
        with suppress(FileNotFoundError):
            if other.samefile(path) and not other.is_symlink():
                for suffix in LOGS:  # only a damaged database has any
                    if os.path.lexists(f"{other}{suffix}") and not os.path.lexists(f"{path}{suffix}"):
                        Path(f"{other}{suffix}").rename(f"{path}{suffix}")
                other.unlink()


@contextmanager
def _exclusive_access(path: Path, key: EncryptionKey | None) -> Iterator[dbapi.Connection | None]:
    """Keep all other connections out of the database for the block, with its log merged into the file.

    A missing or damaged database is not locked: no program can use it. Yields the connection that holds the lock.

    Raises:
        UnavailableError: the database is in use.
    """
    connection = _open_if_exists(path, key)
    try:
        if connection is not None:
            _lock(path, connection)
        yield connection
    finally:
        if connection is not None:
            connection.close()


def _open_if_exists(path: Path, key: EncryptionKey | None) -> dbapi.Connection | None:
    if not path.exists():
        return None
    try:
        return dbapi.connect(str(path), busy_timeout=1, encryption_key=key, configure=False)
    except dbapi.Error as error:
        if error.code == "OTHER_KEY":
            problem = (
                f"{path} is in use by this process; nothing was replaced; close the storage that has it open first"
            )
            raise UnavailableError(problem, code=error.code) from error
        return None


def _lock(path: Path, connection: dbapi.Connection) -> None:
    # Only a connection that has the database to itself can leave write-ahead logging, which merges the log into the
    # file. The exclusive lock then keeps all others out.
    problem = f"{path} {_IN_USE}"
    try:
        mode = connection.execute("PRAGMA journal_mode = DELETE").fetchall()[0][0]
        connection.execute("BEGIN EXCLUSIVE")
    except dbapi.OperationalError as error:
        if error.code in dbapi.BUSY_CODES:
            raise UnavailableError(problem, code=error.code) from error
        return
    except dbapi.Error:
        return
    if mode != "delete":
        raise UnavailableError(problem, code="SQLITE_BUSY")


def _link_or_rename(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, it never replaces a file that another process has just created
    except FileExistsError as error:
        raise ConfigurationError(
            f"{path} already exists: another process has just created it; nothing was replaced"
        ) from error
    except OSError:  # a file system without links
        partial.rename(path)


def _link_or_copy(path: Path, old_name: Path) -> None:
    try:
        os.link(path, old_name, follow_symlinks=False)
    except FileExistsError:
        raise
    # On a file system without links. Closing the file that was read releases this process's lock on it.
    except OSError:
        with replacing(old_name, mode_of(path)) as file:
            _copy(path, file.write)


def _copy(path: Path, write: Callable[[bytes], object]) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            write(chunk)
