"""A synchronous call of LlamaIndex makes an event loop of the main thread on Python 3.11, and nothing closes it."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _without_an_open_event_loop() -> Iterator[None]:
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12, if it has to make one
        try:
            loop = asyncio.get_event_loop()
        except RuntimeError:  # there is none
            return
    loop.close()
    asyncio.set_event_loop(None)
