"""The responses that clients received: a file of lines for each process, which outlives the process."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from uuid import UUID

Kind = Literal["save", "append", "apply", "transact"]
Answer = Literal["begun", "done", "refused", "unknown", "wrong"]

KINDS: tuple[Kind, ...] = ("save", "append", "apply", "transact")


class Ledger:
    """Of one process. A line goes to the file at once, so that a kill loses none that was written."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def note(self, answer: Answer, kind: str, key: object, detail: str = "") -> None:
        """Write a line: in one piece, whatever other threads write."""
        text = " ".join(detail.split())
        os.write(self._file, f"{time.monotonic():.6f} {answer} {kind} {key} {text}\n".encode())


@dataclass
class Acknowledged:
    """All ledgers together: the writes of each kind by the outcome that clients saw."""

    done: dict[str, set[UUID]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    refused: dict[str, set[UUID]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    unknown: dict[str, set[UUID]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    """Also those that a client had begun when it was killed."""
    wrong: list[str] = field(default_factory=list)
    successes: list[float] = field(default_factory=list)
    """When the writes that were done were acknowledged."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many were refused, by the error."""

    def describe(self) -> str:
        """One line of figures."""
        sums = (sum(map(len, of.values())) for of in (self.done, self.refused, self.unknown))
        return "{} writes acknowledged, {} refused, {} unknown".format(*sums)


def read(paths: Iterable[Path]) -> Acknowledged:
    """What all of them say."""
    acknowledged = Acknowledged()
    for path in paths:
        for line in path.read_text().splitlines():
            moment, answer, kind, key, detail = line.split(" ", 4)
            _enter(acknowledged, float(moment), answer, kind, key, detail)
    return acknowledged


def _enter(acknowledged: Acknowledged, moment: float, answer: str, kind: str, key: str, detail: str) -> None:
    if answer == "wrong":
        acknowledged.wrong.append(f"{kind} {key} {detail}")
        return
    if answer == "begun":
        acknowledged.unknown[kind].add(UUID(key))
        return
    if answer != "unknown":
        acknowledged.unknown[kind].discard(UUID(key))
        {"done": acknowledged.done, "refused": acknowledged.refused}[answer][kind].add(UUID(key))
    if answer == "done":
        acknowledged.successes.append(moment)
    else:
        name = detail.partition(":")[0]
        acknowledged.reasons[name] = acknowledged.reasons.get(name, 0) + 1
