"""What learning reads of an episode: its tools in order, the errors among them, how it ended, and its context."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from memory_storage.repositories.analytics.error_signature import error_class
from memory_storage.sql.session import Row

TOOLS, RECOVERY = 0, 1
"""The kinds of what is counted."""

MAX_RECOVERY_STEPS = 5

Content = tuple[int, tuple[str, ...]]
"""A kind, and the tools of a sequence; or of a recovery the tool that failed, the class of its error, and the steps."""

Context = tuple[str, str, str, str]
"""Domain, language, framework and task type; "" for none."""

EVERY: Content = (TOOLS, ())
"""The empty sequence, which every episode has: its counts are the totals."""


@dataclass(frozen=True)
class Trace:
    """An episode that is judged.

    Attributes:
        seq: Its local row number.
        started_at: When it started, in microseconds.
        success: Whether it succeeded.
        ended_at: When it ended, in microseconds, by which it is weighed.
        context: Its context.
        steps: The tool, status and, if it failed, message of each step, in order.
    """

    seq: int
    started_at: int
    success: bool
    ended_at: int
    context: Context
    steps: list[tuple[str, str | None, str | None]]

    def recoveries(self) -> Iterator[Content]:
        """Return the recoveries: for each step that failed, what was done until its tool succeeded."""
        for at, (tool, status, message) in enumerate(self.steps):
            if status in ("error", "timeout"):
                after = self.steps[at + 1 : at + 1 + MAX_RECOVERY_STEPS]
                for number, (name, result, _) in enumerate(after, start=1):
                    if name == tool and result == "ok":
                        steps = (step[0] for step in after[:number])
                        yield RECOVERY, (tool, error_class(status, message or ""), *steps)
                        break


def traces_from_rows(rows: Iterable[Row]) -> list[Trace]:
    """Return the traces of the rows of `sql.traces`."""
    return [
        Trace(seq, started_at, bool(success), ended_at, tuple(context), json.loads(steps))
        for seq, started_at, success, ended_at, *context, steps in rows
    ]
