"""The project's sentences use the field's terms: no retired coinage is left in code or documentation."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LISTED = Path(__file__).with_name("retired.txt")
RETIRED = [line.split("\t") for line in LISTED.read_text().splitlines() if line and not line.startswith("#")]
# Released revisions are never edited; the changelog and the list itself name what was renamed; data is as recorded.
LEFT_OUT = ("migrations/versions/", "CHANGELOG.md", "tests/wording/", "tests/stored/", "tests/api_snapshot.txt")


def _texts() -> list[Path]:
    tracked = subprocess.run(
        ["git", "ls-files", "*.py", "*.pyi", "*.md", "*.toml", "*.ini", "*.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return [ROOT / name for name in tracked.stdout.splitlines() if not name.startswith(LEFT_OUT)]


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="the list of files comes from git")
def test_no_retired_word_is_left():
    words = re.compile("|".join(rf"\b(?:{pattern})\b" for pattern, _ in RETIRED), re.IGNORECASE)
    used = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}"
        for path in _texts()
        if path.is_file()
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if words.search(line) and "wording: " not in line
    ]
    assert not used, "use the standard terms (tests/wording/retired.txt):\n" + "\n".join(used)
