"""An example as a program."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[1] / "examples"


def output_of(example: str, database: object, *, seconds: float = 300.0) -> list[str]:
    """Run an example on a database, where a warning is an error; return the lines that it prints."""
    command = [sys.executable, "-W", "error", EXAMPLES / example, "--database", database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()
