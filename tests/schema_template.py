"""The newest schema from its final statements instead of the revisions, for a local database that a test finds empty.

The revisions take 60 ms, which a thousand tests would wait for; the final statements take 8 ms. The test
`tests/migrations/test_schema_template.py` compares what both make.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Connection, create_engine
from sqlalchemy.pool import StaticPool

from memory_storage import migrate

_by_revisions = migrate._run

_HAS_OBJECTS = "SELECT EXISTS (SELECT 1 FROM sqlite_master)"
# The shadow tables of full-text indexes and R*Trees come with their virtual tables.
_STATEMENTS = """
    SELECT sql FROM sqlite_master AS object
    WHERE sql IS NOT NULL AND name <> 'sqlite_sequence' AND NOT (type = 'table' AND EXISTS (
        SELECT 1 FROM sqlite_master AS owner
        WHERE owner.sql LIKE 'CREATE VIRTUAL TABLE%' AND object.name LIKE owner.name || '\\_%' ESCAPE '\\'
    )) ORDER BY rowid
"""


def run(connection: Connection, command: str, revision: str) -> None:
    """Do what `migrate._run` does, but run no revisions when the database is local and empty.

    Args:
        connection: A connection whose transaction may change the schema.
        command: "upgrade" or "downgrade".
        revision: The revision that the database is to have.
    """
    is_remote = connection.connection.dbapi_connection.is_remote
    if is_remote or (command, revision) != ("upgrade", "head") or connection.exec_driver_sql(_HAS_OBJECTS).scalar():
        _by_revisions(connection, command, revision)
        return
    for statement in _final_statements():
        connection.exec_driver_sql(statement)
    connection.commit()


@cache
def _final_statements() -> tuple[str, ...]:
    """Read the statements from a schema that the revisions made, and the row that says which revision it is."""
    engine = create_engine("libsql://", poolclass=StaticPool)
    with migrate.writing(engine) as connection:
        _by_revisions(connection, "upgrade", "head")
        statements = connection.exec_driver_sql(_STATEMENTS).scalars().all()
        (revision,) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
    engine.dispose()
    return (*statements, f"INSERT INTO alembic_version VALUES ('{revision}')")
