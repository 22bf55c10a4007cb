"""The server as a process over stdio: its streams, its end, and what is stored when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import mcp
import pytest

import memory_storage as ms

from .clients import command, environment, fields, over_stdio, run
from .test_hostile import HELLO, call

pytestmark = pytest.mark.slow


@pytest.fixture
def server(database):
    """A server whose streams are pipes."""
    process = subprocess.Popen(
        command("-d", database),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    yield process
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()


def ask(process: subprocess.Popen[bytes], message: dict) -> dict:
    process.stdin.write(json.dumps(message).encode() + b"\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def test_the_end_of_stdin_ends_the_server(server):
    assert ask(server, HELLO)["id"] == 0
    out, err = server.communicate(timeout=60)
    assert (server.returncode, out, err) == (0, b"", b"")


def test_the_end_of_stdin_before_a_request_ends_the_server(server):
    assert server.communicate(timeout=60) == (b"", b"")
    assert server.returncode == 0


@pytest.mark.usefixtures("interruptible")
@pytest.mark.parametrize(
    ("number", "code", "said"), [(signal.SIGTERM, 0, b""), (signal.SIGINT, 130, b"interrupted\n")], ids=["TERM", "INT"]
)
def test_a_signal_ends_the_server_while_it_waits(server, number, code, said):
    assert ask(server, HELLO)["id"] == 0
    started = time.monotonic()
    server.send_signal(number)
    out = server.stdout.read()
    assert (server.wait(60), out, server.stderr.read()) == (code, b"", said)
    assert time.monotonic() - started < 20


def test_a_client_that_is_gone_ends_the_server_without_a_traceback(server):
    assert ask(server, HELLO)["id"] == 0
    server.stdout.close()
    server.stdin.write(json.dumps(call(1, task="x")).encode() + b"\n")
    server.stdin.flush()
    server.stdin.close()
    assert server.wait(60) in (0, 141)
    assert b"Traceback" not in server.stderr.read()


def test_stdout_has_only_messages_whatever_is_printed(database):
    program = (
        "import sys; from memory_storage import MemoryStorage; from memory_storage.integrations.mcp import *\n"
        "storage = MemoryStorage.open(sys.argv[1]); server = make_server(storage)\n"
        "@server.tool()\n"
        "def shout() -> str:\n    print('noise'); return 'done'\n"
        "run_stdio(server)\n"
    )
    lines = [HELLO, {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "shout"}}]
    with subprocess.Popen(
        [sys.executable, "-c", program, str(database)],
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        answers = [ask(process, line) for line in lines]
        out, err = process.communicate(timeout=60)
    assert answers[1]["result"]["structuredContent"] == {"result": "done"}
    assert (out, err.splitlines()[0]) == (b"", b"noise")


def test_what_was_acknowledged_survives_a_kill(database):
    acknowledged: list[int] = []

    async def scenario(client: mcp.Client) -> str:
        key = (await fields(client, "start_episode", task="x"))["episode_id"]
        pids = _servers_of(database)
        assert len(pids) == 1
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            step = await fields(client, "record_step", episode_id=key, tool="x", output="y" * 2_000)
            acknowledged.append(step["step_number"])
            if len(acknowledged) == 25:
                os.kill(pids[0], signal.SIGKILL)
        return key

    with suppress(BaseException):  # whatever the client makes of a closed stream
        run(over_stdio(database), scenario)
    assert acknowledged[:25] == list(range(1, 26))
    with ms.MemoryStorage.open(database) as storage:
        (episode,) = storage.episodes.query(steps=True).items
        assert [step.step_number for step in episode.steps][: len(acknowledged)] == acknowledged
        assert len(episode.steps) <= len(acknowledged) + 1
        assert storage.health_check(deep=True).status == "healthy"


def _servers_of(database) -> list[int]:
    """The processes that serve this test's file, which no other test has."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/cmdline", "rb") as file:
                    arguments = file.read().split(b"\0")
            except OSError:
                continue
            if str(database).encode() in arguments and b"mcp" in arguments:
                found.append(int(entry))
    return found


def test_options_of_http_are_refused_without_it(database):
    done = subprocess.run(
        command("-d", database, "--token-file", "x"), env=environment(), stdin=subprocess.DEVNULL, capture_output=True
    )
    assert (done.returncode, done.stdout) == (3, b"")
    assert done.stderr == b"error: --token-file: only with --http\n"
    assert not database.exists()
