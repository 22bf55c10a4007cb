"""The option `--server`: the repository and the conformance tests on the server that the environment names.

The database may be shared, and have rows of others. So a test gets a namespace, and everything that it opens is in it:
each other name that it uses becomes one below that. Its rows and tombstones are deleted when it ends; what an
interrupted run leaves is deleted at the end of the session. A test that reads or writes more than its namespaces is
marked `whole_database`, and is left out.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

import memory_storage as ms
from memory_storage import dbapi, erasure, storage
from memory_storage.engine import make_engine
from memory_storage.repositories.retention import deletion, tombstones

from . import checks

PREFIX = "test-"
MARKER = "whole_database"
_AFTER = "\U0010ffff"  # no name contains it
_TABLES = ("patterns", "episodes", "embeddings", "spatiotemporal_index", "facets")  # the other rows go with these
_UNERASE = "DELETE FROM forgotten WHERE digest IN (SELECT unhex(value) FROM json_each(?))"
_PAGE = 500
_SUITES = ("tests/repositories/", "tests/sql/", "tests/test_transaction", "tests/testing/test_conformance.py")
_READS = ("SELECT", "PRAGMA", "EXPLAIN")
_VARIABLE = "TURSO_DATABASE_URL"


def settings_of_environment() -> ms.Settings:
    """Read where the server is, and nothing else: other settings would change what the tests show.

    Raises:
        pytest.UsageError: no server is named, or a variable cannot work.
    """
    try:
        found = ms.Settings.from_environment(namespace="default")
    except ms.ConfigurationError as error:
        raise pytest.UsageError(f"--server needs {_VARIABLE} (and perhaps TURSO_AUTH_TOKEN): {error}") from None
    if found.server is None:
        raise pytest.UsageError(f"--server needs {_VARIABLE} to be the URL of a server: it is a local file's")
    return ms.Settings(database=found.database, auth_token=found.auth_token, tls_ca_file=found.tls_ca_file)


class SharedServer:
    """The plugin that `--server` turns on, in the main process and in each worker.

    Args:
        settings: Where the server is.
        run: What the names of this run's namespaces begin with; the main process tells its workers.
        is_worker: Whether this is a worker of pytest-xdist.
    """

    def __init__(self, settings: ms.Settings, *, run: str | None, is_worker: bool) -> None:
        self._settings = settings
        self._run = run or f"{PREFIX}{uuid4().hex[:8]}-"
        self._is_worker = is_worker
        self._opened = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self) -> None:
        """Have the database ready before a worker starts: an empty or older one is upgraded, a newer one refused."""
        if self._is_worker:
            return
        try:
            ms.MemoryStorage.open(self._settings).close()
        except ms.MemoryStorageError as error:
            raise pytest.UsageError(f"--server: {error}") from None
        self._opened = True
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # end as by Ctrl-C, which cleans up

    def pytest_unconfigure(self) -> None:
        """Delete what an interrupted test has left; by now the workers are gone."""
        if self._opened:
            self._delete(self._run, ())

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Tell a worker which run it is of."""
        node.workerinput["shared_server_run"] = self._run

    def pytest_report_header(self) -> list[str]:
        """Name the server and the namespaces."""
        where = f"{self._settings.server} (the repository and the conformance tests)"
        return [f"server: {where}", f"namespaces: {self._run}*, deleted at the end; others are left alone"]

    def pytest_collection_modifyitems(self, config: pytest.Config, items: list[pytest.Item]) -> None:
        """Keep the tests that need no more than a namespace on a server."""
        chosen = [item for item in items if _is_chosen(item, config.rootpath)]
        left_out = [item for item in items if item not in set(chosen)]
        config.hook.pytest_deselected(items=left_out)
        items[:] = chosen

    def pytest_report_collectionfinish(self, items: list[pytest.Item]) -> str:
        """Say how many tests run."""
        return _number(len(items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node: Any, ids: list[str]) -> None:
        """Say how many tests run, once: all workers have the same."""
        if node.gateway.id == "gw0":
            node.config.pluginmanager.get_plugin("terminalreporter").write_line(_number(len(ids)))

    @pytest.fixture
    def own_namespace(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.Settings]:
        """Settings for a namespace of this test's own. Until it ends no storage in this process leaves that."""
        name = f"{self._run}{uuid4().hex[:8]}"
        digests: set[str] = set()
        try:
            with monkeypatch.context() as patch:
                _refuse_own_writes(patch)
                patch.setattr(checks, "_rows", _refuse_to_compare)
                _keep_below(name, digests, patch)
                yield ms.Settings(**{**dict(self._settings), "namespace": name})
        finally:
            self._delete(name, digests)

    def _delete(self, prefix: str, digests: Iterable[str]) -> None:
        """Delete the rows of the namespaces whose names begin with `prefix`, and the tombstones of these digests."""
        engine = make_engine(self._settings)
        try:
            with engine.begin() as connection:
                for table in _TABLES:
                    condition = "namespace >= ? AND namespace < ?"
                    connection.exec_driver_sql(f"DELETE FROM {table} WHERE {condition}", (prefix, prefix + _AFTER))
                rest = iter(digests)
                while page := list(islice(rest, _PAGE)):
                    connection.exec_driver_sql(_UNERASE, (json.dumps(page),))
        finally:
            engine.dispose()


def _is_chosen(item: pytest.Item, root: Path) -> bool:
    of_suite = item.path.relative_to(root).as_posix().startswith(_SUITES)
    on_server = getattr(item, "callspec", None) is not None and item.callspec.params.get("target") == "server"
    return of_suite and on_server and item.get_closest_marker(MARKER) is None


def _number(count: int) -> str:
    return f"server: {count} tests run on it, each in a namespace of its own; those that need a whole database do not"


def _keep_below(name: str, digests: set[str], patch: pytest.MonkeyPatch) -> None:
    """Move each namespace that a storage is given below `name`, and collect the digests of its tombstones."""
    checked, digest_of, eviction_prefix = storage._check_namespace, tombstones.digest_of, tombstones.eviction_prefix

    def below(namespace: str) -> str:
        checked(namespace)
        return namespace if namespace.startswith(name) else f"{name}/{namespace}"

    def recorded(namespace: str, row_id: Any) -> str:
        digest = digest_of(namespace, row_id)
        digests.update((digest, eviction_prefix(namespace) + str(row_id).encode().hex()))
        return digest

    def refuse(*_: Any) -> None:
        raise AssertionError(f"a scrub reaches the whole database: mark this test {MARKER}, or give it scrub=False")

    patch.setattr(storage, "_check_namespace", below)
    patch.setattr(tombstones, "digest_of", recorded)
    patch.setattr(deletion, "digest_of", recorded)
    patch.setattr(erasure.Eraser, "scrub", refuse)


def _refuse_own_writes(patch: pytest.MonkeyPatch) -> None:
    """Refuse SQL of a test's own that writes to a server: it would not keep to a namespace."""
    execute, executemany = dbapi.Cursor.execute, dbapi.Cursor.executemany

    def checked(cursor: dbapi.Cursor, sql: str, parameters: Any = ()) -> dbapi.Cursor:
        _check(cursor, sql, is_write=not isinstance(sql, dbapi.Batch) and not sql.lstrip().upper().startswith(_READS))
        return execute(cursor, sql, parameters)

    def checked_many(cursor: dbapi.Cursor, sql: str, parameters: Any) -> dbapi.Cursor:
        _check(cursor, sql, is_write=True)
        return executemany(cursor, sql, parameters)

    patch.setattr(dbapi.Cursor, "execute", checked)
    patch.setattr(dbapi.Cursor, "executemany", checked_many)


def _refuse_to_compare(_: object, sql: str, *__: object) -> None:
    raise AssertionError(f"this compares all rows of the database: mark the test {MARKER}: {sql[:60]}")


def _check(cursor: dbapi.Cursor, sql: str, *, is_write: bool) -> None:
    if is_write and cursor.connection.is_remote:
        raise AssertionError(f"this writes to the whole database: mark the test {MARKER}: {sql[:60]}")
