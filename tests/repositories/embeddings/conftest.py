"""Embedding takes long: these tests run on the backends of the other tests."""

from tests.conftest import target  # noqa: F401 - a fixture
