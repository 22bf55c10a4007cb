"""Several processes and threads make the schema at once, by the revisions, as an application does."""

from __future__ import annotations

import pytest

from .work import ENGINES


@pytest.fixture(autouse=True)
def schema_by_template() -> None:
    """Leave `migrate` as it is."""


@pytest.fixture(params=ENGINES)
def local_engine(request: pytest.FixtureRequest) -> str:
    """Each of the local engines."""
    name: str = request.param
    return name
