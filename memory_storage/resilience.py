"""Repeating one unit of work when that is safe. Knows nothing of SQL."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from .errors import UnavailableError
from .settings import RetrySettings

T = TypeVar("T")


def repeated(work: Callable[[], T], settings: RetrySettings, *, is_safe: Callable[[UnavailableError], bool]) -> T:
    """Do `work`, again after an UnavailableError that `is_safe` to repeat, with full jitter between the attempts."""
    import backoff

    guarded = backoff.on_exception(
        backoff.expo,
        UnavailableError,
        max_tries=settings.max_attempts,
        giveup=lambda error: not (isinstance(error, UnavailableError) and is_safe(error)),
        jitter=backoff.full_jitter,
        base=settings.multiplier,
        factor=settings.initial_backoff,
        max_value=settings.max_backoff,
        logger=None,
    )
    result: T = guarded(work)()
    return result
