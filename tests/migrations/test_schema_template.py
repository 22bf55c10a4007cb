"""The schema template of the tests equals the schema that the revisions create."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, event

from memory_storage import migrate
from memory_storage.schema import HEAD
from tests import schema_template
from tests.checks import dump

_OBJECTS = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY type, name"
_PRAGMAS = ("user_version", "application_id", "encoding", "auto_vacuum", "page_size", "foreign_keys", "journal_mode")


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_final_statements_make_what_revisions_make(kind: str, tmp_path, monkeypatch):
    made = []
    for number, run in enumerate((migrate._run, schema_template.run)):
        monkeypatch.setattr(migrate, "_run", run)
        engine = create_engine("libsql://" if kind == "memory" else f"libsql:///{tmp_path}/{number}.db")
        migrate.upgrade(engine)
        made.append((_objects(engine), _pragmas(engine), dump(engine), migrate.current(engine)))
        engine.dispose()
    assert made[0] == made[1]


def test_an_older_schema_is_upgraded_by_revisions(tmp_path, monkeypatch):
    engine = create_engine(f"libsql:///{tmp_path}/memory.db")
    migrate.upgrade(engine, "0001")
    sent: list[str] = []
    event.listen(engine, "before_cursor_execute", lambda _c, _cu, statement, *_: sent.append(str(statement)))
    monkeypatch.setattr(migrate, "_run", schema_template.run)
    migrate.upgrade(engine)
    assert migrate.current(engine) == HEAD
    assert any("UPDATE alembic_version" in statement for statement in sent)
    engine.dispose()


def _objects(engine: Engine) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(_OBJECTS)]


def _pragmas(engine: Engine) -> list[Any]:
    with engine.connect() as connection:
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in _PRAGMAS]
