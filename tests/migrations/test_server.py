"""The revisions on a server: atomic, run once, and without the loss of other rows."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command as commands
from sqlalchemy import Engine, create_engine, exc, make_url

import memory_storage as ms
from memory_storage import migrate, schema
from memory_storage.schema.revisions import REVISIONS
from memory_storage.testing import Sqld
from tests.checks import assert_consistent, dump, row_counts, schema_of
from tests.proxy import Proxy
from tests.raising import raises
from tests.server.tokens import Key, token
from tests.test_forget import insert_checkpoint

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def schema_by_template() -> None:
    """Leave `migrate` as it is: these tests are about the revisions."""


@pytest.fixture
def url(request: pytest.FixtureRequest, database: Path) -> str:
    """An empty database, in a file or on the server."""
    if getattr(request, "param", "server") == "file":
        return f"libsql:///{database}"
    return str(request.getfixturevalue("empty_server_url"))


@pytest.fixture
def engine(url: str) -> Iterator[Engine]:
    # Revisions before 0003 fill DiskANN indexes, which SQLite cannot.
    made = create_engine(f"{url}?local_engine=libsql" if url.startswith("libsql:///") else url)
    yield made
    made.dispose()


on_both = pytest.mark.parametrize("url", ["file", "server"], indirect=True)


def _fill(engine: Engine) -> ms.Episode:
    """A row in each table, and two episodes with two steps each."""
    storage = ms.MemoryStorage(engine, ms.Settings(database=":memory:"))
    episode, _ = storage.episodes.save_many(
        [
            ms.Episode(task_description="a", tags=["tag"], steps=[ms.Step(tool="t", action=action) for action in "ab"])
            for _ in range(2)
        ]
    )
    storage.patterns.save(ms.Heuristic(condition="if", action="then"))
    storage.embeddings.put("episode", episode.id, [1.0] * 384, model="m")
    storage.spatiotemporal.put(
        ms.SpatiotemporalEntry(owner_type="episode", owner_id=episode.id, latitude=1, longitude=2, place_name="here")
    )
    storage.items.put(("a",), "k", 1, vectors={"$": [1.0, 2.0]}, model="m")
    storage.logs.append("log", [1])
    insert_checkpoint(storage, episode.id, "state")
    storage.relationships.add(episode.id, storage.episodes.save(ms.Episode(task_description="b")).id, "parent_child")
    storage.recall("anything", keep=True)
    return episode


@pytest.fixture(scope="module")
def expected() -> list[tuple[Any, ...]]:
    """The schema that a storage in memory has."""
    with ms.MemoryStorage.open(":memory:") as storage:
        return schema_of(storage.engine)


class TestUpAndDown:
    def test_with_rows_in_all_tables(self, engine: Engine, expected: list[tuple[Any, ...]]):
        migrate.upgrade(engine)
        assert schema_of(engine) == expected
        _fill(engine)
        assert all(row_counts(engine).values())
        assert_consistent(engine)
        migrate.downgrade(engine, "base")
        assert migrate.current(engine) is None
        migrate.upgrade(engine)
        assert schema_of(engine) == expected
        assert not any(row_counts(engine).values())
        _fill(engine)
        assert_consistent(engine)

    @pytest.mark.slow
    def test_alembics_own_command(self, url: str, engine: Engine, expected: list[tuple[Any, ...]]):
        _run("alembic", "-x", f"database={url}", "upgrade", "head")
        assert schema_of(engine) == expected
        _fill(engine)
        assert schema.HEAD in _run("alembic", "current", TURSO_DATABASE_URL=url)
        assert "No new upgrade operations" in _run("alembic", "check", TURSO_DATABASE_URL=url)
        _run("alembic", "-x", f"database={url}", "downgrade", "base")
        assert migrate.current(engine) is None

    @pytest.mark.slow
    def test_the_packages_own_command(self, url: str, engine: Engine, expected: list[tuple[Any, ...]]):
        assert f"empty -> {schema.HEAD}" in _run("memory_storage", "upgrade", "--database", url)
        assert schema_of(engine) == expected
        assert "already" in _run("memory_storage", "upgrade", "--database", url)
        assert schema.HEAD in _run("memory_storage", "current", "--database", url)

    def test_the_tables_in_the_code_are_those_on_the_server(self, engine: Engine):
        migrate.upgrade(engine)
        settings = migrate.config()
        with engine.connect() as connection:
            settings.attributes["connection"] = connection
            commands.check(settings)

    @pytest.mark.slow
    @on_both
    def test_the_printed_sql_makes_the_same_schema(self, url: str, engine: Engine, expected: list[tuple[Any, ...]]):
        script = _run("alembic", "-x", f"database={url}", "upgrade", "head", "--sql")
        assert schema_of(engine) == []
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.connection.cursor().executescript(script)  # type: ignore[attr-defined]
        assert schema_of(engine) == expected

    @on_both
    def test_an_older_database_is_brought_up_to_date_with_its_rows(self, url: str, engine: Engine):
        migrate.upgrade(engine)
        episode = _fill(engine)
        before = dump(engine)
        migrate.downgrade(engine, "0001")
        with raises(exc.OperationalError, code="SQLITE_ERROR", match="receipts"), engine.connect() as connection:
            connection.exec_driver_sql("SELECT * FROM receipts")
        with ms.MemoryStorage.open(url) as storage:
            assert migrate.current(storage.engine) == schema.HEAD
            assert storage.episodes.get(episode.id) == episode
            storage.episodes.save(ms.Episode(task_description="continues"))
            storage.episodes.delete(storage.episodes.query(limit=1).items[0].id)
        assert dump(engine)["patterns"] == before["patterns"]

    @pytest.mark.slow
    def test_another_programs_database_is_left_alone(self, url: str, engine: Engine):
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE theirs (x)")
        before = schema_of(engine)
        with pytest.raises(ms.SchemaError, match="theirs"):
            migrate.ensure(engine)
        assert "theirs" in _run("alembic", "-x", f"database={url}", "upgrade", "head", fails=True)
        assert schema_of(engine) == before


class TestCost:
    def test_a_database_that_is_ready_is_opened_with_one_question(self, url: str, engine: Engine, line: Proxy):
        migrate.ensure(engine)
        behind = create_engine(_through(line, url))
        line.reset_counts()
        migrate.ensure(behind)
        assert line.round_trips == 1
        behind.dispose()

    def test_the_first_time_takes_few(self, url: str, line: Proxy):
        behind = create_engine(_through(line, url))
        migrate.ensure(behind)
        assert line.round_trips <= 4 * len(REVISIONS)
        behind.dispose()

    def test_a_token_for_reading_opens_it(self, tmp_path: Path, key: Key):
        with Sqld(directory=tmp_path, jwt_public_key=key.public_pem) as server:
            with ms.MemoryStorage.open(server.url, auth_token=token(key=key)) as storage:
                saved = storage.episodes.save(ms.Episode(task_description="a"))
            with ms.MemoryStorage.open(server.url, auth_token=token(key=key, access="ro")) as storage:
                assert storage.episodes.get(saved.id) == saved


@pytest.fixture
def line(sqld: Sqld, proxy: Callable[..., Proxy]) -> Proxy:
    return proxy(sqld.port)


def _through(line: Proxy, url: str) -> str:
    return str(make_url(url).set(port=line.port))


class TestAllOrNothing:
    @pytest.mark.parametrize("percent", [10, 30, 50, 70, 90, 99])
    @pytest.mark.parametrize("direction", ["request", "reply"])
    def test_a_cut_connection_leaves_all_of_a_migration_or_none(
        self, url: str, engine: Engine, line: Proxy, expected: list[tuple[Any, ...]], direction: str, percent: int
    ):
        size = {"request": 30_000, "reply": 21_000}[direction] * percent // 100  # of what it takes
        cut = line.cut_request_after if direction == "request" else line.cut_reply_after
        cut(size, times=2)  # the second one is the attempt to continue
        behind = create_engine(_through(line, url))
        try:
            migrate.ensure(behind)
        except exc.OperationalError:
            pass
        finally:
            behind.dispose()
        assert schema_of(engine) in ([], expected)

    @pytest.mark.slow
    def test_it_can_be_tried_again_at_once(self, url: str, line: Proxy, expected: list[tuple[Any, ...]]):
        """Also when the server still holds the lock of the attempt that was cut off: it ends that after 5 seconds."""
        behind = create_engine(_through(line, url))
        line.cut_reply_after(10_000, times=2)
        with raises(exc.OperationalError, code="TRANSACTION_LOST"):
            migrate.ensure(behind)
        line.cut_reply_after(None)
        migrate.ensure(behind)
        assert schema_of(behind) == expected
        behind.dispose()

    @pytest.mark.slow
    @on_both
    def test_several_processes_at_once_do_it_once(self, url: str, engine: Engine, expected: list[tuple[Any, ...]]):
        code = "import sys, memory_storage as ms; ms.MemoryStorage.open(sys.argv[1]).close()"
        processes = [subprocess.Popen([sys.executable, "-W", "error", "-c", code, url]) for _ in range(3)]
        assert [process.wait(60) for process in processes] == [0, 0, 0]
        assert schema_of(engine) == expected
        assert migrate.current(engine) == schema.HEAD


# Alembic recreates a table with these: a copy, a DROP, and a new name.
RECREATE = """
def upgrade():
    query = "SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view') ORDER BY type"
    for kind, name in op.get_bind().exec_driver_sql(query).all():
        op.execute(f"DROP {kind} {name}")
    with op.batch_alter_table("episodes", recreate="always") as batch:
        batch.add_column(sa.Column("mood", sa.Text))
"""
BREAK = """
def upgrade():
    op.execute("CREATE TABLE more (x)")
    op.execute("DELETE FROM episodes WHERE seq = 1")
"""
FAIL = """
def upgrade():
    op.execute("CREATE TABLE more (x)")
    op.execute("DELETE FROM steps")
    op.execute("SELECT * FROM nowhere")
"""


@on_both
class TestForeignKeys:
    @pytest.fixture
    def revise(self, engine: Engine, tmp_path: Path) -> Callable[[str], None]:
        """Runs a revision of the test's own after the package's, as `migrate.upgrade` runs those."""
        head = f"import sqlalchemy as sa\nfrom alembic import op\nrevision, down_revision = 'test', '{schema.HEAD}'\n"

        def run(body: str) -> None:
            (tmp_path / "test_revision.py").write_text(head + body)
            settings = migrate.config()
            settings.set_main_option("path_separator", "newline")
            released = Path(__file__).parents[2] / "migrations" / "versions"
            settings.set_main_option("version_locations", f"{released}\n{tmp_path}")
            with migrate.writing(engine) as connection:
                settings.attributes["connection"] = connection
                commands.upgrade(settings, "test")

        return run

    @pytest.fixture(autouse=True)
    def _rows(self, engine: Engine) -> None:
        migrate.upgrade(engine)
        _fill(engine)

    def test_recreating_a_table_deletes_no_rows_of_others(self, engine: Engine, revise: Callable[[str], None]):
        before = dump(engine)
        revise(RECREATE)
        after = dump(engine)
        assert {table: after[table] for table in after if table != "episodes"} == {
            table: before[table] for table in before if table != "episodes"
        }
        assert sorted(row[:-1] for row in after["episodes"]) == sorted(before["episodes"])
        assert len(after["steps"]) == 4

    def test_and_they_are_enforced_again(self, engine: Engine, revise: Callable[[str], None]):
        revise(RECREATE)
        with (
            raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY", match="FOREIGN KEY"),
            engine.begin() as connection,
        ):
            connection.exec_driver_sql("UPDATE steps SET namespace = 'none'")
        with engine.begin() as connection:
            connection.exec_driver_sql("DELETE FROM episodes WHERE seq = 1")
        assert row_counts(engine)["steps"] == 2

    @pytest.mark.parametrize(("body", "error"), [(BREAK, ms.SchemaError), (FAIL, exc.OperationalError)])
    def test_a_failed_revision_or_one_that_orphans_rows_is_undone(
        self, engine: Engine, revise: Callable[[str], None], body: str, error: type[Exception]
    ):
        before, tables = dump(engine), schema_of(engine)
        with pytest.raises(error, match=r"steps refer to rows|no such table"):
            revise(body)
        assert (dump(engine), schema_of(engine), migrate.current(engine)) == (before, tables, schema.HEAD)
        with (
            raises(exc.IntegrityError, code="SQLITE_CONSTRAINT_FOREIGNKEY", match="FOREIGN KEY"),
            engine.begin() as connection,
        ):
            connection.exec_driver_sql("UPDATE steps SET namespace = 'none'")

    def test_dropping_a_parent_table_would_delete_its_children(self, engine: Engine):
        """What `migrate.writing` is for."""
        with engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE parents (id INTEGER PRIMARY KEY)")
            connection.exec_driver_sql("CREATE TABLE children (id REFERENCES parents ON DELETE CASCADE)")
            connection.exec_driver_sql("INSERT INTO parents VALUES (1)")
            connection.exec_driver_sql("INSERT INTO children VALUES (1)")
            connection.exec_driver_sql("DROP TABLE parents")
            assert connection.exec_driver_sql("SELECT count(*) FROM children").scalar() == 0


def _run(module: str, *arguments: str, fails: bool = False, **environment: str) -> str:
    command = [sys.executable, "-W", "error", "-m", module, *arguments]
    done = subprocess.run(
        command, cwd=CHECKOUT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode != 0) is fails, done.stderr
    return done.stderr if fails else done.stdout
