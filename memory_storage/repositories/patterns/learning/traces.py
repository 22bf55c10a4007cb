"""What learning reads of an episode: its tools in order, the errors among them, how it ended, and its context."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from memory_storage.repositories.analytics.error_signature import error_class
from memory_storage.sql.session import Row

TOOLS, RECOVERY = 0, 1
"""The kinds of what is counted."""

MAX_RECOVERY_STEPS = 5

_FAILED = {"e": "error", "t": "timeout"}
_NONE: list[str] = []

encode = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
"""Returns the JSON of a content or a part of one, as the tables have it."""

Content = tuple[int, tuple[str, ...]]
"""A kind, and the tools of a sequence; or of a recovery the tool that failed, the class of its error, and the steps."""

Context = tuple[str, str, str, str]
"""Domain, language, framework and task type; "" for none."""

EVERY: Content = (TOOLS, ())
"""The empty sequence, which every episode has: its counts are the totals."""


class Trace(NamedTuple):
    """An episode that is judged.

    Attributes:
        seq: Its local row number.
        started_at: When it started, in microseconds.
        success: Whether it succeeded.
        ended_at: When it ended, in microseconds, by which it is weighed.
        context: Its context.
        tools: The tool of each step, in order.
        statuses: The first letter of the status of each step: "o", "e", "t", or "-" for none.
        messages: The messages of the steps that failed, in order.
    """

    seq: int
    started_at: int
    success: bool
    ended_at: int
    context: Context
    tools: list[str]
    statuses: str
    messages: list[str]

    def recoveries(self) -> Iterator[Content]:
        """Return the recoveries: for each step that failed, what was done until its tool succeeded."""
        failed = [at for at, status in enumerate(self.statuses) if status in _FAILED]
        for at, message in zip(failed, self.messages, strict=True):
            tool, status = self.tools[at], _FAILED[self.statuses[at]]
            for end in range(at + 1, min(at + 1 + MAX_RECOVERY_STEPS, len(self.tools))):
                if self.tools[end] == tool and self.statuses[end] == "o":
                    yield RECOVERY, (tool, error_class(status, message), *self.tools[at + 1 : end + 1])
                    break


def traces_from_rows(rows: Iterable[Row]) -> list[Trace]:
    """Return the traces of the rows of `sql.traces`."""
    traces = []
    for seq, started_at, success, ended_at, domain, language, framework, task_type, steps in rows:
        tools, statuses, messages = steps.split("\n")
        context = domain, language, framework, task_type
        failures = json.loads(messages) if messages else _NONE
        traces.append(Trace(seq, started_at, bool(success), ended_at, context, json.loads(tools), statuses, failures))
    return traces
