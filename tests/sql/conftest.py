"""Runs the tests of `sql` on an encrypted file too, and counts the instructions of the engine."""

from __future__ import annotations

import pytest

from memory_storage.dbapi import _sqlite
from tests.encrypted import encrypted_template, target  # noqa: F401 - fixtures


@pytest.fixture
def engine_steps(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many hundred instructions the engine has run: the one element grows."""
    steps = [0]

    def count(_: object) -> bool:
        steps[0] += 1
        return False

    monkeypatch.setattr(_sqlite, "_FIRST_STEPS", 100)
    monkeypatch.setattr(_sqlite._Watch, "__call__", count)
    return steps
