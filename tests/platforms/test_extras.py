"""The script that installs each extra alone."""

from __future__ import annotations

import pytest

from .scripts import ROOT, load_script

tomllib = pytest.importorskip("tomllib", reason="new in Python 3.11")
_OF_DEVELOPERS = {"bench", "dev", "docs", "smoke", "smoke-portable"}


def test_every_extra_is_proved():
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(load_script("extras").PROOFS) == {"", *declared} - _OF_DEVELOPERS
