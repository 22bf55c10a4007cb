"""What the exit code of the command says: one table."""

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
}

MEANINGS: dict[int, str] = {
    OK: "done",
    OTHER: "any other error",
    USAGE: "wrong usage",
    3: "settings, a URL or a path that cannot work",
    4: "bad input",
    5: "there is no such thing",
    6: "somebody else changed it first",
    7: "the database cannot do it now",
    8: "the schema is another version's",
    9: "a row or the file is damaged",
    BROKEN_RECORDS: "some records of an import were broken",
    11: "the line broke after a commit: it may be stored, or not",
    INTERRUPTED: "interrupted",
    BROKEN_PIPE: "whoever read the output went away",
}

EPILOG = "Exit codes: " + "; ".join(f"{code} {meaning}" for code, meaning in MEANINGS.items()) + "."


def code_of(error: errors.MemoryStorageError) -> int:
    """The exit code for an error: its class's, or the one of the class above."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), OTHER)
