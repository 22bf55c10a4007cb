"""Several processes and threads make the schema at once, by the revisions, as an application does."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def schema_by_template() -> None:
    """Leave `migrate` as it is."""
