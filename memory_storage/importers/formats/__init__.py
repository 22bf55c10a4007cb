"""The formats that are converted to runs, each in its own module, and the recognition of a format by a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from ..json_records import Record
from ..run import Item
from . import (
    anthropic,
    atif,
    claude_code,
    codex,
    langchain,
    mini_swe_agent,
    openai_responses,
    openhands,
    otel,
    sharegpt,
    swe_agent,
)


class Reader(NamedTuple):
    """How a format is recognised by one record, and how its records are converted."""

    matches: Callable[[dict[str, Any]], bool]
    runs: Callable[[Iterable[Record]], Iterator[Item]]


_MODULES = (claude_code, codex, atif, mini_swe_agent, swe_agent, sharegpt, langchain, openhands, otel, openai_responses)

READERS: Mapping[str, Reader] = {module.NAME: Reader(module.matches, module.runs) for module in _MODULES}
"""The readers by the name of the format, in the order in which they are tried."""

TITLES: Mapping[str, str] = {
    "openai-chat": "runs with `messages` or `traj`",
    anthropic.NAME: anthropic.TITLE,
    **{module.NAME: module.TITLE for module in _MODULES},
}
"""What can be read, for messages, by the name of the format."""


def recognise(content: dict[str, Any]) -> str | None:
    """Return the name of the format of which the object is a record; None if it is of none of these."""
    found = next((name for name, reader in READERS.items() if reader.matches(content)), None)
    return anthropic.NAME if found is None and anthropic.matches(content) else found
