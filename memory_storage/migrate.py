"""Check, upgrade and downgrade the schema of a database. Alembic is imported only when revisions are run."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, Engine, exc

from . import dbapi
from .dbapi import EncryptionKey
from .errors import SchemaError, ValidationError
from .schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

# Other programs that use Alembic may have a revision 0001 too: only ours comes with this table.
_REVISION = (
    "SELECT version_num, EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'spatiotemporal_index') FROM alembic_version"
)
_TABLES = "SELECT name FROM sqlite_master WHERE type = 'table'"
_OURS = {"alembic_version", "spatiotemporal_index"}


def current(engine: Engine) -> str | None:
    """Return the revision of the database; None if the database is empty.

    Raises:
        SchemaError: the database belongs to another program.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return _current(connection)


def check(engine: Engine) -> None:
    """Require the revision that this version reads and writes. Changes nothing.

    Raises:
        SchemaError: the database is empty, has another revision, or belongs to another program.
    """
    stored = current(engine)
    if stored != HEAD:
        raise _mismatch(stored)


def ensure(
    engine: Engine, path: Path | None = None, key: EncryptionKey | None = None, *, local_engine: str = "auto"
) -> None:
    """Create the schema in an empty database, or upgrade an older one. Runs one statement if there is nothing to do.

    Args:
        engine: the database.
        path: the file of the engine, if it has one.
        key: what the file is encrypted with.
        local_engine: what opens the file: "sqlite", "libsql" or "auto".

    Raises:
        SchemaError: the schema is newer than this version, or another program's. Nothing was changed.
    """
    stored = check_ours(engine, path, key, local_engine=local_engine)
    if stored is not None and stored != HEAD:
        prepare(engine)
    if stored != HEAD:
        _upgrade(engine, "head")


def check_ours(
    engine: Engine, path: Path | None = None, key: EncryptionKey | None = None, *, local_engine: str = "auto"
) -> str | None:
    """Return the revision of the database if this version knows it; None if the database is empty. Changes nothing.

    Args: as for `ensure`.

    Raises:
        SchemaError: the schema is newer than this version, or another program's.
    """
    if path is not None:
        return look(path, key, local_engine=local_engine)
    stored = current(engine)
    _refuse_unknown(stored)
    return stored


def look(path: Path, key: EncryptionKey | None = None, *, local_engine: str = "auto") -> str | None:
    """Return the revision of a file if this version knows it; None if the file is empty. Changes no byte of it.

    Args:
        path: the file.
        key: what it is encrypted with.
        local_engine: what opens it: "sqlite", "libsql" or "auto".

    Raises:
        SchemaError: the schema is newer than this version, or another program's.
    """
    # Not a connection of the engine: those write into the file to turn on write-ahead logging, and the file may
    # be another program's.
    connection = dbapi.connect(str(path.absolute()), encryption_key=key, local_engine=local_engine, configure=False)
    connection.autocommit = True
    try:
        stored = _current(connection)
        _refuse_unknown(stored)
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}", found=error.found, expected=error.expected) from None
    finally:
        connection.close()
    return stored


def upgrade(engine: Engine, revision: str = "head", *, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Run the revisions up to `revision`, in one transaction. Processes that upgrade concurrently wait for it.

    What takes long in a large database is done before, in many short transactions, while programs of the version before
    can read and write. If it is interrupted, the next call resumes it.

    Args:
        engine: the database.
        revision: the one to go to, like "0005"; "head" for the newest.
        progress: called with what is done, and how many of how many rows of it.

    Raises:
        SchemaError: the schema is newer than this version, or another program's.
        ValidationError: there is no such revision.
    """
    prepare(engine, revision, progress=progress)
    _upgrade(engine, revision)


def _upgrade(engine: Engine, revision: str) -> None:
    with writing(engine) as connection:
        _refuse_unknown(_current(connection))
        _run(connection, "upgrade", revision)


def prepare(engine: Engine, revision: str = "head", *, progress: Callable[[str, int, int], None] | None = None) -> None:
    """Run what revisions do in many short transactions before their own one. The next call resumes an interrupted one.

    Args: as for `upgrade`.

    Raises:
        SchemaError: the schema is newer than this version, or another program's.
    """
    from alembic.script import ScriptDirectory

    last = HEAD if revision in {"head", "heads"} else revision
    scripts = reversed(list(ScriptDirectory.from_config(config()).walk_revisions()))
    prepared = [script for script in scripts if hasattr(script.module, "prepare") and script.revision <= last]
    stored = current(engine) if prepared else None
    if stored is None:
        return
    _refuse_unknown(stored)
    for script in prepared:
        if stored < script.revision:
            with writing(engine) as connection:
                if (_current(connection) or "") < str(script.down_revision):
                    _run(connection, "upgrade", str(script.down_revision))
            for done, total in script.module.prepare(engine):
                if progress is not None:
                    progress(f"revision {script.revision}", done, total)


def downgrade(engine: Engine, revision: str) -> None:
    """Undo the revisions after `revision`, in one transaction. What they store is lost: see `schema.revisions`.

    Args:
        engine: the database. `MemoryStorage.open` by this version of the package upgrades it again.
        revision: the one to go back to, like "0005"; "base" for none, which drops every table.

    Raises:
        SchemaError: there are rows that the older schema has no place for. Nothing was changed.
        ValidationError: there is no such revision, or it is not an earlier one.
    """
    with writing(engine) as connection:
        _refuse_unknown(_current(connection))
        _run(connection, "downgrade", revision)


def undone_by_downgrade(stored: str, revision: str) -> list[str]:
    """Return the revisions that a downgrade from `stored` to `revision` undoes, the newest first.

    Args:
        stored: the revision of the database.
        revision: an earlier one, or "base" for none.

    Raises:
        ValidationError: there is no such revision, or it is not an earlier one.
    """
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(config()).iterate_revisions(stored, "base")
    ids = [script.revision for script in scripts]
    if revision == "base":
        return ids
    if revision not in ids[1:]:
        raise ValidationError("revision", f"must be one before {stored}, which is stored, or base", revision)
    return ids[: ids.index(revision)]


def config() -> Config:
    """Return Alembic's configuration for the revisions of this package."""
    from alembic.config import Config

    config = Config(stdout=sys.stdout)  # its default is what stdout was when Alembic was imported
    config.set_main_option("script_location", str(_script_directory()).replace("%", "%%"))
    return config


def _script_directory() -> Path:
    """Return the directory of the revisions: in the package of a wheel, next to the package in a checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """Open a connection whose transaction may change the schema. Foreign keys are not enforced until it ends.

    SQLite changes most tables by copying and dropping them, and a drop would delete the rows that refer to the table.
    `migrations/env.py` checks the foreign keys before the commit.
    """
    with engine.connect().execution_options(libsql_begin="IMMEDIATE") as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # has no effect within a transaction
        connection.rollback()  # the engine has none open, but SQLAlchemy counts from the first statement
        try:
            yield connection
        finally:
            _enforce_foreign_keys(connection)


def _enforce_foreign_keys(connection: Connection) -> None:
    connection.rollback()
    if connection.connection.dbapi_connection.is_remote:  # type: ignore[union-attr]
        connection.invalidate()  # a new connection has them on; this one may have lost its server
    else:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.rollback()


def check_foreign_keys(connection: Connection) -> None:
    """Check that every foreign key refers to a row.

    Raises:
        SchemaError: some do not.
    """
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        tables = sorted({str(row[0]) for row in broken})
        raise SchemaError(
            f"{len(broken)} rows of {', '.join(tables)} refer to rows that are not there: nothing was changed"
        )


def _current(connection: Connection | dbapi.Connection) -> str | None:
    try:
        row = _revision(connection)
    except (exc.OperationalError, dbapi.OperationalError) as error:
        if "no such table" not in str(error):
            raise
        connection.rollback()  # gives up the read lock, so that the next statement waits for a writer
        row = None
    if row is not None and row[1]:
        return str(row[0])
    tables = {str(name) for (name,) in _rows(connection, _TABLES)}
    if row is None and tables >= _OURS:  # another process has created them since the first statement
        row = _revision(connection)
    if row is None or not row[1]:
        _refuse_foreign(tables)
    return str(row[0]) if row else None


def _revision(connection: Connection | dbapi.Connection) -> Sequence[Any] | None:
    rows = _rows(connection, _REVISION)
    if len(rows) > 1:
        raise exc.MultipleResultsFound("alembic_version has several rows")
    return rows[0] if rows else None


def _rows(connection: Connection | dbapi.Connection, sql: str) -> Sequence[Sequence[Any]]:
    if isinstance(connection, Connection):
        return connection.exec_driver_sql(sql).all()
    return connection.execute(sql).fetchall()


def _refuse_foreign(tables: set[str]) -> None:
    names = sorted(name for name in tables - {"alembic_version"} if not name.startswith(("sqlite_", "libsql_")))
    if names:
        raise SchemaError(
            f"this database belongs to another program (it has the tables {', '.join(names[:5])}): choose another one",
            expected=HEAD,
        )


def _refuse_unknown(stored: str | None) -> None:
    if stored in {None, HEAD}:  # without importing Alembic
        return
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if stored not in known:
        raise _mismatch(stored)


def _mismatch(stored: str | None) -> SchemaError:
    if stored is None:
        advice = "it has no schema yet: run `memory-storage upgrade`"
    elif stored < HEAD:
        advice = f"its schema {stored} is older than {HEAD}: run `memory-storage upgrade`"
    else:
        advice = f"its schema {stored} is newer than {HEAD}: upgrade the memory-storage package"
    return SchemaError(f"this database cannot be used as it is: {advice}", found=stored, expected=HEAD)


def _run(connection: Connection, command: str, revision: str) -> None:
    from alembic import command as commands
    from alembic.util import CommandError

    settings = config()
    settings.attributes["connection"] = connection
    try:
        getattr(commands, command)(settings, revision)
    except CommandError as error:
        raise ValidationError("revision", f"must be one that this version knows ({error})", revision) from error
    connection.commit()
