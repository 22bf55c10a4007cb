"""Runs commands: in this process for most tests, and in a process of their own where that matters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from memory_storage.cli import app
from tests.importers.transcripts import answer, call, run, write_lines


@pytest.fixture
def command() -> Callable[..., Result]:
    """Run a command in this process; its result."""

    def invoke(*arguments: object, stdin: str | bytes | None = None) -> Result:
        result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=stdin)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


@pytest.fixture
def answered(command, database) -> Callable[..., Any]:
    """Run a command on the database with --json; what it answers."""

    def invoke(*arguments: object) -> Any:
        result = command(*arguments, "--database", database, "--json")
        assert result.exit_code == 0, result.stderr
        return json.loads(result.stdout)

    return invoke


def start(*arguments: object, **options: Any) -> subprocess.Popen[bytes]:
    """The command as a process of its own, away from the project and from the caller's settings."""
    names = ("TURSO_", "LIBSQL_", "MEMORY_STORAGE_", "COLUMNS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(names)}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "memory_storage", *map(str, arguments)],
        stderr=subprocess.PIPE,
        **{"env": environment, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, **options},
    )


@pytest.fixture
def runs(tmp_path) -> Path:
    """Four runs: two with reward 1.0, one with a call that failed, one broken at the end."""
    good = [
        run(call("look", '{"at": "flights"}'), answer("[HAT136]"), reward=1.0, trial=0, tags=["airline"]),
        run(call("look"), answer("Error: nothing there"), reward=0.0, trial=1, tags=["airline", "refund"]),
        run({"role": "assistant", "content": "Done."}, reward=1.0, trial=2),
    ]
    return write_lines(tmp_path / "runs.jsonl", [*good, {"task_id": 7}])
