"""What importing and opening cost: modules, time and statements."""

from __future__ import annotations

import re

import pytest
from sqlalchemy import Engine, event

import memory_storage as ms
from benchmarks import imports
from memory_storage import dbapi

PACKAGES = [
    "annotated_types",
    "lazy_loader",
    "memory_storage",
    "pydantic",
    "pydantic_core",
    "sqlalchemy",
    "typing_extensions",
    "typing_inspection",
]

# What it loads that is not Python's own, nor there before, nor made up by Cython or the build of the interpreter.
LOADED = """
import sys
before = set(sys.modules)
import memory_storage
memory_storage.MemoryStorage  # whether the name is loaded at once or when it is used
packages = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
print(*sorted(name for name in packages if "cython" not in name and not name.startswith("_")))
"""

OPENED = """
import sys
import memory_storage
with memory_storage.MemoryStorage.open(sys.argv[1]) as storage:
    storage.episodes.count()
print(*sys.modules)
"""


def test_the_storage_loads_these_packages_and_no_others():
    assert imports.fresh(LOADED).split() == PACKAGES


def test_the_dialect_loads_no_native_driver():
    loaded = set(imports.fresh("import sys, memory_storage.dialect; print(*sys.modules)").split())
    assert loaded.isdisjoint({"apsw", "libsql_experimental", "sqlalchemy_libsql", "sqlite3", "sqlite_vec"})


@pytest.mark.slow
def test_importing_costs_little_more_than_what_it_stands_on():
    # The best of several on both sides, and repeated if that was not enough: a busy machine only ever adds.
    assert any(min(ours) <= imports.ALLOWED * min(theirs) for ours, _, theirs in (imports.costs(4) for _ in range(3)))


@pytest.mark.slow
def test_opening_an_existing_file_loads_no_alembic(database):
    ms.MemoryStorage.open(database).close()
    loaded = imports.fresh(OPENED, str(database)).split()
    assert "memory_storage.storage" in loaded
    assert {"alembic", "mako", "typer", "rich", "numpy"}.isdisjoint(loaded)


@pytest.mark.parametrize(("source", "table"), [("diskann", "vector_models"), ("hnsw", "sqlite_master")])
def test_opening_reads_only_the_revision_and_vector_indexes(database, source, table, monkeypatch):
    settings = ms.Settings(database=str(database), vector_index=source)
    ms.MemoryStorage.open(settings).close()
    statements: list[str] = []

    def spy(connection, cursor, statement, parameters, context, executemany):
        statements.append(statement)

    def execute(connection, statement, parameters=()):  # the revision is read without SQLAlchemy
        statements.append(statement)
        return execute_unseen(connection, statement, parameters)

    execute_unseen = dbapi.Connection.execute
    monkeypatch.setattr(dbapi.Connection, "execute", execute)
    event.listen(Engine, "before_cursor_execute", spy)
    try:
        with ms.MemoryStorage.open(settings):
            pass
    finally:
        event.remove(Engine, "before_cursor_execute", spy)
    tables = [re.findall(r"\bFROM (\w+)", statement)[-1] for statement in statements]
    assert tables == ["alembic_version", table]
