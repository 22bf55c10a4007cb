"""The house plan, held by import-linter: imports only go down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_imports_only_go_down() -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
