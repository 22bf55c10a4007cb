"""The loop of the README, as a program that is run twice."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

_README = (Path(__file__).parents[2] / "README.md").read_text()
_LOOP = re.search(r"```python\n(.*?)```", _README, re.DOTALL)[1]


def _run(directory: Path) -> str:
    done = subprocess.run([sys.executable, "-c", _LOOP], cwd=directory, capture_output=True, text=True, timeout=120)
    assert done.stderr == ""
    return done.stdout


def test_the_loop_has_fifteen_lines_and_recalls_on_the_second_run(tmp_path):
    assert len(_LOOP.splitlines()) <= 15
    first, second = _run(tmp_path), _run(tmp_path)
    assert first.startswith("nothing is known\n")
    assert second.startswith("# Recalled from memory\n")
    assert "nothing is known" not in second
    assert "edit freeze the clock" in second.partition("## Patterns")[0]
    assert "pytest → edit → pytest" in second.partition("## Patterns")[2]
