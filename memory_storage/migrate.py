"""Bring a database's schema to the revision that this code knows, by Alembic, which is loaded only for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, exc, text

from .errors import SchemaError
from .schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_REVISION = text("SELECT version_num FROM alembic_version")
_TABLES = text("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' LIMIT 5")


def current(engine: Engine) -> str | None:
    """The revision of the database; None if it is empty. SchemaError if it is somebody else's."""
    with engine.connect() as connection:
        return _current(connection)


def check(engine: Engine) -> None:
    """SchemaError, saying what to do, unless the database has this code's revision. Changes nothing."""
    found = current(engine)
    if found != HEAD:
        raise _mismatch(found)


def ensure(engine: Engine) -> None:
    """Make an empty database ready, and check one that is not. An older one is upgraded; a newer one is refused."""
    if current(engine) != HEAD:
        upgrade(engine)


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Run the revisions up to `revision` in one transaction; other processes that try the same wait for it."""
    with _writing(engine) as connection:
        _refuse_unknown(_current(connection))
        _run(connection, "upgrade", revision)


def downgrade(engine: Engine, revision: str) -> None:
    """Go back to `revision` ("base": to nothing). What the later revisions stored is lost."""
    with _writing(engine) as connection:
        _refuse_unknown(_current(connection))
        _run(connection, "downgrade", revision)


def config() -> Config:
    """Alembic's configuration for the revisions in this package."""
    from alembic.config import Config

    found = Config()
    found.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    return found


def _writing(engine: Engine) -> Connection:
    return engine.connect().execution_options(libsql_begin="IMMEDIATE")


def _current(connection: Connection) -> str | None:
    try:
        return connection.execute(_REVISION).scalar()
    except exc.OperationalError as error:
        if "no such table" not in str(error.orig):
            raise
    _refuse_foreign(connection)
    return None


def _refuse_foreign(connection: Connection) -> None:
    names = connection.execute(_TABLES).scalars().all()
    if names:
        raise SchemaError(
            f"this database belongs to another program (it has the tables {', '.join(names)}): choose another file",
            expected=HEAD,
        )


def _refuse_unknown(found: str | None) -> None:
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found is not None and found not in known:
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

    settings = config()
    settings.attributes["connection"] = connection
    getattr(commands, command)(settings, revision)
    connection.commit()
