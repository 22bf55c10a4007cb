"""Alembic's environment: runs the revisions on a connection of `memory_storage.migrate`, or on a database by name."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from logging.config import fileConfig
from typing import Any, Literal

from alembic import context
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.util import CommandError
from sqlalchemy import Connection

from memory_storage._exception_mapping import map_exceptions
from memory_storage.engine import make_directory, make_engine
from memory_storage.errors import ConfigurationError, MemoryStorageError
from memory_storage.migrate import check_foreign_keys, check_ours, prepare, writing
from memory_storage.schema import HEAD
from memory_storage.schema.ddl import F32Blob
from memory_storage.schema.tables import metadata
from memory_storage.schema.vector_tables import FORMER_INDEXES, PRESETS, VectorSpace
from memory_storage.settings import Settings

_log = logging.getLogger("memory_storage.migrations")


def run(connection: Connection) -> None:
    """Run the revisions in one transaction of `connection`: all of them, or none."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transactional_ddl=True,
        include_name=is_ours,
        compare_type=is_another_type,
        on_version_apply=create_missing_diskann,
    )
    with context.begin_transaction():
        create_placeholders(connection)
        context.run_migrations()
        check_foreign_keys(connection)


def create_placeholders(connection: Connection) -> None:
    """Create an empty index for each one that the upgrade to revision 0003 drops by name: backups have none of them."""
    migrations = context.get_context()
    if "destination_rev" not in migrations.opts or migrations.get_current_revision() not in {"0001", "0002"}:
        return
    present = _indexes(connection, "embeddings")
    for name in FORMER_INDEXES:
        if name not in present:
            connection.exec_driver_sql(f"CREATE INDEX {name} ON embeddings (seq) WHERE seq < 0")


def create_missing_diskann(
    ctx: MigrationContext,
    step: MigrationInfo,
    heads: Collection[Any],  # noqa: ARG001 - Alembic passes it by name
    run_args: Mapping[str, Any],  # noqa: ARG001
) -> None:
    """Create each model's DiskANN index, empty, before the downgrade of revision 0003, which drops it by name."""
    connection = ctx.connection
    if step.is_upgrade or step.is_stamp or "0003" not in step.destination_revision_ids or connection is None:
        return
    tables = {row[1] for row in connection.exec_driver_sql("PRAGMA table_list")}
    if not any(name.startswith("vectors_") for name in tables):
        return
    for model, preset in connection.exec_driver_sql("SELECT name, preset FROM vector_models").all():
        space = VectorSpace(model)
        if space.index not in _indexes(connection, space.table):
            connection.exec_driver_sql(space.create_index(PRESETS[preset]))


def _indexes(connection: Connection, table: str) -> set[str]:
    return {row[1] for row in connection.exec_driver_sql(f"PRAGMA index_list({table})")}


def is_ours(name: str | None, kind: str, parents: Any) -> Literal[True] | bool:  # noqa: ARG001
    """Return whether Core describes it: not the virtual tables, nor the tables that they store their data in."""
    return kind != "table" or name in metadata.tables


def is_another_type(*compared: Any) -> bool | None:
    """Compare the types of vectors, which are reflected as blobs with a length; None leaves the others to Alembic."""
    reflected, described = compared[-2:]
    if isinstance(described, F32Blob):
        return bool(getattr(reflected, "length", None) != described.dimension)
    return None


def run_offline() -> None:
    """Print the SQL of the revisions. Needs no database."""
    context.configure(url="libsql://", target_metadata=metadata, literal_binds=True, transactional_ddl=True)
    script = context.get_context().impl
    script.static_output("PRAGMA foreign_keys = OFF;\n")
    with context.begin_transaction():
        context.run_migrations()
        script.static_output("PRAGMA foreign_key_check;  -- if this finds any: ROLLBACK\n")
    script.static_output("PRAGMA foreign_keys = ON;\n")


def run_online() -> None:
    """Run the revisions on the database of the settings.

    Raises:
        MemoryStorageError: no database is given, or it cannot be used.
    """
    settings = settings_of_database()
    with map_exceptions():
        if is_command("upgrade", "stamp"):
            make_directory(settings)
        elif settings.path is not None and not settings.path.exists():
            raise ConfigurationError(f"there is no database {settings.database!r}: `alembic upgrade head` makes one")
        _log.info("database: %s", settings.database)
        engine = make_engine(settings)
        try:
            before = check_ours(
                engine, settings.path, settings.key, local_engine=settings.required_engine
            )  # before anything is written to the file
            if is_command("upgrade"):
                prepare(engine, str(context.get_revision_argument()), progress=log_progress)
            with writing(engine) as connection:
                run(connection)
            if before == HEAD and is_command("upgrade"):
                _log.info("already at %s", HEAD)
        finally:
            engine.dispose()


def log_progress(what: str, done: int, total: int) -> None:
    """Log how much is done."""
    _log.info("%s: %d of %d texts indexed", what, done, total)


def settings_of_database() -> Settings:
    """Return the settings of `-x database=...`, or else of the environment."""
    database = context.get_x_argument(as_dictionary=True).get("database")
    return Settings.from_environment(**({"database": database} if database else {}))


def is_command(*names: str) -> bool:
    """Return whether Alembic runs one of these commands. A program that calls Alembic's functions counts as upgrade."""
    options = context.config.cmd_opts
    return options is None or options.cmd[0].__name__ in names


def configure_logging() -> None:
    """Have the `alembic` command print what it does. A program that calls Alembic configures its own logging."""
    config = context.config
    if config.cmd_opts is None:
        return
    if config.config_file_name and config.file_config.has_section("loggers"):
        fileConfig(config.config_file_name, disable_existing_loggers=False)
    else:
        logging.basicConfig(format="%(levelname)s %(message)s")
        for logger in (logging.getLogger("alembic"), _log):
            logger.setLevel(logging.INFO)


connection = context.config.attributes.get("connection")
if connection is not None:
    run(connection)
else:
    configure_logging()
    try:
        run_offline() if context.is_offline_mode() else run_online()
    except MemoryStorageError as error:
        raise CommandError(str(error)) from error  # which the command prints in one line
