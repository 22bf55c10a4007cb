"""Marks for tests that need fewer backends than the fixture `storage` offers."""

from __future__ import annotations

import pytest

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)
"""For what the package refuses before it sends a statement: the backend cannot make a difference."""
