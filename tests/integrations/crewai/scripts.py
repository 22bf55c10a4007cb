"""An embedder and a language model that are scripts, and records with short names."""

from __future__ import annotations

import json
from typing import Any

from crewai import BaseLLM
from crewai.memory.types import MemoryRecord

LETTERS = "abcd"


def letters(texts: list[str]) -> list[list[float]]:
    """Return how often each of 4 letters is in a text, and a little of everything."""
    return [[text.count(letter) + 0.01 for letter in LETTERS] for text in texts]


class ScriptedLLM(BaseLLM):
    """Answers each call with the next script, and keeps the messages."""

    scripts: list[dict[str, Any]] = []  # noqa: RUF012 - a field of a pydantic model
    calls: list[str] = []  # noqa: RUF012

    def call(self, messages: Any, *_: Any, **__: Any) -> str:
        self.calls.append(messages[-1]["content"])
        return json.dumps(self.scripts.pop(0))


def record(content: str, scope: str = "/", **fields: Any) -> MemoryRecord:
    """Return a record whose id is its text, and whose embedding counts its letters."""
    return MemoryRecord(
        **{"id": content, "content": content, "scope": scope, "embedding": letters([content])[0]} | fields
    )
