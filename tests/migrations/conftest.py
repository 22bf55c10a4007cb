"""These tests are about the revisions, and run them."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def schema_by_template() -> None:
    """Leave `migrate` as it is."""
