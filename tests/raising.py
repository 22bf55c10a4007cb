"""`raises`: an error is asserted by its class, not one above it, and by its code, field or kind."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def raises(
    expected: type[BaseException], /, *, match: str | None = None, **facts: object
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Assert that the block raises this very class, with these attributes.

    Args:
        expected: the class; a class below it is another error.
        match: a pattern that is found in the message.
        **facts: attributes and their values, like `code="SQLITE_BUSY"` or `field="steps.1"`. Where SQLAlchemy wraps the
            driver's error, they are those of the driver's.
    """
    with pytest.raises(expected, match=match) as caught:
        yield caught
    assert caught.type is expected, f"{caught.type.__name__} is not {expected.__name__}"
    error = getattr(caught.value, "orig", None) or caught.value
    found = {name: getattr(error, name) for name in facts}
    assert found == facts, f"{found} is not {facts}"
