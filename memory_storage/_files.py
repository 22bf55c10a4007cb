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
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from secrets import token_hex
from typing import BinaryIO

from .errors import ConfigurationError, UnavailableError

if sys.platform != "win32":
    import fcntl

_PAUSE = 0.02
_IN_MAINTENANCE = (
    "another process or thread scrubs, restores or repairs it, or changes its vector indexes; nothing was changed; "
    "try again later"
)
_OF_A_PART = r"\.[0-9a-f]+\.part(-wal|-shm|-journal|-lock|\.[0-9a-f]{16}\.usearch(\.[0-9a-f]+\.tmp)?)?"
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_BINARY = getattr(os, "O_BINARY", 0)


class MaintenanceLock:
    """Excludes concurrent maintenance of a database file (scrub, restore, repair) and changes of its vector indexes.

    An flock on an empty file next to the database; the last holder removes the file. The kernel releases the lock of a
    killed process. The database file itself is never opened here: closing a descriptor of it would release the engine's
    own locks. For a database without a file every lock is granted.
    """

    def __init__(self, database: Path | None) -> None:
        real = None if database is None else os.path.realpath(database)
        self._database = real
        self._path = None if real is None else f"{real}-lock"

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
                raise UnavailableError(f"{self._database}: {_IN_MAINTENANCE}", code="MAINTENANCE")
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
        if self._path is None or sys.platform == "win32":
            return _Held(None, "")
        while True:
            descriptor = self._open(self._path)
            held = _Held(descriptor, self._path)
            if not _flock(descriptor, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH):
                held.close()
                return None
            if held.is_in_place():
                return held
            held.close()  # the last holder has removed this file: another one may exist by now

    def _open(self, path: str) -> int:
        flags = os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | _NO_FOLLOW
        try:
            return os.open(path, flags & ~os.O_CREAT)
        except FileNotFoundError:
            descriptor = os.open(path, flags, 0o600)
            with suppress(OSError):
                os.fchmod(descriptor, mode_of(self._database))
            return descriptor


class _Held:
    """An open lock file."""

    def __init__(self, descriptor: int | None, path: str) -> None:
        self._descriptor, self._path = descriptor, path
        if descriptor is not None:
            _held.add(self)

    def is_in_place(self) -> bool:
        """Return whether the path still names the open file."""
        try:
            found = os.stat(self._path, follow_symlinks=False)  # noqa: PTH116 - with a flag
        except FileNotFoundError:
            return False
        return self._descriptor is not None and os.path.samestat(found, os.fstat(self._descriptor))

    def release(self) -> None:
        """Release the lock, and remove its file unless another process waits for it."""
        if self._descriptor is None:
            return
        if sys.platform != "win32":
            with suppress(OSError):
                if _flock(self._descriptor, fcntl.LOCK_EX) and self.is_in_place():
                    os.unlink(self._path)  # noqa: PTH108
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)  # a child process may have a copy of the descriptor
        self.close()

    def close(self) -> None:
        """Close the file. The lock is released unless a parent process holds it too."""
        _held.discard(self)
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _flock(descriptor: int, operation: int) -> bool:
    if sys.platform == "win32":
        return True
    try:
        fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


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
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | _NO_FOLLOW | _BINARY, 0o600)
    with suppress(OSError, AttributeError):  # a file system without permissions; Windows
        os.fchmod(descriptor, mode)
    return os.fdopen(descriptor, "wb")


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
        stale = re.compile(re.escape(database.name) + _OF_A_PART)
        for found in database.parent.iterdir():
            if stale.fullmatch(found.name):
                found.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Flush a file to disk (fsync)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Flush the entries of a directory to disk."""
    if sys.platform != "win32":
        sync(path)


_held: set[_Held] = set()


def _after_fork_in_child() -> None:
    """Close inherited descriptors: they would keep the locks of the parent process."""
    for held in list(_held):
        held.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
