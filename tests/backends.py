"""Marks for tests that need fewer backends than the fixture `storage` offers."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)
"""For what the package refuses before it sends a statement: the backend cannot make a difference."""

needs_libsql = pytest.mark.skipif(
    find_spec("libsql_experimental") is None, reason="needs libSQL's driver, which has no wheel here"
)
"""For tests of libSQL's engine; `tests/conftest.py` marks those that have "libsql" as a parameter."""
