"""Bring a database's schema to the revision that this code knows, by Alembic, which is loaded only for that."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, exc, text
from sqlalchemy.pool import NullPool

from . import dbapi
from .dbapi import EncryptionKey
from .errors import SchemaError, ValidationError
from .schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

# Other programs have a revision 0001 too: ours comes with our tables.
_REVISION = text(
    "SELECT version_num, EXISTS (SELECT 1 FROM sqlite_master WHERE name = 'spatiotemporal_index') FROM alembic_version"
)
_TABLES = text("SELECT name FROM sqlite_master WHERE type = 'table'")
_OURS = {"alembic_version", "spatiotemporal_index"}


def current(engine: Engine) -> str | None:
    """The revision of the database; None if it is empty. SchemaError if it is somebody else's."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        return _current(connection)


def check(engine: Engine) -> None:
    """SchemaError, saying what to do, unless the database has this code's revision. Changes nothing."""
    found = current(engine)
    if found != HEAD:
        raise _mismatch(found)


def ensure(engine: Engine, path: Path | None = None, key: EncryptionKey | None = None) -> None:
    """Make an empty database ready, and check one that is not. An older one is upgraded; a newer one is refused.

    For one that is ready this is one statement. `path` is the engine's file, if that is where it is, and `key` is what
    it is encrypted with.
    """
    if check_ours(engine, path, key) != HEAD:
        upgrade(engine)


def check_ours(engine: Engine, path: Path | None = None, key: EncryptionKey | None = None) -> str | None:
    """The revision of the database; None if it is empty. SchemaError if it is somebody else's, or too new.

    Nothing is changed. `path` and `key` as for `ensure`.
    """
    if path is not None:
        return look(path, key)
    found = current(engine)
    _refuse_unknown(found)
    return found


def look(path: Path, key: EncryptionKey | None = None) -> str | None:
    """The revision of a file; None if it is empty. SchemaError if it is somebody else's, or too new.

    Not a byte of it is changed.
    """
    # The engine's connections turn on write-ahead logging, which is written into the file: it may be a stranger's.
    connect = partial(dbapi.connect, str(path.absolute()), encryption_key=key, configure=False)
    looking = create_engine("libsql://", creator=connect, poolclass=NullPool)
    try:
        return check_ours(looking)
    except SchemaError as error:
        raise SchemaError(f"{path}: {error}", found=error.found, expected=error.expected) from None


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the revisions up to `revision` in one transaction; other processes that try the same wait for it."""
    with writing(engine) as connection:
        _refuse_unknown(_current(connection))
        _run(connection, "upgrade", revision)


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
    """Alembic's configuration for the revisions of this package."""
    from alembic.config import Config

    found = Config(stdout=sys.stdout)  # its default is what stdout was when Alembic was imported
    found.set_main_option("script_location", str(_script_directory()).replace("%", "%%"))
    return found


def _script_directory() -> Path:
    """Where the revisions are: in the package if it was installed from a wheel, else beside it, in the checkout."""
    package = Path(__file__).parent
    installed = package / "migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


@contextmanager
def writing(engine: Engine) -> Iterator[Connection]:
    """A connection whose transaction may change the schema. Foreign keys are off for it, and checked at its end.

    A table that Alembic copies and drops would else take the rows that refer to it along.
    """
    with engine.connect().execution_options(libsql_begin="IMMEDIATE") as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")  # within a transaction it would have no effect
        connection.rollback()  # nothing is open, but SQLAlchemy takes it for a transaction
        try:
            yield connection
        finally:
            _enforce_foreign_keys(connection)


def _enforce_foreign_keys(connection: Connection) -> None:
    connection.rollback()
    if connection.connection.dbapi_connection.is_remote:  # type: ignore[union-attr]
        connection.invalidate()  # the next one has them on, and a server that is gone need not be asked
    else:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        connection.rollback()


def check_foreign_keys(connection: Connection) -> None:
    """SchemaError if a row refers to one that is not there."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    if broken:
        tables = sorted({str(row[0]) for row in broken})
        raise SchemaError(
            f"{len(broken)} rows of {', '.join(tables)} refer to rows that are not there: nothing was changed"
        )


def _current(connection: Connection) -> str | None:
    try:
        row = connection.execute(_REVISION).one_or_none()
    except exc.OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
        connection.rollback()  # it read nothing, so it holds nothing: the next statement has to wait for locks again
        row = None
    if row is not None and row[1]:
        return str(row[0])
    tables = set(connection.execute(_TABLES).scalars())
    if row is None and tables >= _OURS:  # another process has just made them
        row = connection.execute(_REVISION).one_or_none()
    if row is None or not row[1]:
        _refuse_foreign(tables)
    return str(row[0]) if row else None


def _refuse_foreign(tables: set[str]) -> None:
    names = sorted(name for name in tables - {"alembic_version"} if not name.startswith(("sqlite_", "libsql_")))
    if names:
        raise SchemaError(
            f"this database belongs to another program (it has the tables {', '.join(names[:5])}): choose another one",
            expected=HEAD,
        )


def _refuse_unknown(found: str | None) -> None:
    if found in {None, HEAD}:
        return
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found not in known:
        raise _mismatch(found)


def _mismatch(found: str | None) -> SchemaError:
    if found is None:
        advice = "it has no schema yet: run `memory-storage upgrade`"
    elif found < HEAD:
        advice = f"its schema {found} is older than {HEAD}: run `memory-storage upgrade`"
    else:
        advice = f"its schema {found} is newer than {HEAD}: upgrade the memory-storage package"
    return SchemaError(f"this database cannot be used as it is: {advice}", found=found, expected=HEAD)


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
