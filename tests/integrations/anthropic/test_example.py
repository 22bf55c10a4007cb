"""The example runs: the SDK's own loop calls the tool, and a second conversation finds what the first one noted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[3] / "examples" / "anthropic_memory.py"


@pytest.mark.slow
def test_a_second_conversation_knows_what_the_first_one_noted(database):
    command = [sys.executable, "-W", "error", EXAMPLE, "--database", database]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        "Ann prefers short answers.",
        "  memory: view /memories",
        "  memory: create /memories/customers/ann.md",
        "  Noted.",
        "How does Ann like her answers?",
        "  memory: view /memories",
        "  memory: view /memories/customers/ann.md",
        "  - prefers short answers",
    ]
