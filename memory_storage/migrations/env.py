"""How Alembic runs the revisions: on the connection it is handed, or on the database that the settings name."""

from __future__ import annotations

from typing import Any, Literal

from alembic import context
from sqlalchemy import Connection

from memory_storage.engine import make_engine, url_of
from memory_storage.migrate import check_foreign_keys, check_ours, writing
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
        check_foreign_keys(connection)


def is_ours(name: str | None, kind: str, parents: Any) -> Literal[True] | bool:  # noqa: ARG001
    """Leave out the virtual tables and what they keep for themselves: Core does not describe them."""
    return kind != "table" or name in metadata.tables


def is_another_type(*compared: Any) -> bool | None:
    """A vector is reflected as a blob of its length; the others are left to Alembic (None)."""
    reflected, described = compared[-2:]
    if isinstance(described, F32Blob):
        return bool(getattr(reflected, "length", None) != described.dimension)
    return None


def run_offline(settings: Settings) -> None:
    """Print the SQL instead of running it."""
    context.configure(url=url_of(settings), target_metadata=metadata, literal_binds=True, transactional_ddl=True)
    script = context.get_context().impl
    script.static_output("PRAGMA foreign_keys = OFF;\n")
    with context.begin_transaction():
        context.run_migrations()
        script.static_output("PRAGMA foreign_key_check;  -- if this finds any: ROLLBACK\n")
    script.static_output("PRAGMA foreign_keys = ON;\n")


handed = context.config.attributes.get("connection")
asked = context.get_x_argument(as_dictionary=True).get("database")
if handed is not None:
    run(handed)
else:
    settings = Settings.from_environment(**({"database": asked} if asked else {}))
    if context.is_offline_mode():
        run_offline(settings)
    else:
        engine = make_engine(settings)
        check_ours(engine, settings.path, settings.key)  # before anything is written
        with writing(engine) as connection:
            run(connection)
        engine.dispose()
