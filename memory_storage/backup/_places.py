"""Files: a new one that gets its name when it is whole, and an old one that makes room for it. Knows no tables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from memory_storage import dbapi
from memory_storage.dbapi import EncryptionKey
from memory_storage.dbapi._local import LocalTransport
from memory_storage.errors import ConfigurationError, UnavailableError

_BESIDE = ("-wal", "-shm")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to. The file becomes `path` at the end of the block, or is removed by an error.

    Raises:
        ConfigurationError: its directory is not there or not writable, or another file has come to be there meanwhile.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        partial.touch(mode=0o600, exist_ok=False)
        with suppress(FileNotFoundError):
            partial.chmod(path.stat().st_mode & 0o777)
        yield partial
        _sync(partial)
        _rename(partial, path)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        for suffix in ("", *_BESIDE, "-journal"):
            partial.with_name(partial.name + suffix).unlink(missing_ok=True)


@dataclass(frozen=True)
class Aside:
    """An old database that made room; None if there was none."""

    path: Path | None

    def remove(self) -> None:
        """Delete it."""
        for suffix in ("", *_BESIDE) if self.path else ():
            Path(f"{self.path}{suffix}").unlink(missing_ok=True)


def given_way(path: Path, key: EncryptionKey | None) -> Aside:
    """Move the file at `path` aside with its log, under a new name beside it.

    Raises:
        UnavailableError: somebody uses it. What is damaged is not asked.
    """
    if not path.exists():
        return Aside(None)
    _refuse_in_use(path, key)
    names = (path.with_name(f"{path.name}.old-{number}") for number in range(1, 10_000))
    aside = next(name for name in names if not name.exists())
    for suffix in (*_BESIDE, ""):  # a log that stayed would be taken for the new file's
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return Aside(aside)


def _refuse_in_use(path: Path, key: EncryptionKey | None) -> None:
    # To leave write-ahead logging, a connection has to be the only one; and its log is in the file then.
    try:
        transport = LocalTransport(str(path.absolute()), busy_timeout=1, encryption_key=key)
    except dbapi.Error as error:
        if error.code == "OTHER_KEY":
            problem = f"{path}: it is in use by this process: close the storage that has it open first"
            raise UnavailableError(problem, code=error.code) from error
        return
    try:
        transport.run([dbapi.Step("PRAGMA journal_mode = DELETE")])
    except dbapi.OperationalError as error:
        if error.code in dbapi.BUSY_CODES:
            problem = f"{path}: it is in use: end the programs that use it first"
            raise UnavailableError(problem, code=error.code) from error
    except dbapi.Error:
        return
    finally:
        transport.close()


def _rename(partial: Path, path: Path) -> None:
    try:
        os.link(partial, path)  # unlike a rename, it never replaces what somebody has put there
    except FileExistsError as error:
        raise ConfigurationError(f"{path} is there already: somebody made it meanwhile") from error
    except OSError:  # a file system without links
        partial.rename(path)
    _sync(path.parent)


def _sync(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
