"""Private, atomic file creation, and the maintenance lock of a database file.

A file is created under a random name next to its final one, with O_EXCL and without following links; it has its final
permissions before it has content, is synced, and is renamed once.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from ._file_lock import Unlock, try_lock
from .errors import ConfigurationError, UnavailableError

_PAUSE = 0.02
_IN_MAINTENANCE = (
    "another process or thread scrubs, restores or repairs it, or changes its vector indexes; nothing was changed; "
    "try again later"
)
_OF_A_PART = r"\.[0-9a-f]+\.part(-wal|-shm|-journal|-lock|\.[0-9a-f]{16}\.usearch(\.[0-9a-f]+\.tmp)?)?"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_IS_WINDOWS = sys.platform == "win32"


class MaintenanceLock:
    """Excludes concurrent maintenance of a database file (scrub, restore, repair) and changes of its vector indexes.

    A lock on an empty file next to the database; the last holder removes the file. The system releases the lock of a
    killed process. The database file itself is never opened here: closing a descriptor of it would release the engine's
    own locks. For a database without a file every lock is granted.
    """

    def __init__(self, database: Path | None, *, suffix: str = "-lock", busy: str = _IN_MAINTENANCE) -> None:
        real = None if database is None else os.path.realpath(database)
        self._database, self._busy = real, busy
        self._path = None if real is None else f"{real}{suffix}"

    @contextmanager
    def exclusive(self, timeout: float, *, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the lock exclusively during the block.

        Args:
            timeout: Seconds to wait for it.
            sleep: Waits between attempts, given in seconds.

        Raises:
            UnavailableError: The lock was not free within `timeout` seconds.
            ConfigurationError: The lock file cannot be created.
        """
        deadline = time.monotonic() + timeout
        while (held := self._attempt()) is None:
            if time.monotonic() > deadline:
                raise UnavailableError(f"{self._database}: {self._busy}", code="MAINTENANCE")
            sleep(_PAUSE)
        try:
            yield
        finally:
            held.release()

    @contextmanager
    def shared(self) -> Iterator[bool]:
        """Hold the lock shared during the block; yield whether it was granted, that is, no maintenance is running."""
        try:
            held = self._acquire(exclusive=False)
        except OSError:  # a read-only directory: concurrent maintenance cannot be excluded
            held = None
        try:
            yield held is not None
        finally:
            if held is not None:
                held.release()

    def _attempt(self) -> _Held | None:
        try:
            return self._acquire(exclusive=True)
        except OSError as error:
            raise ConfigurationError(
                f"{self._database}: the lock file next to it cannot be created ({error.strerror}); nothing was "
                "changed; make its directory writable"
            ) from error

    def _acquire(self, *, exclusive: bool) -> _Held | None:
        """Return the lock, or None if it is held elsewhere."""
        if self._path is None:
            return _Held(None, "")
        while True:
            held = _Held(self._open(self._path), self._path)
            if not held.lock(exclusive=exclusive):
                held.close()
                return None
            if held.is_in_place():
                return held
            held.close()  # the last holder has removed this file: another one may exist by now

    def _open(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_CREAT | _NO_FOLLOW
        try:
            return os.open(path, flags & ~os.O_CREAT)
        except FileNotFoundError:
            descriptor = os.open(path, flags, 0o600)
            _set_mode(descriptor, mode_of(self._database))
            return descriptor


class _Held:
    """An open lock file."""

    def __init__(self, descriptor: int | None, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        self._unlock: Unlock | None = None
        if descriptor is not None:
            _held.add(self)

    def lock(self, *, exclusive: bool) -> bool:
        """Lock the file; return whether that succeeded."""
        if self._descriptor is not None:
            self._unlock = try_lock(self._descriptor, exclusive=exclusive)
        return self._unlock is not None

    def is_in_place(self) -> bool:
        """Return whether the path still names the open file."""
        try:
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116 - with a flag
        except FileNotFoundError:
            return False
        return self._descriptor is not None and os.path.samestat(found, os.fstat(self._descriptor))

    def release(self) -> None:
        """Release the lock, and remove its file unless another process waits for it."""
        descriptor, unlock = self._descriptor, self._unlock
        if descriptor is None or unlock is None:
            return
        with suppress(OSError):
            if not _IS_WINDOWS and try_lock(descriptor, exclusive=True) and self.is_in_place():
                os.unlink(self._path)  # noqa: PTH108
            unlock()  # a child process may have a copy of the descriptor
        self.close()
        if _IS_WINDOWS:  # no open file can be removed there: the last holder succeeds
            with suppress(OSError):
                os.unlink(self._path)  # noqa: PTH108

    def close(self) -> None:
        """Close the file. The lock is released unless a parent process holds it too."""
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def mode_of(path: str | os.PathLike[str] | None) -> int:
    """Return the permissions of a file; 0600 if it does not exist."""
    try:
        return os.stat(path).st_mode & 0o666 if path is not None else 0o600  # noqa: PTH116
    except OSError:
        return 0o600


def scratch_beside(path: Path, suffix: str = "part") -> Path:
    """Return a random path next to `path`. Raise IsADirectoryError if it does not name a file."""
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    return path.with_name(f"{path.name}.{token_hex(8)}.{suffix}")


def create(path: Path, mode: int) -> BinaryIO:
    """Create a file for writing, with exactly this mode. Raise FileExistsError if the path exists, even as a link."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_FOLLOW | _BINARY, 0o600)
    _set_mode(descriptor, mode)
    return os.fdopen(descriptor, "wb")


def _set_mode(descriptor: int, mode: int) -> None:
    if sys.platform != "win32":
        with suppress(OSError):  # a file system without permissions
            os.fchmod(descriptor, mode)


@contextmanager
def replacing(path: Path, mode: int, suffix: str = "part") -> Iterator[BinaryIO]:
    """Yield a file that atomically replaces `path` at the end of the block, or is removed after an error.

    Args:
        path: The file to replace.
        mode: The permissions of the new file.
        suffix: The suffix of its temporary name.

    Raises:
        OSError: It cannot be written; `path` is unchanged.
    """
    scratch = scratch_beside(path, suffix)
    file = create(scratch, mode)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sweep(path: Path) -> None:
    """Delete temporary files of a database that a killed process has left.

    The caller holds the maintenance lock exclusively, so no running process owns them.
    """
    for database in {path, Path(os.path.realpath(path))}:
        for name in siblings(database, _OF_A_PART):
            database.with_name(name).unlink(missing_ok=True)


def siblings(path: Path, suffix: str) -> list[str]:
    """Return the names of the files next to `path` that have its name and a suffix.

    On a case-insensitive file system they may have been created under another spelling of the name.

    Args:
        path: A file, which need not exist.
        suffix: A regular expression that matches the whole suffix.
    """
    pattern = re.compile(f"(?s:(.*?))({suffix})")
    return [
        entry.name
        for entry in path.parent.iterdir()
        if (match := pattern.fullmatch(entry.name))
        and (match[1] == path.name or _is_same_name(entry, path.with_name(path.name + match[2])))
    ]


def _is_same_name(entry: Path, other: Path) -> bool:
    if unicodedata.normalize("NFC", entry.name).casefold() != unicodedata.normalize("NFC", other.name).casefold():
        return False
    with suppress(OSError):
        return entry.samefile(other)
    return False


def sync(path: Path) -> None:
    """Flush a file to disk (fsync)."""
    descriptor = os.open(path, os.O_RDWR if _IS_WINDOWS else os.O_RDONLY)  # Windows flushes what is open for writing
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to disk."""
    if not _IS_WINDOWS:  # there, a directory cannot be opened as a file
        sync(path)


_held: set[_Held] = set()


def _after_fork_in_child() -> None:
    """Close inherited descriptors: they would keep the locks of the parent process."""
    for held in list(_held):
        held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
