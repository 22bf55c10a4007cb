"""Finds out what is wrong with a database, says it, and mends it without losing a row. Shows no stored value.

`check` only looks. `repair` repairs what it can: what can be made anew is made anew, what repeats a document is taken
from the document, and a row that cannot be used is moved to a table of its own, `quarantined_...`, as it is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from sqlalchemy import Connection, Engine, exc

from memory_storage import dbapi, migrate
from memory_storage._deprecation import renamed_names
from memory_storage._exception_mapping import map_exceptions
from memory_storage._files import MaintenanceLock
from memory_storage.engine import make_engine
from memory_storage.errors import ConfigurationError, MemoryStorageError, SchemaError, UnavailableError
from memory_storage.schema import HEAD
from memory_storage.settings import Settings
from memory_storage.storage import MemoryStorage

from .checks import derived_indexes, documents, file, geo, orphans, schema, vectors, words
from .findings import Finding, Report

__all__ = ["Finding", "Report", "check", "repair"]

__getattr__ = renamed_names(__name__, {"examine": "check", "mend": "repair"})

_log = logging.getLogger(__name__)

_Check = Callable[[Connection], list[Finding]]
_ROUNDS = 6

# In this order they are also repaired: an index can be made when its table is whole, and its rows can be read.
_CHECKS: tuple[_Check, ...] = (
    file.damaged_pages,
    vectors.stale_metadata,
    schema.missing_objects,
    documents.undecodable_rows,
    orphans.orphans,
    documents.columns_that_disagree,
    orphans.misattributed_rows,
    geo.misplaced,
    vectors.orphaned_vectors,
    words.wrong_words,
    derived_indexes.wrong_facets,
    derived_indexes.wrong_full_text,
    derived_indexes.wrong_positions,
    vectors.wrong_counters,
    vectors.wrong_index,
)


def check(settings: Settings) -> Report:
    """What is wrong with a database. Nothing is changed.

    Raises:
        ConfigurationError: there is no such file; a CredentialError if it is the key that is missing or wrong.
        SchemaError: it is another program's.
        CorruptDataError: the file is no database, or so damaged that nothing can be read.
        UnavailableError: another writer has it for too long: to compare the full text takes the lock for a moment.
    """
    with map_exceptions():
        engine, found = _opened(settings)
        try:
            return Report(_schema(found) + (_findings(engine) if found == HEAD else _checked(engine, _CHECKS[0])))
        finally:
            engine.dispose()


def repair(settings: Settings) -> Report:
    """Repair what can be, and look again: `Report.repaired` says what was done, `Report.findings` what is left.

    Raises: as `check`, and UnavailableError where the database cannot be written, or is scrubbed or restored.
    """
    with map_exceptions():
        engine, found = _opened(settings)
        try:
            with MaintenanceLock(settings.path).exclusive(settings.request_timeout):
                report = _repair_all(engine, found)
            if any(finding.code.startswith("vectors.") for finding in report.repaired):
                _index(engine, settings)
                return Report(_findings(engine), repaired=report.repaired)
            return report
        finally:
            engine.dispose()


def _repair_all(engine: Engine, found: str | None) -> Report:
    repaired = [finding for finding in _schema(found) if finding.can_repair]
    if repaired:
        migrate.upgrade(engine)
    elif found != HEAD:
        return Report(_schema(found))
    left: list[Finding] = []
    for _ in range(_ROUNDS):
        left = _findings(engine)
        done = [finding for finding in left if finding.repair is not None and _run_repair(engine, finding)]
        repaired += done
        if not done:
            break
    return Report(left, repaired=repaired)


def _opened(settings: Settings) -> tuple[Engine, str | None]:
    if settings.path is not None and not settings.path.exists():
        raise ConfigurationError(f"there is no database {settings.database!r}")
    engine = make_engine(settings)
    try:
        return engine, _revision(engine, settings)
    except BaseException:
        engine.dispose()
        raise


def _revision(engine: Engine, settings: Settings) -> str | None:
    try:
        return migrate.check_ours(engine, settings.path, settings.key)
    except SchemaError as error:
        if error.found is None:
            raise  # another program's
        return error.found


def _schema(found: str | None) -> list[Finding]:
    if found == HEAD:
        return []
    if found is not None and found > HEAD:
        problem = f"its schema {found} is newer than {HEAD}, the one that this version knows"
        return [Finding("schema.newer", "alembic_version", 1, problem, "upgrade the memory-storage package")]
    problem = f"its schema {found} is older than {HEAD}" if found else "it has no schema yet"
    return [Finding("schema.older", "alembic_version", 1, problem, "upgrade it", repair=lambda _: None)]


def _findings(engine: Engine) -> list[Finding]:
    return [finding for check in _CHECKS for finding in _checked(engine, check)]


def _checked(engine: Engine, check: _Check) -> list[Finding]:
    with engine.connect() as connection:
        try:
            return check(connection)
        except exc.DBAPIError as error:
            if isinstance(error.orig, dbapi.OperationalError) and error.orig.code not in {"SQLITE_ERROR", ""}:
                raise  # locked, full, unreachable: that says nothing about what is stored
            name = check.__name__.replace("_", " ")
            return [Finding("unchecked", "", 1, f"{name} cannot be looked for: {error.orig}", "mend the rest first")]
        finally:
            connection.rollback()


def _run_repair(engine: Engine, finding: Finding) -> bool:
    """Whether it was done. One that fails is left, as it is found again in the next round."""
    if finding.repair is None:
        return False
    try:
        with map_exceptions(engine), migrate.writing(engine) as connection:
            finding.repair(connection)
            connection.commit()
    except UnavailableError:
        raise  # locked, full or read-only: nothing can be repaired now
    except MemoryStorageError as error:
        _log.warning("%s could not be repaired: %s", finding.code, error)
        return False
    return True


def _index(engine: Engine, settings: Settings) -> None:
    """Fill the vector indexes that were emptied."""
    storage = MemoryStorage(engine, settings)
    for model in storage.embeddings.index.status():
        storage.embeddings.index.catch_up(model.name)
