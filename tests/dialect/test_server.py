"""The dialect on a server: round trips, lost transactions, and reflection."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import (
    Column,
    Engine,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    exc,
    insert,
    inspect,
    select,
    text,
)
from sqlalchemy.engine.reflection import Inspector
from sqlalchemy.orm import DeclarativeBase, Session

from memory_storage import migrate
from memory_storage.testing import Sqld
from tests.proxy import Proxy
from tests.raising import raises
from tests.server.tokens import Key, token

metadata = MetaData()
t = Table("t", metadata, Column("id", Integer, primary_key=True), Column("v", String, unique=True))
child = Table("child", metadata, Column("t", ForeignKey("t.id")), Column("raw", LargeBinary))


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __table__ = t


@pytest.fixture
def line(sqld: Sqld, proxy: Callable[..., Proxy]) -> Proxy:
    """What counts the round trips."""
    return proxy(sqld.port, record=True)


@pytest.fixture
def engine(line: Proxy, namespace: str) -> Iterator[Engine]:
    """The two tables on the server, behind the proxy."""
    made = create_engine(f"libsql://127.0.0.1:{line.port}/dev/{namespace}?tls=0")
    metadata.create_all(made)
    line.reset_counts()
    yield made
    made.dispose()


@pytest.fixture
def own_engine(server: Sqld) -> Iterator[Engine]:
    """The same on a server that may be killed."""
    made = create_engine(server.url)
    metadata.create_all(made)
    yield made
    made.dispose()


def values(engine: Engine) -> list[str]:
    with engine.connect() as connection:
        return list(connection.execute(select(t.c.v).order_by(t.c.id)).scalars())


class TestRoundTrips:
    def test_connecting_costs_nothing(self, engine: Engine, line: Proxy):
        engine.dispose()
        line.reset_counts()
        for _ in range(3):
            engine.connect().close()
        assert line.round_trips == 0

    def test_neither_does_a_ping(self, engine: Engine, line: Proxy):
        pinging = create_engine(engine.url, pool_pre_ping=True)
        for _ in range(3):
            pinging.connect().close()
        pinging.dispose()
        assert line.round_trips == 0

    def test_a_read_that_commits_itself_costs_one(self, engine: Engine, line: Proxy):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(select(t)).all()
        assert line.round_trips == 1

    def test_a_transaction_costs_one_a_statement_and_one_for_its_end(self, engine: Engine, line: Proxy):
        with engine.begin() as connection:
            connection.execute(insert(t), {"v": "a"})
            assert line.round_trips == 1
            connection.execute(select(t)).all()
            assert line.round_trips == 2
        assert line.round_trips == 3

    def test_many_sets_of_parameters_are_one_statement(self, engine: Engine, line: Proxy):
        with engine.begin() as connection:
            connection.execute(insert(t), [{"v": str(number)} for number in range(500)])
        assert line.round_trips == 2
        assert len(values(engine)) == 500

    def test_many_returned_rows_are_one_round_trip_too(self, engine: Engine, line: Proxy):
        with engine.begin() as connection:
            rows = [{"v": str(number)} for number in range(500)]
            found = connection.execute(insert(t).returning(t.c.v), rows).scalars().all()
        assert sorted(found, key=int) == [row["v"] for row in rows]
        assert line.round_trips == 2

    def test_five_tables_are_inspected_with_one_question(self, line: Proxy):
        engine = create_engine(line.url)
        migrate.ensure(engine)  # in the server's common database, which no other test uses
        line.reset_counts()
        with engine.connect() as connection:
            inspector = inspect(connection)
            for table in ("steps", "patterns", "embeddings", "facets", "spatiotemporal_index"):
                _everything_about(inspector, table)
            assert line.round_trips == 1, line.requests
        engine.dispose()

    def test_a_whole_schema_is_reflected_with_few(self, engine: Engine, line: Proxy):
        reflected = MetaData()
        reflected.reflect(engine)
        assert set(reflected.tables) == {"t", "child"}
        assert line.round_trips <= 4


class TestTransactions:
    def test_savepoints_are_kept_or_undone(self, engine: Engine):
        with engine.begin() as connection:
            connection.execute(insert(t), {"v": "outer"})
            with connection.begin_nested():
                connection.execute(insert(t), {"v": "kept"})
            with raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"), connection.begin_nested():
                connection.execute(insert(t), {"v": "undone"})
                connection.execute(insert(t), {"v": "outer"})
            undone = connection.begin_nested()
            connection.execute(insert(t), {"v": "undone"})
            undone.rollback()
            connection.execute(insert(t), {"v": "after"})
        assert values(engine) == ["outer", "kept", "after"]

    def test_a_savepoint_may_come_first(self, engine: Engine):
        with engine.begin() as connection:
            with connection.begin_nested():
                connection.execute(insert(t), {"v": "first"})
            with connection.begin_nested() as second:
                connection.execute(insert(t), {"v": "second"})
                second.rollback()
        assert values(engine) == ["first"]

    def test_an_error_undoes_the_block(self, engine: Engine):
        with raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY"), engine.begin() as connection:
            connection.execute(insert(t), {"v": "lost"})
            connection.execute(insert(child), {"t": 77})
        assert values(engine) == []

    @pytest.mark.parametrize("mode", ["DEFERRED", "IMMEDIATE"])
    def test_libsql_begin_says_how_it_begins(self, engine: Engine, line: Proxy, mode: str):
        with engine.connect().execution_options(libsql_begin=mode) as connection:
            connection.execute(select(t)).all()
        assert f"BEGIN {mode}".encode() in line.requests[0][1]

    def test_a_server_has_one_isolation_level_and_autocommit(self, engine: Engine, line: Proxy):
        with engine.connect() as connection:
            assert connection.get_isolation_level() == connection.default_isolation_level == "SERIALIZABLE"
            with pytest.raises(exc.ArgumentError, match="AUTOCOMMIT"):
                connection.execution_options(isolation_level="READ UNCOMMITTED")
        assert line.round_trips == 0

    def test_autocommit_of_a_whole_engine(self, engine: Engine, line: Proxy):
        committing = create_engine(engine.url, isolation_level="AUTOCOMMIT")
        with committing.connect() as connection:
            connection.execute(insert(t), {"v": "stays"})
            connection.rollback()
        committing.dispose()
        assert line.round_trips == 1
        assert values(engine) == ["stays"]

    def test_a_snapshot_does_not_see_what_others_write(self, engine: Engine):
        with engine.connect() as reader:
            assert reader.execute(select(t)).all() == []
            with engine.begin() as writer:
                writer.execute(insert(t), {"v": "new"})
            assert reader.execute(select(t)).all() == []
        assert values(engine) == ["new"]


class TestLoss:
    def test_a_lost_transaction_invalidates_only_its_connection(self, server: Sqld, own_engine: Engine):
        with own_engine.connect() as losing, own_engine.connect() as other:
            bystander, lost = other.connection.dbapi_connection, losing.connection.dbapi_connection
            losing.execute(insert(t), {"v": "lost"})
            server.restart()
            with raises(exc.OperationalError, code="TRANSACTION_LOST", match="lost") as caught:
                losing.execute(insert(t), {"v": "lost too"})
            assert caught.value.connection_invalidated
            assert not other.invalidated
            with raises(exc.PendingRollbackError, code="8s2b"):
                losing.execute(select(t))
            losing.rollback()
            assert losing.execute(select(t)).all() == []
            assert losing.connection.dbapi_connection is not lost
            assert other.execute(select(t)).all() == []
            assert other.connection.dbapi_connection is bystander

    def test_idle_connections_of_the_pool_outlive_a_restart(self, server: Sqld, own_engine: Engine):
        with own_engine.connect() as connection:
            connection.execute(select(t)).all()
            before = connection.connection.dbapi_connection
        server.restart()
        with own_engine.begin() as connection:
            assert connection.connection.dbapi_connection is before
            connection.execute(insert(t), {"v": "after"})
        assert values(own_engine) == ["after"]

    def test_a_session_continues_after_a_rollback(self, server: Sqld, own_engine: Engine):
        with Session(own_engine) as session:
            session.add(Thing(v="lost"))
            session.flush()
            server.restart()
            session.add(Thing(v="lost too"))
            with raises(exc.OperationalError, code="TRANSACTION_LOST"):
                session.flush()
            session.rollback()
            session.add(Thing(v="kept"))
            session.commit()
            assert session.scalars(select(Thing.v)).all() == ["kept"]

    def test_a_lost_commit_response_is_reported_and_reconnects(self, engine: Engine, line: Proxy):
        with engine.connect() as connection:
            connection.execute(insert(t), {"v": "unknown"})
            line.cut_reply_after(0, times=2)
            with raises(exc.OperationalError, code="CONNECTION_LOST") as caught:
                connection.commit()
            assert caught.value.connection_invalidated
            connection.rollback()
            assert connection.execute(select(t.c.v)).scalars().all() == ["unknown"]

    def test_a_line_that_is_cut_between_two_statements_loses_nothing(self, engine: Engine, line: Proxy):
        with engine.begin() as connection:
            connection.execute(insert(t), {"v": "before"})
            line.cut_all()
            connection.execute(insert(t), {"v": "after"})
        assert values(engine) == ["before", "after"]

    def test_an_error_of_a_statement_invalidates_nothing(self, engine: Engine):
        with engine.connect() as connection:
            with raises(exc.OperationalError, code="SQLITE_ERROR", match="no such table") as caught:
                connection.execute(text("SELECT * FROM nowhere"))
            assert not caught.value.connection_invalidated
            connection.execute(insert(t), {"v": "continues"})
            connection.commit()
        assert values(engine) == ["continues"]

    def test_nothing_stays_checked_out(self, server: Sqld, own_engine: Engine):
        server.kill()
        for _ in range(3):
            with raises(exc.OperationalError, code="CONNECTION_FAILED"), own_engine.connect() as connection:
                connection.execute(select(t))
        assert own_engine.pool.checkedout() == 0  # type: ignore[attr-defined]
        server.start()
        assert values(own_engine) == []


DDL = (
    "CREATE TABLE parent (a INTEGER, b TEXT DEFAULT 'it''s', CONSTRAINT pk PRIMARY KEY (a, b)) WITHOUT ROWID",
    """CREATE TABLE "a child" (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        pa INTEGER NOT NULL,
        pb TEXT CHECK (pb <> ''),
        "odd name" FLOAT UNIQUE,
        doubled INTEGER GENERATED ALWAYS AS (pa * 2) STORED,
        halved INTEGER AS (pa / 2),
        CONSTRAINT positive CHECK (pa > 0),
        CONSTRAINT pair UNIQUE (pa, pb),
        CONSTRAINT up FOREIGN KEY (pa, pb) REFERENCES parent (a, b) ON DELETE CASCADE ON UPDATE SET NULL
            DEFERRABLE INITIALLY DEFERRED
    )""",
    "CREATE TABLE lonely (x)",
    "CREATE TABLE implied (p INTEGER REFERENCES lone_parent, s INTEGER REFERENCES implied)",
    "CREATE TABLE lone_parent (id INTEGER PRIMARY KEY) STRICT",
    'CREATE INDEX "by odd name" ON "a child" ("odd name", pa)',
    "CREATE UNIQUE INDEX partial ON lonely (x) WHERE x > 3",
    "CREATE TABLE vectors (id INTEGER PRIMARY KEY, e F32_BLOB(3), v TEXT)",
    "CREATE INDEX vectors_v ON vectors (v)",
    "CREATE INDEX vectors_e ON vectors (libsql_vector_idx(e, 'compress_neighbors=float8'))",
    "CREATE VIRTUAL TABLE words USING fts5(word)",
    'CREATE VIEW seen AS SELECT id, pa AS parent FROM "a child"',
    "CREATE VIEW broken AS SELECT * FROM nowhere",
)
TABLES = ("parent", "a child", "lonely", "implied", "lone_parent", "vectors", "words", "A CHILD", "sqlite_sequence")
QUESTIONS = (
    "columns pk_constraint foreign_keys indexes unique_constraints check_constraints table_options".split()  # noqa: SIM905
)


def _everything_about(inspector: Inspector, table: str) -> dict[str, str]:
    return {what: _answer(inspector, what, table) for what in QUESTIONS}


def _answer(inspector: Inspector, what: str, table: str) -> str:
    try:
        return repr(getattr(inspector, f"get_{what}")(table))
    except exc.NoSuchTableError:  # SQLAlchemy is, in part, particular about the case of names
        return "no such table"


def _plain(found: dict[str, str]) -> dict[str, str]:
    return {what: text.partition(" object at")[0] for what, text in found.items()}


class TestReflection:
    @pytest.fixture
    def both(self, empty_server_url: str, tmp_path: Path) -> Iterator[tuple[Inspector, Inspector]]:
        """The same schema in a file and on the server."""
        engines = [create_engine(f"libsql:///{tmp_path / 'x.db'}?local_engine=libsql"), create_engine(empty_server_url)]
        for engine in engines:
            with engine.begin() as connection:
                for sql in DDL:
                    connection.exec_driver_sql(sql)
        yield inspect(engines[0]), inspect(engines[1])
        for engine in engines:
            engine.dispose()

    @pytest.mark.parametrize("table", TABLES)
    def test_a_table_on_the_server_is_what_it_is_in_a_file(self, both: tuple[Inspector, Inspector], table: str):
        in_file, on_server = (_plain(_everything_about(inspector, table)) for inspector in both)
        assert on_server == in_file

    def test_so_are_views_and_names(self, both: tuple[Inspector, Inspector]):
        in_file, on_server = (
            {
                "tables": inspector.get_table_names(),
                "views": inspector.get_view_names(),
                "view": inspector.get_view_definition("seen"),
                "columns": repr(inspector.get_columns("seen")),
                "there": [inspector.has_table(name) for name in ("parent", "seen", "vectors_e_shadow", "nowhere")],
                "schemas": inspector.get_schema_names(),
                "sorted": sorted(inspector.get_sorted_table_and_fkc_names(), key=repr),
                "in main": [inspector.get_table_names("main"), repr(inspector.get_columns("parent", "main"))],
            }
            for inspector in both
        )
        assert on_server == in_file
        assert "vectors_e_shadow" not in on_server["tables"]

    def test_a_missing_table_is_an_error(self, both: tuple[Inspector, Inspector]):
        for inspector in both:
            for what in QUESTIONS:
                with pytest.raises(exc.NoSuchTableError):
                    getattr(inspector, f"get_{what}")("nowhere")

    def test_an_inspector_sees_changes_after_it_forgot(self, engine: Engine):
        inspector = inspect(engine)
        assert len(inspector.get_columns("t")) == 2
        with engine.begin() as connection:
            connection.exec_driver_sql("ALTER TABLE t ADD COLUMN more TEXT")
        assert len(inspect(engine).get_columns("t")) == 3
        inspector.clear_cache()
        assert len(inspector.get_columns("t")) == 3

    def test_what_its_own_transaction_made_is_seen(self, engine: Engine):
        with engine.connect() as connection:
            connection.exec_driver_sql("CREATE TABLE made (x INTEGER)")
            assert [column["name"] for column in inspect(connection).get_columns("made")] == ["x"]
            connection.rollback()
        assert not inspect(engine).has_table("made")

    def test_a_token_for_reading_is_enough(self, tmp_path: Path, key: Key):
        with Sqld(directory=tmp_path, jwt_public_key=key.public_pem) as server:
            writer = create_engine(server.url, connect_args={"auth_token": token(key=key)})
            with writer.begin() as connection:
                for sql in DDL:
                    connection.exec_driver_sql(sql)
            reader = create_engine(server.url, connect_args={"auth_token": token(key=key, access="ro")})
            for table in TABLES:
                assert _plain(_everything_about(inspect(reader), table)) == _plain(
                    _everything_about(inspect(writer), table)
                )
            writer.dispose()
            reader.dispose()


@pytest.mark.parametrize(
    "sql",
    ["ATTACH DATABASE 'other.db' AS test_schema", "CREATE TEMPORARY TABLE tt (x)", "CREATE TEMP VIEW tv AS SELECT 1"],
)
def test_the_server_refuses_what_compliance_exceptions_list(engine: Engine, sql: str):
    """See tests/compliance/exceptions.py."""
    with engine.connect() as connection, raises(exc.NotSupportedError, code="SQL_PARSE_ERROR") as caught:
        connection.exec_driver_sql(sql)
    refusal: Any = caught.value.orig
    assert "unsupported" in str(refusal) or "not authorized" in str(refusal) or refusal.code == "FORBIDDEN", refusal
