"""Paths of database files, as for the driver."""

from tests.dbapi.conftest import path  # noqa: F401 - a fixture
