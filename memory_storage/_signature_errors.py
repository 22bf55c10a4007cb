"""Explains calls whose arguments do not fit a signature, instead of Python's TypeError."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from .dbapi import redacted
from .errors import ConfigurationError
from .settings import hidden

P = ParamSpec("P")
T = TypeVar("T")


def explain_misuse(advice: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorate a method to raise ConfigurationError with advice if the arguments do not fit its signature.

    Args:
        advice: What to write instead.
    """

    def decorate(method: Callable[P, T]) -> Callable[P, T]:
        signature = inspect.signature(method)

        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> T:
            problem = _signature_problem(signature, *args, **kwargs)
            # Replaced before anything can fail: a traceback may show this frame, and a token may be among them.
            args = tuple(redacted(value) for value in args)
            kwargs = hidden(kwargs)
            if problem:
                args, kwargs = (), {}
                raise ConfigurationError(f"{problem}: {advice}")
            return method(*args, **kwargs)

        return cast("Callable[P, T]", call)

    return decorate


def _signature_problem(signature: inspect.Signature, *args: object, **kwargs: object) -> str:
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        return str(error)
    return ""
