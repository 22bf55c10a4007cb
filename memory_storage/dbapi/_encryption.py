"""Encryption keys, and the errors of a file that show its path."""

from __future__ import annotations

import hmac

from memory_storage._paths import why_not_opened

from ._credentials import Secret
from ._errors import DatabaseError, Error, ProgrammingError

KEY_BYTES = 32
_FILE_ERROR_CODES = {
    "SQLITE_BUSY",
    "SQLITE_FULL",
    "SQLITE_READONLY",
    "SQLITE_IOERR",
    "SQLITE_CANTOPEN",
    "SQLITE_CORRUPT",
    "SQLITE_NOTADB",
}


class EncryptionKey:
    """The key of an encrypted file. Its repr does not show the key."""

    def __init__(self, key: str | Secret) -> None:
        self._key = key

    @classmethod
    def of(cls, key: str | Secret | EncryptionKey | None) -> EncryptionKey | None:
        """Return the key, wrapped. ProgrammingError for one of 0 bytes, or of more than the cipher uses."""
        if key is None or isinstance(key, EncryptionKey):
            return key
        hidden, key = cls(key), None  # a traceback may show this frame
        # The engine takes an empty key for none: the file would silently not be encrypted.
        size = len(hidden.as_option()["encryption_key"].encode())
        if not 1 <= size <= KEY_BYTES:
            raise ProgrammingError(
                f"encryption_key must have 1 to {KEY_BYTES} bytes, not {size}: the cipher ignores what follows",
                "BAD_KEY",
            )
        return hidden

    def as_option(self) -> dict[str, str]:
        """Return the native driver's option. Do not bind it to a name: a traceback may show that."""
        return {"encryption_key": self._key if isinstance(self._key, str) else self._key.get_secret_value()}

    def is_same(self, other: EncryptionKey) -> bool:
        """Return whether both are the same key, in constant time."""
        return hmac.compare_digest(*(key.as_option()["encryption_key"].encode() for key in (self, other)))


def with_path(error: Error, path: str) -> Error:
    """Return the error, with the file's path where the file is the cause; `path` is "" for a database in memory."""
    if not path:
        return error
    if error.code == "SQLITE_CANTOPEN":
        return type(error)(f"{path}: the database cannot be opened: {why_not_opened(path)}", error.code)
    if error.code in _FILE_ERROR_CODES and path not in str(error):
        return type(error)(f"{path}: {error}", error.code)
    return error


def check_same_key(path: str, known: EncryptionKey | None, key: EncryptionKey | None) -> None:
    """Raise DatabaseError unless `key` equals the key with which this process has the file open; both may be None."""
    if known is None and key is None:
        return
    if known is not None and key is not None and known.is_same(key):
        return
    if known is None:
        problem = "this process has it open without a key, and a key was given"
    else:
        problem = f"this process has it open with {'a key, and none was given' if key is None else 'another key'}"
    raise DatabaseError(f"{path}: {problem}", "OTHER_KEY")
