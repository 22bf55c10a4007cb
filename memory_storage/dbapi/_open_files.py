"""The database files that this process has open: one entry for each (device, inode), and one lock to open and close.

POSIX drops all locks of a process on a file when the process closes any descriptor of that file. The engine takes this
into account for its own descriptors. So nothing else may open and close a file that the engine has open here: another
process would consider the file unused, and delete its log with the commits in it. Such a file is read from a descriptor
that is open already.

An entry is identified by (device, inode), not by a path: a symbolic link, a hard link, `..` and a path relative to
another working directory all lead to the same entry.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from ._batch import Result
from ._encryption import EncryptionKey, check_same_key, with_path
from ._engines import AUTO, NativeConnection
from ._errors import DatabaseError, OperationalError, from_message
from ._fork import register_after_fork, statement_barrier

Identity = tuple[int, int]
"""Device and inode."""

_DESCRIPTORS = "/dev/fd"
_USUAL_DESCRIPTORS = 1024
_HEADER_BYTES = 512  # the smallest page: every database has as many
_MAGIC = b"SQLite format 3\0"
_PAYLOAD_FRACTIONS = bytes((64, 32, 32))  # bytes 21 to 23 of every database; the cipher leaves bytes 16 to 23 in plain
_LARGEST_PAGE = 65536


class File:
    """A file that this process has open, shared by all connections to it, under whatever path.

    A file that was removed or replaced while it is open still accepts writes, which are lost; and so does its log. So
    every statement checks that the paths still lead to the files that were opened.
    """

    def __init__(self, identity: Identity, path: str, key: EncryptionKey | None) -> None:
        self.identity = identity
        self.path = path  # without links: the engine keeps the log next to it
        self.key = key
        self.engine = AUTO  # until a connection is open
        self.begin_lock = threading.Lock()
        self.names: Counter[str] = Counter()  # path: number of open connections
        self._log_path = f"{path}-wal"
        self._log: Identity | None = None

    def check(self, name: str) -> None:
        """Raise OperationalError if the file, or its open log, was removed or replaced."""
        found = identity_of(name)
        if found != self.identity:
            raise _file_gone(name, found)
        if name != self.path and (found := identity_of(self.path)) != self.identity:
            raise _file_gone(self.path, found)
        log = identity_of(self._log_path)
        if log == self._log:
            return
        # The engine removes an unneeded log itself, and creates another one later; but it closes the old one first.
        if self._log is not None and _descriptor_of(self._log) is not None:
            raise _file_gone(name, log, "its log")
        self._log = log

    def add(self, name: str) -> None:
        """Count a connection that was opened by this path."""
        if not self.names:
            self._log = identity_of(self._log_path)
        self.names[name] += 1

    def after_fork_in_child(self) -> None:
        """Forget the connections: they belong to the parent process, where a thread may hold the lock."""
        self.begin_lock, self.names = threading.Lock(), Counter()

    def remove(self, name: str) -> None:
        """Count a closed connection."""
        self.names[name] -= 1
        self.names += Counter()  # drops paths without connections


class _Registry:
    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._files: dict[Identity, File] = {}
        self._closing: deque[tuple[File, str, NativeConnection]] = deque()
        self._is_opening = False
        register_after_fork(self)

    def open(
        self,
        name: str,
        key: EncryptionKey | None,
        engine: str,
        *,
        probe: Callable[[str, int | None, str], None],
        connect: Callable[[str, str], NativeConnection],
    ) -> tuple[NativeConnection, File]:
        """Open a native connection.

        Args:
            name: The path; the file is created if there is none.
            key: The key of an encrypted file.
            engine: The local engine; "auto" for the one with which this process has the file open.
            probe: Called as `probe(path, descriptor, engine)` unless this process has the file open. Raises if the key
                is wrong. Given a descriptor, it must not open the path.
            connect: Called as `connect(path, engine)`; returns the native connection.

        Returns:
            The native connection, and the entry of its file.

        Raises:
            DatabaseError: this process has the file open with another key or engine (code OTHER_KEY, OTHER_ENGINE).
            OperationalError: the file was removed or replaced while this process has it open (code FILE_GONE).
        """
        with self._exclusive():
            path = os.path.realpath(name)
            self._check_not_replaced(name, path)
            identity = identity_of(path) or _create_empty(path)
            file = self._entry(identity, name, path, key, engine, probe)
            native = connect(file.path, engine if file.engine == AUTO else file.engine)
            found = identity_of(file.path)
            if identity is not None and found != identity:
                native.close()
                raise _file_gone(name, found)
            file.engine = native.engine
            if found is not None:
                file.identity = found
                self._files[found] = file
            file.add(name)
            return native, file

    def attach(
        self, name: str, key: EncryptionKey | None, engine: str, run: Callable[[], Result]
    ) -> tuple[Result, File | None]:
        """Run an ATTACH, unless this process has the file open with another engine.

        Args:
            name: The path of the file that it opens.
            key: The key of the connection, which the engine uses for the file too.
            engine: The engine of the connection.
            run: Runs the statement.

        Returns:
            The result, and the entry of the file, to be closed with the connection; None if it has opened no file.

        Raises:
            DatabaseError: this process has the file open with the other engine (code OTHER_ENGINE).
        """
        with self._exclusive():
            path = os.path.realpath(name)
            if (file := self._open_entry(identity_of(path))) is not None:
                check_same_engine(name, file.engine, engine)
            result = run()
            identity = identity_of(path)
            if identity is None:
                return result, None
            file = file or File(identity, path, key)
            file.engine = engine
            self._files[identity] = file
            file.add(name)
            return result, file

    def close(self, file: File, name: str, native: NativeConnection, *, blocking: bool) -> None:
        """Close a native connection; again for each file that it has attached.

        Args:
            file: The entry of its file.
            name: The path by which it was opened.
            native: The native connection.
            blocking: Whether to wait for the lock. The garbage collector does not: the lock's holder closes it later.
        """
        self._closing.append((file, name, native))
        self._drain_closing(blocking=blocking)

    def find(self, identity: Identity | None) -> File | None:
        """Return the entry of an open file; None if it is not open."""
        file = self._files.get(identity) if identity is not None else None
        return file if file is not None and file.names else None

    def identities(self) -> set[Identity]:
        """Return the identities of all open files."""
        return {file.identity for file in list(self._files.values()) if file.names}

    def before_fork(self) -> None:
        """Wait until no thread opens a file: the child would inherit its connection without an entry."""
        self._lock.acquire()
        statement_barrier.before_fork()  # after the lock: a thread that opens a file runs statements

    def after_fork_in_parent(self) -> None:
        """Release the lock."""
        statement_barrier.after_fork()
        self._lock.release()

    def after_fork_in_child(self) -> None:
        """Start without open files: they belong to the parent process."""
        self._lock, self._is_opening = threading.RLock(), False
        self._closing.clear()
        # The entries stay: a connection of the parent that is still open here says which engine may open its file.
        for file in self._files.values():
            file.after_fork_in_child()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        with self._lock:
            was_opening, self._is_opening = self._is_opening, True
            try:
                yield
            finally:
                self._is_opening = was_opening
        self._drain_closing(blocking=True)

    def _drain_closing(self, *, blocking: bool) -> None:
        # A thread that cannot acquire the lock leaves the work to its holder, which checks again after the release.
        while self._closing and self._lock.acquire(blocking=blocking):
            try:
                if self._is_opening:  # it is this thread, interrupted by the garbage collector
                    return
                self._close_all()
            finally:
                self._lock.release()

    def _close_all(self) -> None:
        while self._closing:
            file, name, native = self._closing.popleft()
            native.close()
            file.remove(name)
            if not file.names and _descriptor_of(file.identity) is None:  # a traceback may keep the native connection
                self._files.pop(file.identity, None)

    def _entry(
        self,
        identity: Identity | None,
        name: str,
        path: str,
        key: EncryptionKey | None,
        engine: str,
        probe: Callable[[str, int | None, str], None],
    ) -> File:
        if (file := self._open_entry(identity)) is not None:
            check_same_key(name, file.key, key)
            check_same_engine(name, file.engine, engine)
            if (found := identity_of(file.path)) != file.identity:
                raise _file_gone(file.path, found)
            return file
        probe(path, None if identity is None else _descriptor_of(identity), engine)
        return File(identity or (0, 0), path, key)

    def _open_entry(self, identity: Identity | None) -> File | None:
        """Return the entry of a file that this process has open, with or without a connection that is counted."""
        file = self._files.get(identity) if identity is not None else None
        return file if file and (file.names or _descriptor_of(file.identity) is not None) else None

    def _check_not_replaced(self, name: str, path: str) -> None:
        # Else a new file would be created at the path of the old one, or another file would get the old one's log.
        for file in list(self._files.values()):
            for one in (name, path):
                if (one in file.names or (file.names and one == file.path)) and identity_of(one) != file.identity:
                    raise _file_gone(one, identity_of(one))


def identity_of(path: str) -> Identity | None:
    """Return the identity of the file at a path; None if there is none."""
    try:
        found = os.stat(path)  # noqa: PTH116 - with every statement: a Path takes three times as long
    except OSError:
        return None
    return found.st_dev, found.st_ino


def engine_of(path: str | os.PathLike[str]) -> str | None:
    """Return the engine with which this process has a file open; None if it has not."""
    file = open_files.find(identity_of(os.fspath(path)))
    return file.engine if file is not None else None


def is_open_here(path: str | os.PathLike[str]) -> bool:
    """Return whether this process has a database open that is this file, or whose log is this file."""
    name = os.fspath(path)
    plain = next((name.removesuffix(suffix) for suffix in ("-wal", "-shm") if name.endswith(suffix)), name)
    return any(identity_of(one) in open_files.identities() for one in {name, plain})


def header_of(path: str, descriptor: int | None, size: int = _HEADER_BYTES) -> bytes:
    """Return the first bytes of a file, from an open descriptor if there is one; b"" for an empty or missing file."""
    try:
        if descriptor is not None and sys.platform != "win32":
            return os.pread(descriptor, size, 0)
        with open(path, "rb") as file:  # noqa: PTH123 - nothing of a Path is needed
            return file.read(size)
    except OSError:
        return b""


def check_header(path: str, header: bytes, key: EncryptionKey | None) -> None:
    """Raise DatabaseError if a file's header shows that it is not a database, or not encrypted as `key` says."""
    # An encrypted file starts with random bytes, but its payload fractions are those of every database.
    is_plain = header.startswith(_MAGIC)
    if 0 < len(header) < _HEADER_BYTES:  # the engine would create a log next to it before it finds out
        raise with_path(from_message("file is not a database"), path)
    if not header or is_plain is (key is None):
        return
    if is_plain:
        raise DatabaseError(f"{path}: this file is not encrypted, but a key was given", "NOT_ENCRYPTED")
    if header[21:24] != _PAYLOAD_FRACTIONS:
        raise with_path(from_message("file is not a database"), path)
    if key is None:
        raise DatabaseError(f"{path}: it is encrypted, and no key was given", "WRONG_KEY")


def check_same_engine(path: str, known: str, engine: str) -> None:
    """Raise DatabaseError if `engine` is not the one with which this process has the database open."""
    # POSIX drops all locks of a process on a file when it closes any descriptor of it. A library takes care of that for
    # its own descriptors; of two libraries, each would drop the locks of the other.
    if engine not in {AUTO, known}:
        raise DatabaseError(
            f"{path}: this process has it open with the engine {known!r}, and {engine!r} was asked for; nothing was "
            f"opened; use local_engine={known!r} or 'auto', or close what has it open first",
            "OTHER_ENGINE",
        )


def page_size(header: bytes) -> int:
    """Return the size of a page in bytes. It is in plain in an encrypted file too."""
    size = int.from_bytes(header[16:18], "big")
    return _LARGEST_PAGE if size == 1 else size


def _create_empty(path: str) -> Identity | None:
    """Create an empty file, so that its identity is known before the engine opens it. None if that fails."""
    with suppress(OSError):
        # Closing it drops no lock: this process cannot have another descriptor of it yet.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644))
    return identity_of(path)


def _descriptor_of(identity: Identity) -> int | None:
    """Return a descriptor that this process has on a file, or None. The caller must not close it."""
    if sys.platform == "win32":
        return None  # there, locks belong to a handle: closing another one of the file drops none
    try:
        names = os.listdir(_DESCRIPTORS)  # noqa: PTH208 - numbers, no paths
    except OSError:  # no /proc, as in some sandboxes
        names = [*map(str, range(_USUAL_DESCRIPTORS))]
    for number in map(int, filter(str.isdigit, names)):
        with suppress(OSError):
            found = os.fstat(number)
            if (found.st_dev, found.st_ino) == identity:
                os.pread(number, 1, 0)  # fails for a descriptor that is for writing only
                return number
    return None


def _file_gone(name: str, found: Identity | None, what: str = "the file") -> OperationalError:
    happened = "replaced by another one" if found else "removed"
    return OperationalError(f"{name}: {what} was {happened} while it was open", "FILE_GONE")


# One for the process, since POSIX locks belong to the process, not to an engine.
open_files = _Registry()
if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(
        before=open_files.before_fork,
        after_in_parent=open_files.after_fork_in_parent,
        after_in_child=statement_barrier.after_fork,
    )
