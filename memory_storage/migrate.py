"""Bring a database's schema to the revision that this code knows, by Alembic, which is loaded only for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from . import dbapi
from .dbapi._local import LocalTransport
from .errors import SchemaError
from .schema import HEAD

if TYPE_CHECKING:
    from alembic.config import Config

_TABLES = text("SELECT name FROM sqlite_master WHERE type = 'table'")
_REVISION = text("SELECT version_num FROM alembic_version")
_ALEMBIC, _OURS = "alembic_version", "spatiotemporal_index"


def current(engine: Engine) -> str | None:
    """The revision of the database; None if it is empty. SchemaError if it is somebody else's."""
    with engine.connect() as connection:
        return _current(connection)


def check(engine: Engine) -> None:
    """SchemaError, saying what to do, unless the database has this code's revision. Changes nothing."""
    found = current(engine)
    if found != HEAD:
        raise _mismatch(found)


def look(path: Path, *, busy_timeout: float) -> None:
    """SchemaError if the file is another program's, or too new for this code. Not a byte of it is changed."""
    # Any other connection would turn on write-ahead logging, which is written into the file.
    engine = create_engine(
        "libsql://",
        creator=lambda: dbapi.Connection(LocalTransport(str(path.absolute()), busy_timeout=busy_timeout)),
        poolclass=NullPool,
    )
    _refuse_unknown(current(engine))


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
    tables = set(connection.execute(_TABLES).scalars())
    found = connection.execute(_REVISION).scalar() if _ALEMBIC in tables else None
    if found is None or _OURS not in tables:  # other programs have a revision 0001 too
        _refuse_foreign(tables)
    return found


def _refuse_foreign(tables: set[str]) -> None:
    names = sorted(name for name in tables - {_ALEMBIC} if not name.startswith(("sqlite_", "libsql_")))
    if names:
        raise SchemaError(
            f"this database belongs to another program (it has the tables {', '.join(names[:5])}): choose another file",
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

    settings = config()
    settings.attributes["connection"] = connection
    getattr(commands, command)(settings, revision)
    connection.commit()
