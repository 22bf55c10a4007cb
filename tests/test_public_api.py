"""The public API equals `api_snapshot.txt`: names and signatures change on purpose only."""

from __future__ import annotations

import difflib

from .public_api import SNAPSHOT, describe


def test_the_public_api_is_the_snapshot():
    agreed = SNAPSHOT.read_text(encoding="utf-8")
    diff = "\n".join(difflib.unified_diff(agreed.splitlines(), describe().splitlines(), "snapshot", "now", "", "", n=0))
    assert not diff, f"on purpose? `python -m tests.public_api --write`, and a changelog entry:\n{diff}"
