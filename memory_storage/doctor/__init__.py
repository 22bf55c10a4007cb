"""Checks the integrity of a database, and repairs it without losing a row. No finding shows a stored value.

`check` changes nothing. `repair` rebuilds derived data, restores columns from their documents, and moves unusable rows,
unchanged, to tables `quarantined_...`.
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
from memory_storage.storage import MemoryStorage, candidate_source

from .checks import cycles, derived_indexes, documents, file, geo, learning, orphans, schema, vectors, words
from .findings import Finding, Report

__all__ = ["Finding", "Report", "check", "repair"]

__getattr__ = renamed_names(__name__, {"examine": "check", "mend": "repair"})

_log = logging.getLogger(__name__)

_Check = Callable[[Connection], list[Finding]]
_ROUNDS = 6


def _checks(settings: Settings) -> tuple[_Check, ...]:
    """Return the checks, in the order of their repairs: an index is rebuilt once its table is complete."""
    uses_diskann = candidate_source(settings) == "diskann"

    def stale_metadata(connection: Connection) -> list[Finding]:
        return vectors.stale_metadata(connection, uses_diskann=uses_diskann)

    def wrong_index(connection: Connection) -> list[Finding]:
        return vectors.wrong_index(connection, uses_diskann=uses_diskann)

    return (
        file.damaged_pages,
        stale_metadata,
        schema.missing_objects,
        documents.undecodable_rows,
        documents.unreadable_recalls,
        orphans.orphans,
        cycles.cyclic_relationships,
        documents.columns_that_disagree,
        orphans.misattributed_rows,
        geo.misplaced,
        vectors.orphaned_vectors,
        words.wrong_words,
        derived_indexes.wrong_facets,
        derived_indexes.wrong_full_text,
        derived_indexes.wrong_texts,
        derived_indexes.wrong_positions,
        vectors.wrong_counters,
        learning.wrong_counts,
        wrong_index,
    )


def check(settings: Settings) -> Report:
    """Check the integrity of a database. Nothing is changed.

    Args:
        settings: the settings of the database; a file has to exist.

    Returns:
        The report; it has no findings if the database is healthy.

    Raises:
        ConfigurationError: the file does not exist; a CredentialError if the key is missing or wrong.
        SchemaError: the database belongs to another program.
        CorruptDataError: the file is not a database, or too damaged to be read.
        UnavailableError: another writer holds the write lock for too long; checking full-text indexes needs it briefly.
    """
    with map_exceptions():
        engine, found = _opened(settings)
        try:
            only = _findings(engine, settings) if found == HEAD else _checked(engine, file.damaged_pages)
            return Report(_schema(found) + only)
        finally:
            engine.dispose()


def repair(settings: Settings) -> Report:
    """Repair what can be repaired, and check again. Make a backup first.

    Args:
        settings: the settings of the database; a file has to exist.

    Returns:
        What was repaired, and the findings that remain.

    Raises:
        ConfigurationError: the file does not exist; a CredentialError if the key is missing or wrong.
        SchemaError: the database belongs to another program.
        CorruptDataError: the file is not a database, or too damaged to be read.
        UnavailableError: the database cannot be written, or is being scrubbed or restored.
    """
    with map_exceptions():
        engine, found = _opened(settings)
        try:
            with MaintenanceLock(settings.path).exclusive(settings.request_timeout):
                report = _repair_all(engine, settings, found)
            if any(finding.code.startswith("vectors.") for finding in report.repaired):
                _index(engine, settings)
                return Report(_findings(engine, settings), repaired=report.repaired)
            return report
        finally:
            engine.dispose()


def _repair_all(engine: Engine, settings: Settings, found: str | None) -> Report:
    repaired = [finding for finding in _schema(found) if finding.can_repair]
    if repaired:
        migrate.upgrade(engine)
    elif found != HEAD:
        return Report(_schema(found))
    left: list[Finding] = []
    for _ in range(_ROUNDS):
        left = _findings(engine, settings)
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
        return migrate.check_ours(engine, settings.path, settings.key, local_engine=settings.required_engine)
    except SchemaError as error:
        if error.found is None:
            raise  # the file of another program
        return error.found


def _schema(found: str | None) -> list[Finding]:
    if found == HEAD:
        return []
    if found is not None and found > HEAD:
        problem = f"the schema {found} is newer than {HEAD}, the latest that this version of the package supports"
        return [Finding("schema.newer", "alembic_version", 1, problem, "upgrade the memory-storage package")]
    problem = f"the schema {found} is older than {HEAD}" if found else "there is no schema yet"
    return [Finding("schema.older", "alembic_version", 1, problem, "upgrade it", repair=lambda _: None)]


def _findings(engine: Engine, settings: Settings) -> list[Finding]:
    return [finding for check in _checks(settings) for finding in _checked(engine, check)]


def _checked(engine: Engine, check: _Check) -> list[Finding]:
    with engine.connect() as connection:
        try:
            return check(connection)
        except exc.DBAPIError as error:
            if isinstance(error.orig, dbapi.OperationalError) and error.orig.code not in {"SQLITE_ERROR", ""}:
                raise  # locked, full or unreachable: this is no evidence of damage
            name = check.__name__.replace("_", " ")
            return [
                Finding(
                    "unchecked", "", 1, f"{name} could not be checked: {error.orig}", "repair the other findings first"
                )
            ]
        finally:
            connection.rollback()


def _run_repair(engine: Engine, finding: Finding) -> bool:
    """Return whether the repair succeeded. After a failure, the next round has the finding again."""
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
    """Fill the vector indexes that repairs have emptied."""
    storage = MemoryStorage(engine, settings)
    for model in storage.embeddings.index.status():
        storage.embeddings.index.catch_up(model.name)
