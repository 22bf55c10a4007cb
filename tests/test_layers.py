"""The layers, checked by import-linter: imports only go down."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[1]


@pytest.mark.parametrize("project", [CHECKOUT, CHECKOUT / "packages" / "memory-storage-report"], ids=lambda at: at.name)
def test_imports_only_go_down(project: Path) -> None:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
