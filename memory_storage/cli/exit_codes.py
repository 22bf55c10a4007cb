"""The exit codes of the command, and the errors that they stand for."""

from __future__ import annotations

from memory_storage import errors

OK = 0
OTHER = 1
USAGE = 2
UNAVAILABLE = 7
DAMAGED = 9
BROKEN_RECORDS = 10
INTERRUPTED = 130
BROKEN_PIPE = 141

CODES: dict[type[errors.MemoryStorageError], int] = {
    errors.ConfigurationError: 3,
    errors.ValidationError: 4,
    errors.NotFoundError: 5,
    errors.ConflictError: 6,
    errors.UnavailableError: UNAVAILABLE,
    errors.SchemaError: 8,
    errors.CorruptDataError: DAMAGED,
    errors.CommitUnknownError: 11,
    errors.ServerChangedError: 12,
}

MEANINGS: dict[int, str] = {
    OK: "success",
    OTHER: "any other error",
    USAGE: "wrong usage",
    3: "invalid settings, URL or path",
    4: "invalid input",
    5: "not found",
    6: "conflict: another writer changed it first",
    7: "database unavailable",
    8: "schema of another version",
    9: "damaged row or file",
    BROKEN_RECORDS: "some records of an import were invalid",
    11: "connection lost during a commit: it may or may not be stored",
    12: "the server is not the one that the file was synchronized with",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "the reader of the output closed it",
}

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."


def code_of(error: errors.MemoryStorageError) -> int:
    """Return the exit code of the error's class, or of its nearest base class that has one."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), OTHER)
