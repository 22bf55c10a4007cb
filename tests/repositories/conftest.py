"""Runs the tests of repositories on an encrypted file too."""

from tests.encrypted import encrypted_template, target  # noqa: F401 - fixtures
