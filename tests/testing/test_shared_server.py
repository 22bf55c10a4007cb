"""`--server`: other namespaces of the database are unchanged, and no rows of the tests are left."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

import memory_storage as ms
from memory_storage.testing import Sqld
from memory_storage.testing._ports import free_port
from tests.shared_server import SharedServer, settings_of_environment

ROOT = Path(__file__).parents[2]
TABLES = ("episodes", "steps", "patterns", "embeddings", "spatiotemporal_index", "facets", "forgotten", "vector_models")
NAMESPACES = ("default", "other", "alice", "test-", "test-ffffffff-0", "' OR '1'='1")
SECRET = "eyJhbGciOiJFZERTQSJ9.e30.c2VjcmV0LXNlY3JldA"
CONFTEST = 'pytest_plugins = ["tests.conftest"]\n'
TESTS = """
import pytest
import memory_storage as ms


def fill(storage):
    for view in (storage, storage.in_namespace("alice"), storage.in_namespace("default")):
        assert view.episodes.count() == view.patterns.count() == 0
        episode = view.episodes.save(ms.Episode(task_description="t", tags=["tag"], steps=[ms.Step(tool="t")]))
        view.embeddings.put("episode", episode.id, [1.0, 0.0], model="m")
        view.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[episode.id]))
    erased = storage.episodes.save(ms.Episode(task_description="erased"))
    storage.forget(episode=erased.id, scrub=False)


def test_passes(storage):
    fill(storage)


def test_fails(storage):
    fill(storage)
    assert storage.episodes.count() == 0


def test_writes_by_its_own_sql(storage):
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE episodes SET outcome = 'x'")


def test_scrubs(storage):
    storage.scrub()


@pytest.mark.whole_database
def test_is_left_out(storage):
    fill(storage)


def test_zz_is_interrupted(storage):
    fill(storage)
    raise KeyboardInterrupt
"""


@pytest.fixture(scope="module")
def shared_url(sqld: Sqld) -> Iterator[str]:
    """A database that has rows of others, which are the same at the end."""
    sqld.create_namespace("shared")
    url = sqld.url_of("shared")
    with ms.MemoryStorage.open(url) as storage:
        for name in NAMESPACES:
            view = storage.in_namespace(name)
            episode = view.episodes.save(ms.Episode(task_description="theirs", tags=["tag"], steps=[ms.Step(tool="t")]))
            view.embeddings.put("episode", episode.id, [1.0, 0.0], model="m")
            view.embeddings.put("episode", episode.id, [1.0, 0.0], model="conformance")
            view.patterns.save(ms.Heuristic(condition="c", action="a", evidence=[episode.id]))
            view.forget(episode=view.episodes.save(ms.Episode(task_description="erased")).id, scrub=False)
    yield url
    sqld.delete_namespace("shared")


def rows_of(url: str) -> dict[str, list[tuple[Any, ...]]]:
    """Every row that a namespace has, and every tombstone; and the vector spaces with what they count."""
    with ms.MemoryStorage.open(url) as storage, storage.engine.connect() as connection:
        return {
            name: sorted(map(tuple, connection.execute(text(f"SELECT * FROM {name}"))), key=repr) for name in TABLES
        }


def started(*arguments: object, cwd: Path = ROOT, **environment: str) -> subprocess.Popen[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("TURSO_", "LIBSQL_", "PYTEST_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "no:randomly", *map(str, arguments)],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(ROOT), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.slow
def test_two_runs_at_once_leave_other_rows_alone(shared_url):
    before = rows_of(shared_url)
    chosen = ["tests/testing/test_conformance.py", "tests/sql/test_metadata_numbers.py", "-k", "server"]
    # One with workers, one without: the processes of a run share what their namespaces begin with.
    runs = [started("--server", "-n", n, *chosen, TURSO_DATABASE_URL=shared_url) for n in (0, 2)]
    for run in runs:
        out, _ = run.communicate(timeout=300)
        assert run.returncode == 0, out
        assert "tests run on it, each in a namespace of its own" in out
        assert " 0 passed" not in out
    assert rows_of(shared_url) == before


def test_failed_and_interrupted_tests_leave_nothing(tmp_path, shared_url):
    before = rows_of(shared_url)
    place = tmp_path / "tests" / "repositories"
    place.mkdir(parents=True)
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (place / "test_it.py").write_text(TESTS)
    run = started("--server", "-k", "server", cwd=tmp_path, TURSO_DATABASE_URL=shared_url)
    out, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, out
    assert "server: 5 tests run on it" in out
    assert "3 failed, 1 passed" in out, out
    assert "mark the test whole_database: UPDATE episodes" in out
    assert rows_of(shared_url) == before


def test_without_a_server_it_is_a_usage_error():
    run = started("--server", "tests/testing/test_conformance.py")
    out, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert out.startswith("ERROR: --server needs TURSO_DATABASE_URL")
    assert out.count("\n") <= 2, out


@pytest.mark.parametrize("database", ["", "memory.db", "libsql://", "http://db.example.com"])
def test_what_names_no_server_is_a_usage_error(monkeypatch, database):
    monkeypatch.setenv("TURSO_DATABASE_URL", database)
    monkeypatch.setenv("TURSO_AUTH_TOKEN", SECRET)
    with pytest.raises(pytest.UsageError, match="--server needs TURSO_DATABASE_URL") as caught:
        settings_of_environment()
    assert SECRET not in str(caught.value)


def test_a_server_that_is_away_is_a_usage_error():
    settings = ms.Settings(database=f"libsql://127.0.0.1:{free_port()}?tls=0", auth_token=SECRET)
    with pytest.raises(pytest.UsageError, match=r"--server: .*the server cannot be reached") as caught:
        SharedServer(settings, run=None, is_worker=False).pytest_sessionstart()
    assert SECRET not in str(caught.value)


def test_without_the_option_the_variables_are_ignored(shared_url):
    before = rows_of(shared_url)
    run = started("tests/testing/test_conformance.py", "-k", "memory and stale", TURSO_DATABASE_URL=shared_url)
    out, _ = run.communicate(timeout=300)
    assert run.returncode == pytest.ExitCode.OK, out
    assert "ignored: TURSO_DATABASE_URL" in out
    assert rows_of(shared_url) == before
