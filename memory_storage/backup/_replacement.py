"""Atomic file creation: a new file replaces the old one by one rename, when it is complete.

At every moment the path leads to the old database, whole, or to the new one, whole. No log of the old one is left
beside the path at the moment of the exchange: the engine would apply it to the new one.
"""

from __future__ import annotations

import logging
import os
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


@dataclass
class Replacement:
    """The exchange of a file for a new one.

    Attributes:
        path: the file to replace; it may be missing.
        partial: the new file, until it is exchanged.
        key: the key of the old file.
        keeps_old: whether the old file is kept.
        old_path: where it is kept, after the exchange; None if there was none.
    """

    path: Path
    partial: Path
    key: EncryptionKey | None
    keeps_old: bool
    old_path: Path | None = None
    _moved: list[tuple[Path, Path]] = field(default_factory=list)

    def exchange(self) -> None:
        """Put the new file in the place of the old one.

        Raises:
            UnavailableError: the old one is in use.
            ConfigurationError: there was none, and another process has made one meanwhile.
        """
        sync(self.partial)
        with _exclusive_access(self.path, self.key):
            old_name = self._unused_name()
            try:
                self._move_logs(old_name)
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
            _log.warning("%s is replaced, but not all is cleaned up: %s", self.path.name, error)

    def _unused_name(self) -> Path:
        names = (self.path.with_name(f"{self.path.name}.old-{number}") for number in range(1, 10_000))
        return next(name for name in names if not any(os.path.lexists(f"{name}{suffix}") for suffix in ("", *LOGS)))

    def _move_logs(self, old_name: Path) -> None:
        """There are logs only of a database that cannot be opened, or was deleted without its log."""
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
        self.partial.replace(self.path)

    def _undo(self, old_name: Path) -> None:
        for log, name in self._moved:
            name.rename(log)
        if self.old_path is not None:
            old_name.unlink(missing_ok=True)

    def _move_sidecars(self) -> None:
        """The old database's are of no use; the new one's go along."""
        delete_sidecars(self.path)
        for name in sidecar_names(self.partial):
            self.partial.with_name(name).rename(self.path.with_name(self.path.name + name[len(self.partial.name) :]))


@contextmanager
def replacement(path: Path, key: EncryptionKey | None, *, keeps_old: bool) -> Iterator[Replacement]:
    """A file to be written, by its `partial`, and exchanged; what is left of it at the end of the block is deleted.

    Raises:
        ConfigurationError: its directory is not there or not writable.
    """
    path = Path(os.path.realpath(path))
    partial = scratch_beside(path)
    try:
        sweep(path)
        _remove_interrupted_exchange(path)
        create(partial, mode_of(path)).close()
        yield Replacement(path, partial, key, keeps_old)
    except OSError as error:
        raise ConfigurationError(f"{why_unwritable(path, error)}; it is what it was before") from error
    finally:
        for suffix in ("", *LOGS):
            Path(f"{partial}{suffix}").unlink(missing_ok=True)
        if partial.parent.is_dir():
            delete_sidecars(partial)


def _remove_interrupted_exchange(path: Path) -> None:
    """The second name of the database itself, which a process that was killed before its exchange has left."""
    for other in path.parent.glob(f"{path.name}.old-*"):
        with suppress(FileNotFoundError):
            if other.samefile(path) and not other.is_symlink():
                for suffix in LOGS:  # there is none but beside a damaged database
                    if os.path.lexists(f"{other}{suffix}") and not os.path.lexists(f"{path}{suffix}"):
                        Path(f"{other}{suffix}").rename(f"{path}{suffix}")
                other.unlink()


@contextmanager
def _exclusive_access(path: Path, key: EncryptionKey | None) -> Iterator[None]:
    """No other connection can use the database meanwhile, and it has no log. What is damaged is not asked.

    Raises:
        UnavailableError: it is in use.
    """
    connection = _open_if_exists(path, key)
    try:
        if connection is not None:
            _lock(path, connection)
        yield
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
            problem = f"{path}: it is in use by this process: close the storage that has it open first"
            raise UnavailableError(problem, code=error.code) from error
        return None


def _lock(path: Path, connection: dbapi.Connection) -> None:
    # To leave write-ahead logging, a connection has to be the only one; and its log is in the file then. After that
    # the lock keeps out all others.
    problem = f"{path}: it is in use; it is what it was before: end the programs that use it first"
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
        os.link(partial, path)  # unlike a rename, it never replaces what another process has put there
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already: another process has made it meanwhile") from error
    except OSError:  # a file system without links
        partial.rename(path)


def _link_or_copy(path: Path, old_name: Path) -> None:
    try:
        os.link(path, old_name, follow_symlinks=False)
    except FileExistsError:
        raise
    except OSError:  # a file system without links; to read the file releases this process's lock on it
        with replacing(old_name, mode_of(path)) as file:
            _copy(path, file.write)


def _copy(path: Path, write: Callable[[bytes], object]) -> None:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            write(chunk)
