"""The PEP 249 exception tree, and how an engine's message becomes one of them. Raises nothing by itself.

Warning
Error
 +-- InterfaceError          the connection or cursor cannot be used (closed, forked, broken)
 +-- DatabaseError           also: the file is damaged or is no database
      +-- DataError          a value that cannot be stored and read back whole
      +-- OperationalError   locked, full, read-only, no such table, cannot open, cannot be reached
      |    +-- OutcomeUnknownError   the line broke after a commit was sent
      |    +-- LineError             the way to the server failed
      |         +-- ResponseTooLargeError   the response exceeds a limit
      +-- IntegrityError     a constraint said no
      +-- InternalError      the engine contradicts itself
      +-- ProgrammingError   wrong number of parameters, two statements at once, closed
      +-- NotSupportedError  the engine knows it, but refuses it
"""

from __future__ import annotations


class Warning(Exception):  # noqa: A001, N818 - the name is PEP 249's
    """An important warning (PEP 249); this driver never issues one."""


class Error(Exception):
    """Any failure of the driver. `code` is the engine's symbolic result code, or "" where it gave none."""

    def __init__(self, message: str = "", code: str = "") -> None:
        super().__init__(message)
        self.code = code

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code)


class InterfaceError(Error):
    """The connection or cursor cannot be used: closed, broken, or opened in another process."""


class DatabaseError(Error):
    """The database itself is at fault: damaged, or not a database."""


class DataError(DatabaseError):
    """A value cannot be stored, or could not be read back whole."""


class OperationalError(DatabaseError):
    """The engine could not do it now or here: locked, full, read-only, missing table."""


class LineError(OperationalError):
    """The way to the server failed: `host`, `port` and `cause`, in words, say where and why."""

    def __init__(
        self, message: str = "", code: str = "", host: str = "", port: int | None = None, cause: str = ""
    ) -> None:
        super().__init__(message, code)
        self.host, self.port, self.cause = host, port, cause

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (str(self), self.code, self.host, self.port, self.cause)


class ResponseTooLargeError(LineError):
    """The server's response exceeds a limit; what is beyond the limit was not read.

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
    """What was sent may have been committed, or not, or may still be: the answer never came."""


class IntegrityError(DatabaseError):
    """A constraint refused the write."""


class InternalError(DatabaseError):
    """The engine or the server contradicts itself."""


class ProgrammingError(DatabaseError):
    """The caller's mistake: parameters, several statements, a closed cursor."""


class NotSupportedError(DatabaseError):
    """The engine refuses this kind of statement."""


def forget_frames(error: BaseException) -> None:
    """Take the tracebacks off an error, and off its causes: the locals of their frames hold a token."""
    found: list[BaseException | None] = [error]
    seen: set[int] = set()
    while found:
        one = found.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            one.__traceback__ = None
            found += (one.__cause__, one.__context__)


# The first text found in the message decides; the order matters where one text contains another.
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
    ("vectors must have the same length", DataError, "SQLITE_ERROR"),
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

# What a server says instead of, or in addition to, SQLite's text.
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
    """The exception for an error that a server names by a text and a code, which is often only a general one."""
    for prefix in _PREFIXES:
        message = message.removeprefix(prefix)
    if "unsupported statement" in message:
        return NotSupportedError(message, code)
    if "Transaction timed" in message:  # a replica spells it in another way than its primary
        return OperationalError(message, "TRANSACTION_TIMEOUT")
    known = from_message(message)
    if known.code != "SQLITE_ERROR" or code not in _BY_CODE:
        return known
    return _BY_CODE[code](message, code)


def from_message(message: str) -> Error:
    """The exception for an engine's bare error text. What is unknown is an OperationalError, as in `sqlite3`."""
    for text, kind, code in _BY_TEXT:
        if text in message:
            return kind(message, code)
    return OperationalError(message, "SQLITE_ERROR")
