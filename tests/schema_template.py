"""The newest schema from its final statements instead of the revisions, for a local database that a test finds empty.

The revisions take 60 ms, which a thousand tests would wait for; the final statements take 8 ms. The test
`tests/migrations/test_schema_template.py` compares what both make.
"""

from __future__ import annotations

from functools import cache

from sqlalchemy import Engine, create_engine
from sqlalchemy.pool import StaticPool

from memory_storage import migrate

_upgrade_by_revisions = migrate.upgrade

# The shadow tables of full-text indexes and R*Trees come with their virtual tables.
_STATEMENTS = """
    SELECT sql FROM sqlite_master AS object WHERE sql IS NOT NULL AND NOT (type = 'table' AND EXISTS (
        SELECT 1 FROM sqlite_master AS owner
        WHERE owner.sql LIKE 'CREATE VIRTUAL TABLE%' AND object.name LIKE owner.name || '\\_%' ESCAPE '\\'
    )) ORDER BY rowid
"""


def upgrade(engine: Engine, revision: str = "head") -> None:
    """Do what `migrate.upgrade` does, but run no revisions when the database is local and empty.

    Args:
        engine: The engine of the database.
        revision: The revision that the database is to have.
    """
    if revision == "head" and not engine.url.host:
        with migrate.writing(engine) as connection:
            if connection.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0:
                for statement in _final_statements():
                    connection.exec_driver_sql(statement)
                connection.commit()
                return
    _upgrade_by_revisions(engine, revision)


@cache
def _final_statements() -> tuple[str, ...]:
    """Read the statements from a schema that the revisions made, and the row that says which revision it is."""
    engine = create_engine("libsql://", poolclass=StaticPool)
    _upgrade_by_revisions(engine)
    with engine.connect() as connection:
        statements = connection.exec_driver_sql(_STATEMENTS).scalars().all()
        (revision,) = connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalars()
    engine.dispose()
    return (*statements, f"INSERT INTO alembic_version VALUES ('{revision}')")
