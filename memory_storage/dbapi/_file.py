"""A local file as this process knows it: which one it is, whose turn it is, and the key it is encrypted with.

Opens no database. It is the one place that knows how an encrypted file looks from outside.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

from ._credentials import Secret
from ._errors import Error, OperationalError, ProgrammingError, from_message
from ._fork import tell_in_child

_MAGIC = b"SQLite format 3\0"
_FRACTIONS = bytes((64, 32, 32))  # bytes 21 to 23 of every database; the cipher leaves 16 to 23 as they are
KEY_BYTES = 32
_NAMED = {"SQLITE_BUSY", "SQLITE_FULL", "SQLITE_READONLY", "SQLITE_IOERR", "SQLITE_CANTOPEN", "SQLITE_CORRUPT"}


class EncryptionKey:
    """The key of an encrypted file. Its repr shows nothing."""

    def __init__(self, key: str | Secret) -> None:
        self._key = key

    @classmethod
    def of(cls, key: str | Secret | EncryptionKey | None) -> EncryptionKey | None:
        """This key, hidden. ProgrammingError for an empty one, which the engine takes for none, and one too long."""
        if key is None or isinstance(key, EncryptionKey):
            return key
        hidden, key = cls(key), None  # a traceback may show this frame
        size = len(hidden.as_option()["encryption_key"].encode())
        if not 1 <= size <= KEY_BYTES:
            raise ProgrammingError(
                f"encryption_key must have 1 to {KEY_BYTES} bytes, not {size}: the cipher ignores what follows",
                "BAD_KEY",
            )
        return hidden

    def as_option(self) -> dict[str, str]:
        """What the native driver takes. Do not bind it to a name: a traceback may show that."""
        return {"encryption_key": self._key if isinstance(self._key, str) else self._key.get_secret_value()}


class File:
    """A database's file, for all the connections that this process has to it.

    A file that is removed or replaced while it is open goes on to take what is written, and that is lost. So every use
    looks whether the path still leads to the file that was opened.
    """

    def __init__(self, path: str) -> None:
        self.path = os.path.abspath(path)  # noqa: PTH100 - as the engine does, without following links
        self.turn = threading.Lock()
        self._users = 0
        self._counting = threading.Lock()
        self._identity: tuple[int, int] | None = None  # of the file that is open, if one is
        tell_in_child(self)

    @classmethod
    def of(cls, path: str) -> File:
        """The one for this path."""
        return _files.setdefault(path, cls(path))

    def opened(self) -> None:
        """One more connection to it: remember which file it is."""
        with self._counting:
            self._users += 1
            self._identity = self._identity or self._found()

    def closed(self) -> None:
        """One connection less; after the last one it may be another file."""
        with self._counting:
            self._users -= 1
            if not self._users:
                self._identity = None

    def check(self) -> None:
        """OperationalError if the path no longer leads to the file that was opened, by whichever connection."""
        found = self._found()
        if self._identity is not None and found != self._identity:
            what = "replaced by another one" if found else "removed"
            raise OperationalError(f"{self.path}: the file was {what} while it was open", "FILE_GONE")

    def error(self, message: str, key: EncryptionKey | None) -> Error:
        """What an engine's message means, with the file's name where the file is at fault."""
        error = from_message(message)
        if error.code == "SQLITE_NOTADB":
            return self._not_a_database(error, key)
        if error.code in _NAMED and self.path not in message:
            return type(error)(f"{self.path}: {message}", error.code)
        return error

    def after_fork_in_child(self) -> None:
        """Nobody has it open here, and nobody has the turn: the thread that may have it is not there."""
        self.turn, self._counting = threading.Lock(), threading.Lock()
        self._users, self._identity = 0, None

    def _found(self) -> tuple[int, int] | None:
        try:
            found = os.stat(self.path)  # noqa: PTH116 - with every statement: a Path takes three times as long
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _not_a_database(self, error: Error, key: EncryptionKey | None) -> Error:
        head = _head(self)
        if key is not None and head.startswith(_MAGIC):
            return type(error)(f"{self.path}: this file is not encrypted, but a key was given", "NOT_ENCRYPTED")
        if head[21:24] != _FRACTIONS or head.startswith(_MAGIC):
            advice = " (or it is encrypted with another key)" if self._identity is not None else ""
            return type(error)(f"{self.path}: {error}{advice}", error.code)
        problem = "it is encrypted, and no key was given" if key is None else "it is encrypted with another key"
        return type(error)(f"{self.path}: {problem}", "WRONG_KEY")


def _head(file: File) -> bytes:
    """The first bytes of a file; none if this process uses it already.

    To close a file releases all the locks that a process has on it, those of its other connections too.
    """
    if file._identity is not None:
        return b""
    try:
        with open(file.path, "rb") as opened:  # noqa: PTH123 - nothing of a Path is needed
            return opened.read(32)
    except OSError:
        return b""


_files: weakref.WeakValueDictionary[str, File] = weakref.WeakValueDictionary()


def native_options(key: EncryptionKey | None) -> dict[str, Any]:
    """The options for the native driver. Do not bind them to a name."""
    return {} if key is None else dict(key.as_option())
