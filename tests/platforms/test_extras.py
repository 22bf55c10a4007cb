"""The script that installs each extra alone."""

from __future__ import annotations

import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

tomllib = pytest.importorskip("tomllib", reason="new in Python 3.11, as is the script's")
ROOT = Path(__file__).parents[2]
_OF_DEVELOPERS = {"bench", "dev", "docs", "smoke", "smoke-portable"}


def test_every_extra_is_proved(monkeypatch):
    loader = SourceFileLoader("extras", str(ROOT / ".ci/extras"))
    module = module_from_spec(spec_from_loader("extras", loader))
    monkeypatch.setitem(sys.modules, "extras", module)
    loader.exec_module(module)
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(module.PROOFS) == {"", *declared} - _OF_DEVELOPERS
