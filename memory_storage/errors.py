"""What callers catch. Nothing else leaves the package; the first cause is always chained.

MemoryStorageError
 +-- ConfigurationError          settings, URLs and paths that cannot work
 |    +-- InsecureConnectionError    the connection would not be encrypted
 |    +-- CredentialError            no token or key, or one that is refused
 |         +-- TokenExpiredError
 +-- ValidationError             bad input; also a ValueError. Nothing was stored
 +-- NotFoundError               no such row in this namespace; also a LookupError
 +-- ConflictError               somebody else changed it first. Nothing was stored
 +-- UnavailableError            not now: locked, full, unreachable
 |    +-- CircuitOpenError
 |    +-- PoolTimeoutError
 |    +-- RequestTimeoutError
 |    +-- ResponseTooLargeError
 +-- CommitUnknownError          the line broke after COMMIT: it may be stored, or not
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
    """The connection would not be encrypted, so it is not made."""


class CredentialError(ConfigurationError):
    """A token is missing, or the server refuses it; or it is the key of an encrypted file that is missing or wrong."""


class TokenExpiredError(CredentialError):
    """The token's time is over."""


class ValidationError(MemoryStorageError, ValueError):
    """Bad input. `field` is where (like `steps.3.latency_ms`), `limit` what it broke, `value` what was given.

    `setting` names the setting that holds the limit, where there is one.
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
    """Another writer was first. `expected` is the version that was given, `actual` the one that is stored.

    `actual` is None where nothing is stored. The message ends with `advice`: what to do next.
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


class UnavailableError(MemoryStorageError):
    """The database cannot do it now. `code` is the engine's result code where it gave one.

    Where the way to a server failed, `host` and `port` say which server, and `cause` says why, in words. `attempts` is
    how many times the call was tried.
    """

    attempts: int = 1
    host: str | None = None
    port: int | None = None
    cause: str | None = None

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class CircuitOpenError(UnavailableError):
    """The circuit breaker is open: the database was not asked. Come back in `retry_after` seconds."""

    def __init__(self, message: str, *, code: str = "", retry_after: float = 0.0) -> None:
        super().__init__(message, code=code)
        self.retry_after = retry_after


class PoolTimeoutError(UnavailableError):
    """No connection of the pool came free in time. `holders` says who has them: thread, seconds and statement."""

    def __init__(self, message: str, *, code: str = "", holders: Sequence[object] = ()) -> None:
        super().__init__(message, code=code)
        self.holders = list(holders)


class RequestTimeoutError(UnavailableError):
    """A request took longer than it may."""


class ResponseTooLargeError(UnavailableError):
    """A server's response exceeds `limit` bytes, decompressed. The rest was not read, and the call is not repeated.

    `value` is the size that the server announced, or None; `setting` names the setting that holds the limit, where it
    is one. A write whose response is too large may be stored: its receipt decides.
    """

    def __init__(
        self, message: str, *, code: str = "", limit: int = 0, value: int | None = None, setting: str | None = None
    ) -> None:
        super().__init__(message, code=code)
        self.limit, self.value, self.setting = limit, value, setting


class CommitUnknownError(MemoryStorageError):
    """The line broke after a commit was sent: it may have been stored, or not."""


class SchemaError(MemoryStorageError):
    """The schema is not what this version of the package knows. `found` and `expected` are revisions."""

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
    """The value, or its repr where it cannot travel: a caller's value may be anything."""
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
