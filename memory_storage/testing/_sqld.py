"""A libSQL server as a child process."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

from ._binary import find_sqld
from ._ports import free_port, listen

_START_SECONDS = 30.0
_STOP_SECONDS = 5.0
_ASK_AGAIN_SECONDS = 0.25
_REQUEST_SECONDS = 30.0
_LOG_TAIL = 3_000

# The watchdog kills the server at the end of its input: the server dies with this process, whatever the signal. The
# trap keeps the watchdog alive when a signal is sent to the whole group. (A new session would do that too, but Linux
# schedules by session, and a new one was observed to wait for ten seconds.)
_WATCHDOG = 'trap "" HUP INT TERM; read line; kill -9 "$0" 2>/dev/null'


class Sqld:
    """A libSQL server on 127.0.0.1; a context manager that starts and stops it.

    Args:
        directory: holds its databases, log and key; kept when the server ends.
        port: a free one by default; stays the same over restarts.
        jwt_public_key: the PEM of an Ed25519 key; requests then need a token.
        namespaces: serve several databases, see `create_namespace`.
        grpc: allow replicas.
        primary: the server of which this one is a replica.
        arguments: further arguments of the program.
    """

    def __init__(
        self,
        *,
        directory: Path | str,
        port: int | None = None,
        jwt_public_key: str | None = None,
        namespaces: bool = False,
        grpc: bool = False,
        primary: Sqld | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.directory = Path(directory)
        self.port = port or free_port()
        self.admin_port = free_port() if namespaces else None
        self.grpc_port = free_port() if grpc else None
        self._primary = primary
        self._jwt_public_key = jwt_public_key
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None
        self._watchdog: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        """Start the server and wait until it responds.

        Raises:
            RuntimeError: it runs already, or does not respond; the message has the end of its log.
        """
        if self._process is not None:
            raise RuntimeError(f"this server is running already, as process {self._process.pid}: stop it first")
        self.directory.mkdir(parents=True, exist_ok=True)
        listen(self.port).close()  # or another server on the port would respond instead
        self._spawn(find_sqld())
        try:
            self._wait_until_up()
            self._serve_the_address()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Terminate the server gracefully. No effect if it is not running."""
        deadline = time.monotonic() + _STOP_SECONDS
        while self.is_running and time.monotonic() < deadline:
            self._ask_to_end()
        self.kill()

    def kill(self) -> None:
        """Kill the server, like a power cut. No effect if it is not running."""
        if self._process is not None:
            self._dismiss_the_watchdog()
            self._process.kill()
            self._process.wait()
            self._process = None

    def restart(self) -> None:
        """Stop and start on the same port and directory. After `kill` use `start`."""
        self.stop()
        self.start()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """The URL of the database; with namespaces, that of an empty default database."""
        return f"libsql://127.0.0.1:{self.port}?tls=0"

    @property
    def log(self) -> str:
        """The log of the server since its directory was created."""
        return self._log_path.read_text(errors="replace") if self._log_path.exists() else ""

    @property
    def pid(self) -> int:
        """The process id of the server; RuntimeError if it is not running."""
        if self._process is None:
            raise RuntimeError("this server is not running: start it")
        return self._process.pid

    @property
    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def create_namespace(self, name: str) -> None:
        """Create an empty database; RuntimeError if it exists."""
        self._administer("POST", f"/v1/namespaces/{name}/create")

    def fork_namespace(self, source: str, name: str) -> None:
        """Create a database as a copy of the database `source`."""
        self._administer("POST", f"/v1/namespaces/{source}/fork/{name}")

    def delete_namespace(self, name: str) -> None:
        """Delete a database; RuntimeError if it does not exist."""
        self._administer("DELETE", f"/v1/namespaces/{name}")

    def url_of(self, namespace: str) -> str:
        """Return the URL of a namespace's database. It has `v3/pipeline` and `v2/pipeline`, but no cursors."""
        return f"libsql://127.0.0.1:{self.port}/dev/{namespace}?tls=0"

    @property
    def _log_path(self) -> Path:
        return self.directory / "sqld.log"

    def _spawn(self, program: Path) -> None:
        command = [str(program), *self._options(), *self._arguments]
        with self._log_path.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - the program of find_sqld
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=_environment(os.environ)
            )
        self._watchdog = subprocess.Popen(  # noqa: S603 - a fixed command
            ["/bin/sh", "-c", _WATCHDOG, str(self._process.pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def _options(self) -> list[str]:
        options = ["--db-path", str(self.directory / "data"), "--no-welcome"]
        options += ["--http-listen-addr", f"127.0.0.1:{self.port}"]
        if self.admin_port is not None:
            options += ["--enable-namespaces", "--admin-listen-addr", f"127.0.0.1:{self.admin_port}"]
        if self.grpc_port is not None:
            options += ["--grpc-listen-addr", f"127.0.0.1:{self.grpc_port}"]
        return options + self._primary_options() + self._key_options()

    def _primary_options(self) -> list[str]:
        if self._primary is None:
            return []
        if self._primary.grpc_port is None:
            raise ValueError("the primary does not allow replicas: start it with grpc=True")
        return ["--primary-grpc-url", f"http://127.0.0.1:{self._primary.grpc_port}"]

    def _key_options(self) -> list[str]:
        if self._jwt_public_key is None:
            return []
        path = self.directory / "jwt.pem"
        path.write_text(self._jwt_public_key)
        return ["--auth-jwt-key-file", str(path)]

    def _wait_until_up(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not self._answers():
            if not self.is_running:
                raise RuntimeError(f"sqld ended during its start:\n{self.log[-_LOG_TAIL:]}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"sqld did not respond in {_START_SECONDS:g} s:\n{self.log[-_LOG_TAIL:]}")
            time.sleep(0.005)

    def _answers(self) -> bool:
        try:
            healthy = _request(self.port, "GET", "/health")[0] == 200
        except (OSError, HTTPException):
            return False
        return healthy and self.is_running

    def _serve_the_address(self) -> None:
        """Create the default database of requests to 127.0.0.1, if there are namespaces.

        The server takes a request's namespace from the first label of its Host, which for 127.0.0.1 is `127`; it must
        exist even for a path below `/dev/`, which then decides.
        """
        if self.admin_port is not None and not (self.directory / "data" / "dbs" / "127").exists():
            self.create_namespace("127")

    def _administer(self, method: str, path: str) -> None:
        if self.admin_port is None:
            raise RuntimeError("this server has a single database: start it with namespaces=True")
        status, reply = _request(self.admin_port, method, path, b"{}" if method == "POST" else None)
        if status != 200:
            raise RuntimeError(f"{method} {path} returned status {status}: {reply.decode(errors='replace')}")

    def _ask_to_end(self) -> None:
        # Repeat it: one signal in twenty is lost soon after the start.
        if self._process is not None:
            self._process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_ASK_AGAIN_SECONDS)

    def _dismiss_the_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.kill()  # before it reads the end of its input
            self._watchdog.communicate()
            self._watchdog = None


def _environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the settings of another server."""
    kept = {name: value for name, value in environment.items() if not name.startswith(("SQLD_", "LIBSQL_"))}
    return {**kept, "RUST_LOG": "info", "NO_COLOR": "1"}


def _request(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    # The standard library, because the test support must not depend on the code under test.
    with closing(HTTPConnection("127.0.0.1", port, timeout=_REQUEST_SECONDS)) as connection:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        reply = connection.getresponse()
        return reply.status, reply.read()
