"""The PEP 249 exception tree, and how an engine's message becomes one of them. Raises nothing by itself.

Warning
Error
 +-- InterfaceError          the connection or cursor cannot be used (closed, forked, broken)
 +-- DatabaseError           also: the file is damaged or is no database
      +-- DataError          a value that cannot be stored and read back whole
      +-- OperationalError   locked, full, read-only, no such table, cannot open
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


class IntegrityError(DatabaseError):
    """A constraint refused the write."""


class InternalError(DatabaseError):
    """The engine or the server contradicts itself."""


class ProgrammingError(DatabaseError):
    """The caller's mistake: parameters, several statements, a closed cursor."""


class NotSupportedError(DatabaseError):
    """The engine refuses this kind of statement."""


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
    ("vector:", DataError, "SQLITE_ERROR"),
    ("vector index(", DataError, "SQLITE_ERROR"),
    ("interrupted", OperationalError, "SQLITE_INTERRUPT"),
    ("bad parameter or other API misuse", InterfaceError, "SQLITE_MISUSE"),
)

BUSY_CODES = frozenset({"SQLITE_BUSY", "SQLITE_LOCKED"})


def from_message(message: str) -> Error:
    """The exception for an engine's bare error text. What is unknown is an OperationalError, as in `sqlite3`."""
    for text, kind, code in _BY_TEXT:
        if text in message:
            return kind(message, code)
    return OperationalError(message, "SQLITE_ERROR")
