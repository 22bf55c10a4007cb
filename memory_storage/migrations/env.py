"""How Alembic runs the revisions: on the connection it is handed, or on the database that the settings name."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from memory_storage.engine import make_engine
from memory_storage.migrate import look
from memory_storage.schema.constructs import F32Blob
from memory_storage.schema.tables import metadata
from memory_storage.settings import Settings


def run(connection: Connection) -> None:
    """Run the revisions in the one transaction of `connection`: all of them, or none."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        include_name=is_ours,
        compare_type=is_another_type,
    )
    with context.begin_transaction():
        context.run_migrations()


def is_ours(name: str | None, kind: str, parents: Any) -> Literal[True] | bool:  # noqa: ARG001
    """Leave out the virtual tables and what they keep for themselves: Core does not describe them."""
    return kind != "table" or name in metadata.tables


def is_another_type(*compared: Any) -> bool | None:
    """A vector is reflected as a blob of its length; the others are left to Alembic (None)."""
    reflected, described = compared[-2:]
    if isinstance(described, F32Blob):
        return bool(getattr(reflected, "length", None) != described.dimension)
    return None


def run_offline(database: str) -> None:
    """Print the SQL instead of running it."""
    context.configure(url=f"libsql:///{database}", target_metadata=metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


handed = context.config.attributes.get("connection")
asked = context.get_x_argument(as_dictionary=True).get("database")
if handed is not None:
    run(handed)
else:
    settings = Settings.from_environment(**({"database": asked} if asked else {}))
    if context.is_offline_mode():
        run_offline(settings.database)
    else:
        if settings.path is not None:
            look(settings.path)  # an error if it is another program's, before anything is written
        engine = make_engine(settings)
        with engine.connect().execution_options(libsql_begin="IMMEDIATE") as connection:
            run(connection)
        engine.dispose()
