"""The PEP 249 exception tree, and the mapping of the engine's messages to it.

Warning
Error
 +-- InterfaceError          the connection or cursor cannot be used (closed, forked, broken)
 +-- DatabaseError           also: the file is damaged or is no database
      +-- DataError          a value that cannot be stored and read back whole
      +-- OperationalError   locked, full, read-only, no such table, cannot open, cannot be reached
      |    +-- OutcomeUnknownError   the connection broke after a commit was sent
      |    +-- LineError             the connection to the server failed
      |         +-- ResponseTooLargeError   the response exceeds a limit
      +-- IntegrityError     a constraint was violated
      +-- InternalError      the engine contradicts itself
      +-- ProgrammingError   wrong number of parameters, two statements at once, closed
      +-- NotSupportedError  the engine refuses this kind of statement
"""

from __future__ import annotations


class Warning(Exception):  # noqa: A001, N818 - the name is PEP 249's
    """An important warning (PEP 249); this driver never issues one."""


class Error(Exception):
    """The base class of the driver's errors. `code` is a symbolic code of the engine or this driver, or ""."""

    def __init__(self, message: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code)


class InterfaceError(Error):
    """The connection or cursor cannot be used: closed, broken, or opened in another process."""


class DatabaseError(Error):
    """The database is damaged, or the file is not a database."""


class DataError(DatabaseError):
    """A value cannot be stored, or could not be read back unchanged."""


class OperationalError(DatabaseError):
    """A condition of the database or the server: locked, full, read-only, missing table, unreachable."""


class LineError(OperationalError):
    """The connection to the server failed: at `host` and `port`, for the `cause` in words."""

    def __init__(
        self, message: str = "", code: str = "", host: str = "", port: int | None = None, cause: str = ""
    ) -> None:
        super().__init__(message, code)
        self.host, self.port, self.cause = host, port, cause

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code, self.host, self.port, self.cause)


class ResponseTooLargeError(LineError):
    """The server's response exceeds a limit; the rest of it was not read.

    `limit` and `value` are bytes; `value` is the size that the server announced, or None where it announced none.
    `setting` is the option of `connect` that holds the limit, or "" where it is fixed.
    """

    limit: int = 0
    value: int | None = None
    setting: str = ""

    def __reduce__(self) -> tuple[object, ...]:
        rebuild, arguments = super().__reduce__()
        return rebuild, arguments, {"limit": self.limit, "value": self.value, "setting": self.setting}


class OutcomeUnknownError(OperationalError):
    """The acknowledgement is missing: the write may have been committed, or may still be."""


class IntegrityError(DatabaseError):
    """A constraint was violated."""


class InternalError(DatabaseError):
    """The engine or the server violated its own protocol."""


class ProgrammingError(DatabaseError):
    """A mistake of the caller: parameters, several statements, a closed cursor."""


class NotSupportedError(DatabaseError):
    """The engine refuses this kind of statement."""


def forget_frames(error: BaseException) -> None:
    """Remove the tracebacks of an error and of its causes: the locals of their frames hold a token."""
    # A worklist with a set of the visited: causes and contexts may form cycles.
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            found += (one.__cause__, one.__context__)


# The engine reports errors as text only. The first entry found in the message decides: the order matters where one text
# contains another.
_BY_TEXT: tuple[tuple[str, type[Error], str], ...] = (
    ("UNIQUE constraint failed", IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
    ("FOREIGN KEY constraint failed", IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY"),
    ("NOT NULL constraint failed", IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
    ("CHECK constraint failed", IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
    ("constraint failed", IntegrityError, "SQLITE_CONSTRAINT"),
    ("datatype mismatch", IntegrityError, "SQLITE_MISMATCH"),
    ("cannot store ", IntegrityError, "SQLITE_CONSTRAINT_DATATYPE"),
    ("table is locked", OperationalError, "SQLITE_LOCKED"),
    ("schema is locked", OperationalError, "SQLITE_LOCKED"),
    ("database is locked", OperationalError, "SQLITE_BUSY"),
    ("disk is full", OperationalError, "SQLITE_FULL"),
    ("readonly database", OperationalError, "SQLITE_READONLY"),
    ("disk I/O error", OperationalError, "SQLITE_IOERR"),
    ("unable to open database file", OperationalError, "SQLITE_CANTOPEN"),
    ("Unable to open connection to local database", OperationalError, "SQLITE_CANTOPEN"),
    ("malformed database schema", DatabaseError, "SQLITE_CORRUPT"),
    ("disk image is malformed", DatabaseError, "SQLITE_CORRUPT"),
    ("file is not a database", DatabaseError, "SQLITE_NOTADB"),
    ("string or blob too big", DataError, "SQLITE_TOOBIG"),
    ("dimensions are different", DataError, "SQLITE_ERROR"),
    ("vector_distance:", DataError, "SQLITE_ERROR"),
    ("Error reading 1st vector:", DataError, "SQLITE_ERROR"),
    ("Error reading 2nd vector:", DataError, "SQLITE_ERROR"),
    ("Vector dimension ", DataError, "SQLITE_ERROR"),
    ("vector:", DataError, "SQLITE_ERROR"),
    ("vector index(search): index not found", DatabaseError, "VECTOR_INDEX"),
    ("vector index(search): failed", DatabaseError, "VECTOR_INDEX"),
    ("vector index(insert): failed", DatabaseError, "VECTOR_INDEX"),
    ("vector index(delete): failed", DatabaseError, "VECTOR_INDEX"),
    ("vector index(", DataError, "SQLITE_ERROR"),
    ("interrupted", OperationalError, "SQLITE_INTERRUPT"),
    ("bad parameter or other API misuse", InterfaceError, "SQLITE_MISUSE"),
)

BUSY_CODES = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"})

# Codes of a server, for messages without a known text.
_BY_CODE: dict[str, type[Error]] = {
    "TRANSACTION_TIMEOUT": OperationalError,
    "TRANSACTION_BUSY": OperationalError,
    "STREAM_EXPIRED": OperationalError,
    "RESPONSE_TOO_LARGE": DataError,
    "ARGS_INVALID": ProgrammingError,
    "SQL_MANY_STATEMENTS": ProgrammingError,
    "SQL_NO_STATEMENT": ProgrammingError,
    "BLOCKED": OperationalError,
    "SQLITE_TOOBIG": DataError,
    "SQLITE_MISMATCH": IntegrityError,
    "SQLITE_CONSTRAINT": IntegrityError,
    "SQLITE_BUSY": OperationalError,
    "SQLITE_LOCKED": OperationalError,
    "SQLITE_FULL": OperationalError,
    "SQLITE_READONLY": OperationalError,
    "SQLITE_IOERR": OperationalError,
    "SQLITE_CANTOPEN": OperationalError,
    "SQLITE_INTERRUPT": OperationalError,
    "SQLITE_SCHEMA": OperationalError,
    "SQLITE_CORRUPT": DatabaseError,
    "SQLITE_NOTADB": DatabaseError,
    "SQLITE_INTERNAL": InternalError,
    "SQLITE_NOTFOUND": InternalError,
    "SQLITE_MISUSE": InterfaceError,
    "SQLITE_RANGE": InterfaceError,
}
_PREFIXES = ("error executing a request on the primary: ", "SQLite error: ", "SQL input error: ")


def from_server(message: str, code: str) -> Error:
    """Return the exception for a server's message and code. The code is often a general one, so the message decides."""
    for prefix in _PREFIXES:
        message = message.removeprefix(prefix)
    if "unsupported statement" in message:
        return NotSupportedError(message, code)
    if "Transaction timed" in message:  # a replica's message differs from its primary's
        return OperationalError(message, "TRANSACTION_TIMEOUT")
    known = from_message(message)
    if known.code != "SQLITE_ERROR" or code not in _BY_CODE:
        return known
    return _BY_CODE[code](message, code)


# Result codes of SQLite: <https://sqlite.org/rescode.html>.
_BY_RESULT: dict[int, tuple[type[Error], str]] = {
    3: (OperationalError, "SQLITE_PERM"),
    4: (OperationalError, "SQLITE_ABORT"),
    5: (OperationalError, "SQLITE_BUSY"),
    6: (OperationalError, "SQLITE_LOCKED"),
    7: (OperationalError, "SQLITE_NOMEM"),
    8: (OperationalError, "SQLITE_READONLY"),
    9: (OperationalError, "SQLITE_INTERRUPT"),
    10: (OperationalError, "SQLITE_IOERR"),
    11: (DatabaseError, "SQLITE_CORRUPT"),
    13: (OperationalError, "SQLITE_FULL"),
    14: (OperationalError, "SQLITE_CANTOPEN"),
    15: (OperationalError, "SQLITE_PROTOCOL"),
    17: (OperationalError, "SQLITE_SCHEMA"),
    18: (DataError, "SQLITE_TOOBIG"),
    19: (IntegrityError, "SQLITE_CONSTRAINT"),
    20: (IntegrityError, "SQLITE_MISMATCH"),
    21: (InterfaceError, "SQLITE_MISUSE"),
    25: (InterfaceError, "SQLITE_RANGE"),
    26: (DatabaseError, "SQLITE_NOTADB"),
    275: (IntegrityError, "SQLITE_CONSTRAINT_CHECK"),
    787: (IntegrityError, "SQLITE_CONSTRAINT_FOREIGNKEY"),
    1299: (IntegrityError, "SQLITE_CONSTRAINT_NOTNULL"),
    1555: (IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),  # of a primary key
    2067: (IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),
    2579: (IntegrityError, "SQLITE_CONSTRAINT_UNIQUE"),  # of a rowid
    3091: (IntegrityError, "SQLITE_CONSTRAINT_DATATYPE"),
}


def from_result(result: int, message: str) -> Error:
    """Return the exception for an extended result code; a general one (SQLITE_ERROR) is decided by the message."""
    kind, code = _BY_RESULT.get(result) or _BY_RESULT.get(result & 0xFF) or (None, "")
    return from_message(message) if kind is None else kind(message, code)


def from_message(message: str) -> Error:
    """Return the exception for an engine's message; OperationalError for an unknown one, as in `sqlite3`."""
    for text, kind, code in _BY_TEXT:
        if text in message:
            return kind(message, code)
    return OperationalError(message, "SQLITE_ERROR")
