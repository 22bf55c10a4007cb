"""What an integration says if the package that it needs is not installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from memory_storage.errors import ConfigurationError


@contextmanager
def needs(problem: str, *packages: str) -> Iterator[None]:
    """Import in this block what needs packages of an extra.

    Args:
        problem: What is missing, and how to install it.
        packages: The names by which the packages are imported.

    Raises:
        ConfigurationError: One of the packages is missing; with the problem as its text.
        ImportError: Something else is missing.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise ConfigurationError(problem) from error
