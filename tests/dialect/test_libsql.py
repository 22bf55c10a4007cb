"""The SQLAlchemy dialect: URLs, the pool, transactions, reflection."""

import threading

import pytest
from sqlalchemy import (
    BigInteger,
    Column,
    ForeignKey,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    exc,
    inspect,
    pool,
    select,
    text,
)
from sqlalchemy.dialects.sqlite import insert

from memory_storage import dbapi
from memory_storage.dbapi import Batch, BatchStep
from tests.raising import raises

metadata = MetaData()
t = Table("t", metadata, Column("id", Integer, primary_key=True), Column("v", String, unique=True))
child = Table("child", metadata, Column("t", ForeignKey("t.id")), Column("big", BigInteger), Column("raw", LargeBinary))


@pytest.fixture
def url(path):
    return f"libsql:///{path}"


@pytest.fixture(params=["file", "memory"])
def engine(request, url):
    engine = create_engine(url if request.param == "file" else "libsql://")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture(params=["file", "memory"])
def libsql_engine(request, url):
    """An engine on libSQL's own driver, whose panics break a connection."""
    engine = create_engine(f"{url if request.param == 'file' else 'libsql://'}?local_engine=libsql")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def file_engine(url):
    engine = create_engine(f"{url}?busy_timeout=0")
    metadata.create_all(engine)
    yield engine
    engine.dispose()


def rows(engine):
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(t).order_by(t.c.id))]


def test_the_dialect_is_known_as_sqlite_with_a_libsql_driver(engine):
    assert (engine.name, engine.driver, engine.dialect.is_async) == ("sqlite", "libsql", False)
    assert engine.dialect.server_version_info or engine.connect().dialect.server_version_info == (3, 45, 1)
    assert isinstance(engine.pool, pool.QueuePool)
    assert engine.dialect.import_dbapi() is dbapi


def test_options_of_the_url_reach_the_driver(url):
    with create_engine(f"{url}?durability=normal&busy_timeout=2.5").connect() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 1


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("libsql://localhost/x?speed=high", "no option but tls"),
        ("libsql:///x.db?speed=high", "unknown option 'speed'"),
    ],
)
def test_urls_that_cannot_work_are_refused(url, message):
    with pytest.raises(exc.ArgumentError, match=message):
        create_engine(url).connect()


def test_a_relative_path_is_taken_from_where_the_engine_was_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    engine = create_engine("libsql:///here.db")
    engine.connect().close()
    engine.dispose()
    assert (tmp_path / "here.db").exists()


def test_each_memory_engine_is_one_database_for_all_threads():
    one, two = create_engine("libsql://"), create_engine("libsql:///:memory:")
    metadata.create_all(one)

    def write(n):
        with one.begin() as connection:
            connection.execute(t.insert(), {"id": n, "v": str(n)})

    threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rows(one)) == 8
    assert inspect(two).get_table_names() == []


def test_a_block_commits_and_an_error_undoes_it(engine):
    with engine.begin() as connection:
        connection.execute(t.insert(), {"v": "kept"})
    with raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"), engine.begin() as connection:
        connection.execute(t.insert(), {"v": "lost"})
        connection.execute(t.insert(), {"v": "lost"})
    assert rows(engine) == [(1, "kept")]


def test_the_schema_is_part_of_the_transaction(engine):
    with engine.connect() as connection:
        metadata.drop_all(connection)
        connection.rollback()
    assert sorted(inspect(engine).get_table_names()) == ["child", "t"]


def test_nested_blocks_are_savepoints(engine):
    with engine.begin() as connection:
        connection.execute(t.insert(), {"v": "outer"})
        with raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_UNIQUE"), connection.begin_nested():
            connection.execute(t.insert(), [{"v": "inner"}, {"v": "outer"}])
        connection.execute(t.insert(), {"v": "after"})
    assert [v for _, v in rows(engine)] == ["outer", "after"]


def test_errors_are_sqlalchemys_over_the_drivers(engine):
    with engine.connect() as connection:
        with raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY") as caught:
            connection.execute(child.insert(), {"t": 7})
        assert caught.value.orig.code == "SQLITE_CONSTRAINT_FOREIGNKEY"
        with raises(exc.OperationalError, code="SQLITE_ERROR", match="no such table"):
            connection.execute(text("SELECT * FROM nowhere"))
        with pytest.raises(exc.DataError):
            connection.execute(child.insert(), {"big": 2**63})


def test_wide_integers_and_bytes_and_upserts(engine):
    with engine.begin() as connection:
        connection.execute(child.insert(), [{"big": 2**63 - 1, "raw": b"\0"}, {"big": -(2**63), "raw": b"\xff"}])
        assert connection.execute(select(child.c.big, child.c.raw)).all() == [(2**63 - 1, b"\0"), (-(2**63), b"\xff")]
        upsert = insert(t).values(id=1, v="x").on_conflict_do_update(index_elements=["id"], set_={"v": "y"})
        for _ in range(2):
            connection.execute(upsert)
    assert rows(engine) == [(1, "y")]


def test_libsql_begin_locks_before_reading(file_engine):
    with file_engine.connect() as reader, file_engine.connect() as writer:
        reader = reader.execution_options(libsql_begin="IMMEDIATE")
        assert reader.get_execution_options()["libsql_begin"] == "IMMEDIATE"
        reader.execute(select(t))
        with raises(exc.OperationalError, code="SQLITE_BUSY", match="locked"):
            writer.execute(t.insert(), {"v": "x"})


def test_libsql_begin_is_reset_when_the_connection_is_returned(file_engine):
    with file_engine.connect().execution_options(libsql_begin="DEFERRED") as connection:
        dbapi_connection = connection.connection.dbapi_connection
        assert dbapi_connection.begin_mode == "DEFERRED"
        begin = file_engine.dialect.connection_characteristics["libsql_begin"]
        assert begin.get_characteristic(file_engine.dialect, dbapi_connection) == "DEFERRED"
    assert dbapi_connection.begin_mode == ""


def test_libsql_begin_for_an_engine(url):
    engine = create_engine(url, execution_options={"libsql_begin": "IMMEDIATE"})
    with engine.connect() as connection:
        assert connection.connection.dbapi_connection.begin_mode == "IMMEDIATE"
    engine.dispose()


def test_an_unknown_libsql_begin_is_refused(engine):
    with engine.connect() as connection, pytest.raises(exc.ArgumentError, match="libsql_begin"):
        connection.execution_options(libsql_begin="EXCLUSIVE")


def test_autocommit_commits_each_statement_and_is_reset_later(engine):
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(t.insert(), {"v": "x"})
        connection.rollback()
        assert connection.get_isolation_level() == "SERIALIZABLE"
        dbapi_connection = connection.connection.dbapi_connection
        assert engine.dialect.detect_autocommit_setting(dbapi_connection)
    assert not dbapi_connection.autocommit
    assert rows(engine) == [(1, "x")]


def test_a_batch_runs_through_sqlalchemy(engine):
    with engine.connect() as connection:
        batch = Batch([BatchStep("INSERT INTO t (v) VALUES (?)", ("x",), rows=1), BatchStep("SELECT count(*) FROM t")])
        assert connection.exec_driver_sql(batch).scalar() == 1
    assert rows(engine) == [(1, "x")]


def test_after_a_panic_the_next_checkout_works(libsql_engine):
    with libsql_engine.connect() as connection:
        connection.execute(t.insert(), {"v": "lost"})
        with pytest.raises(exc.InterfaceError) as caught:
            connection.exec_driver_sql("SELECT CAST(x'ff' AS TEXT)")
        assert caught.value.connection_invalidated
    assert rows(libsql_engine) == []


def test_a_connection_that_broke_in_the_pool_is_not_handed_out(libsql_engine):
    raw = libsql_engine.raw_connection()
    broken = raw.dbapi_connection
    raw.close()
    with pytest.raises(dbapi.InterfaceError):
        broken.execute("SELECT CAST(x'ff' AS TEXT)")
    with libsql_engine.connect() as connection:
        assert connection.connection.dbapi_connection is not broken


def test_a_pragma_of_a_connect_event_holds_for_its_connection(url):
    engine = create_engine(url)
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = OFF"))
    metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(child.insert(), {"t": 7})
    engine.dispose()


def test_functions_that_sqlite3_adds_in_python_are_in_the_engine(engine):
    with engine.connect() as connection:
        assert connection.execute(select(text("floor(2.7), 'abc' REGEXP '^a'"))).one() == (2, 1)


@pytest.fixture
def vector_engine(libsql_engine):
    with libsql_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE emb (id INTEGER PRIMARY KEY, e F32_BLOB(3), v TEXT)")
        connection.exec_driver_sql("CREATE INDEX emb_v ON emb (v)")
        connection.exec_driver_sql("CREATE INDEX emb_e ON emb (libsql_vector_idx(e, 'compress_neighbors=float8'))")
        connection.exec_driver_sql("CREATE TABLE user_shadow (id INTEGER PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO emb (e) VALUES (vector('[1,2,3]'))")
    return libsql_engine


def test_reflection_hides_only_the_tables_of_vector_indexes(vector_engine):
    assert sorted(inspect(vector_engine).get_table_names()) == ["child", "emb", "t", "user_shadow"]


def test_reflection_leaves_a_vector_index_out_without_a_warning(vector_engine):
    assert [index["name"] for index in inspect(vector_engine).get_indexes("emb")] == ["emb_v"]
    reflected = MetaData()
    reflected.reflect(vector_engine)
    assert [index.name for index in reflected.tables["emb"].indexes] == ["emb_v"]
    assert isinstance(reflected.tables["emb"].c.e.type, LargeBinary)


def test_reflection_hides_them_in_an_attached_database_too(url, tmp_path):
    other = dbapi.connect(str(tmp_path / "other.db"), local_engine="libsql")
    other.execute("CREATE TABLE emb (id INTEGER PRIMARY KEY, e F32_BLOB(3))")
    other.execute("CREATE INDEX emb_e ON emb (libsql_vector_idx(e))")
    other.commit()
    other.close()
    engine = create_engine(f"{url}?local_engine=libsql")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"ATTACH '{tmp_path / 'other.db'}' AS other")
        assert inspect(connection).get_table_names("other") == ["emb"]
        assert inspect(connection).get_indexes("emb", "other") == []
    engine.dispose()
