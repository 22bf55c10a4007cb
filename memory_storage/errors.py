"""The exception hierarchy. The package raises nothing else; the original cause is always chained.

MemoryStorageError
 +-- ConfigurationError          settings, URLs and paths that cannot work
 |    +-- InsecureConnectionError    the connection would not be encrypted
 |    +-- CredentialError            a missing or rejected token or key
 |         +-- TokenExpiredError
 +-- ValidationError             bad input; also a ValueError. Nothing was stored
 +-- NotFoundError               no such row in this namespace; also a LookupError
 +-- ConflictError               version conflict with another writer. Nothing was stored
 +-- ServerChangedError          a file is not synchronized with another server than before
 +-- UnavailableError            not now: locked, full, unreachable
 |    +-- CircuitOpenError
 |    +-- PoolTimeoutError
 |    +-- RequestTimeoutError
 |    +-- ResponseTooLargeError
 +-- CommitUnknownError          the connection failed during COMMIT; the outcome is unknown
 +-- SchemaError                 the database's schema is not this version's
 +-- CorruptDataError            a row, or the file, cannot be read
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from typing import Any


class MemoryStorageError(Exception):
    """The base of every error of this package. Facts are attributes; all of them survive pickling."""

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.args, self.__dict__)


class ConfigurationError(MemoryStorageError):
    """Settings, a URL or a path that cannot work."""


class InsecureConnectionError(ConfigurationError):
    """The connection would not be encrypted; it was not opened."""


class CredentialError(ConfigurationError):
    """A token is missing or rejected by the server, or the key of an encrypted file is missing or wrong."""


class TokenExpiredError(CredentialError):
    """The token has expired."""


class ValidationError(MemoryStorageError, ValueError):
    """Invalid input; nothing was stored.

    `field` is the path of the input (like `steps.3.latency_ms`), `limit` the rule that it broke, `value` the input, and
    `setting` the name of the setting of the limit, or None.
    """

    def __init__(self, field: str, limit: object, value: object, *, setting: str | None = None) -> None:
        advice = f" (setting: {setting})" if setting else ""
        super().__init__(f"{field or 'input'}: {limit}; got {_short(value)}{advice}")
        self.field, self.limit, self.value, self.setting = field, limit, value, setting

    def __reduce__(self) -> tuple[Any, ...]:
        rebuild, (kind, args, facts) = super().__reduce__()
        return rebuild, (kind, args, {**facts, "value": _picklable(self.value)})


class NotFoundError(MemoryStorageError, LookupError):
    """There is no such row in this namespace. `kind` is "episode", "step", "pattern", ...; `id` its id."""

    def __init__(self, kind: str, id: object) -> None:  # noqa: A002 - the model's own word
        super().__init__(f"no {kind} {id} in this namespace")
        self.kind, self.id = kind, id


class ConflictError(MemoryStorageError):
    """Another writer has changed the row; nothing was stored.

    `expected` is the caller's version, `actual` the stored one, or None if no row is stored. The message ends with
    `advice`, the remedy.
    """

    def __init__(
        self,
        kind: str,
        id: object,  # noqa: A002 - the model's own word
        *,
        expected: int,
        actual: int | None,
        detail: str = "",
        advice: str = "load it again and repeat the change",
    ) -> None:
        what = kind if id is None else f"{kind} {id}"
        super().__init__(f"{what}: {detail or f'version {expected} was given, version {actual} is stored'}; {advice}")
        self.kind, self.id, self.expected, self.actual = kind, id, expected, actual


class ServerChangedError(MemoryStorageError):
    """The server is not the one that this file was synchronized with: another, or restored from an older copy."""


class UnavailableError(MemoryStorageError):
    """The database is locked, full or unreachable now. `code` is the result code of the engine or the driver.

    If the connection to a server failed, `host` and `port` name the server, and `cause` describes why. `attempts` is
    the number of attempts that were made.
    """

    attempts: int = 1
    host: str | None = None
    port: int | None = None
    cause: str | None = None

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CircuitOpenError(UnavailableError):
    """The circuit breaker is open; nothing was sent. Retry after `retry_after` seconds."""

    def __init__(self, message: str, *, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class PoolTimeoutError(UnavailableError):
    """No connection of the pool was free in time. `holders` lists thread, seconds and statement of each one in use."""

    def __init__(self, message: str, *, code: str = "", holders: Sequence[object] = ()) -> None:
        super().__init__(message, code=code)
        self.holders = list(holders)


class RequestTimeoutError(UnavailableError):
    """A request took longer than the setting `request_timeout`."""


class ResponseTooLargeError(UnavailableError):
    """A server's response exceeds `limit` bytes, decompressed. The rest was not read, and the call is not retried.

    `value` is the size that the server announced, or None; `setting` names the setting of the limit, or is None. A
    write whose response is too large may have been committed: its receipt decides.
    """

    def __init__(
        self, message: str, *, code: str = "", limit: int = 0, value: int | None = None, setting: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.limit, self.value, self.setting = limit, value, setting


class CommitUnknownError(MemoryStorageError):
    """The connection failed after a commit was sent: it may have been committed, or not.

    With the `code` "RESULT_LOST" it was committed, and only its result was lost with the response.
    """

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class SchemaError(MemoryStorageError):
    """The schema is not the one of this version of the package. `found` and `expected` are revisions."""

    def __init__(self, message: str, *, found: str | None = None, expected: str | None = None) -> None:
        super().__init__(message)
        self.found, self.expected = found, expected


class CorruptDataError(MemoryStorageError):
    """A row cannot be decoded, or the file is damaged. `table` and `id` name the row."""

    def __init__(self, message: str, *, table: str = "", id: object = None) -> None:  # noqa: A002
        super().__init__(message)
        self.table, self.id = table, id


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - a caller's value: nested too deep, more digits than Python prints, its own
        return f"a {type(value).__name__}"
    return text if len(text) <= 80 else f"{text[:60]}... ({len(text)} characters)"


def _picklable(value: object) -> object:
    """Return the value, or its repr if it cannot be pickled: a caller's value may be anything."""
    try:
        pickle.dumps(value)
    except Exception:  # noqa: BLE001 - whatever its own __reduce__ raises
        return repr(value)
    return value


def _rebuild(kind: type[MemoryStorageError], args: tuple[Any, ...], facts: dict[str, Any]) -> MemoryStorageError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error
