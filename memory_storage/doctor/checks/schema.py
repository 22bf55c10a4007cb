"""Checks of tables, indexes, views and triggers against the schema."""

from __future__ import annotations

import re
from functools import lru_cache, partial

from sqlalchemy import Connection

from memory_storage import migrate
from memory_storage.doctor.findings import Finding, has_table
from memory_storage.engine import make_engine
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.settings import MEMORY, Settings

_OBJECTS = """SELECT m.name, m.type, m.sql FROM sqlite_master AS m LEFT JOIN pragma_table_list AS t ON t.name = m.name
WHERE m.sql IS NOT NULL AND coalesce(t.type, '') <> 'shadow' AND m.name NOT LIKE 'libsql%' ORDER BY m.rowid"""
_MADE = re.compile(r"CREATE (TABLE|INDEX|TRIGGER|VIEW|VIRTUAL TABLE) (\w+)")
_ORDER = ("TABLE", "VIEW", "VIRTUAL TABLE", "INDEX", "TRIGGER")


def missing_objects(connection: Connection) -> list[Finding]:
    """Find objects that are missing, or that differ from the schema."""
    wanted = {**_of_the_schema(), **_of_the_models(connection)}
    present = {name: sql for name, _, sql in connection.exec_driver_sql(_OBJECTS)}
    missing = [name for name in wanted if name not in present]
    others = [name for name in wanted if name in present and _plain(present[name]) != _plain(wanted[name])]
    changed = [name for name in others if _kind(wanted[name]) in {"VIEW", "INDEX", "TRIGGER"}]
    return _absent(missing, wanted) + _changed(changed, wanted) + _unlike(sorted(set(others) - set(changed)))


def _absent(names: list[str], wanted: dict[str, str]) -> list[Finding]:
    if not names:
        return []
    tables = [name for name in names if _kind(wanted[name]) == "TABLE"]
    lost = f"; the rows of the tables {', '.join(tables)} are lost" if tables else ""
    problem = f"missing: {', '.join(names)}{lost}"
    repair = partial(_make, statements=_in_order([wanted[name] for name in names]))
    return [Finding("schema.missing", "sqlite_master", len(names), problem, "create them again", repair=repair)]


def _changed(names: list[str], wanted: dict[str, str]) -> list[Finding]:
    if not names:
        return []
    drops = [f"DROP {_kind(wanted[name])} {name}" for name in names]
    repair = partial(_make, statements=[*reversed(drops), *_in_order([wanted[name] for name in names])])
    problem = f"changed by another program: {', '.join(names)}"
    return [Finding("schema.changed", "sqlite_master", len(names), problem, "create them again", repair=repair)]


def _unlike(names: list[str]) -> list[Finding]:
    if not names:
        return []
    problem, advice = f"the tables {', '.join(names)} have other columns or constraints", "restore them manually"
    return [Finding("schema.unlike", "sqlite_master", len(names), problem, advice)]


def _make(connection: Connection, *, statements: list[str]) -> None:
    for sql in statements:
        connection.exec_driver_sql(sql)


@lru_cache(maxsize=1)
def _of_the_schema() -> dict[str, str]:
    engine = make_engine(Settings(database=MEMORY))
    migrate.upgrade(engine)
    with engine.connect() as connection:
        found = {name: sql for name, _, sql in connection.exec_driver_sql(_OBJECTS) if name != "alembic_version"}
    engine.dispose()
    return found


def schema_sql(name: str) -> str:
    """Return the statement that creates an object of the schema."""
    return _of_the_schema()[name]


def _of_the_models(connection: Connection) -> dict[str, str]:
    """Return the SQL of each model's objects except its DiskANN index, which `vectors.wrong_index` checks."""
    if not has_table(connection, "vector_models"):
        return {}
    models = connection.exec_driver_sql("SELECT token, name, dimension FROM vector_models").all()
    spaces = [(VectorSpace.of(token, name, size), size) for token, name, size in models]
    made = [sql for space, size in spaces for sql in space.create(size)]
    return {_name(sql): sql for sql in made}


def _in_order(statements: list[str]) -> list[str]:
    return sorted(statements, key=lambda sql: _ORDER.index(_kind(sql)))


def _kind(sql: str) -> str:
    found = _MADE.match(sql)
    return found[1] if found else "TABLE"


def _name(sql: str) -> str:
    found = _MADE.match(sql)
    return found[2] if found else ""


def _plain(sql: str) -> str:
    return " ".join(sql.split())
