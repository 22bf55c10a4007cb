"""Counts all episodes of a namespace for the first time: in memory, where it takes a tenth of the time of the tables.

A sequence of tools is a whole number here, in which each tool takes 32 bits; each number in each context has a place in
the arrays of the counts, which is its `number` in the table.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from .decay import period_of, weight_of_period
from .traces import EVERY, TOOLS, Content, Context, Trace

_BITS = 32
_MASK = (1 << _BITS) - 1
_EVERY = 0

_Code = int | Content
"""A sequence of tools as a number, or a recovery."""


class Counted(NamedTuple):
    """A row of the table `sequences`."""

    content: Content
    context: Context
    number: int
    episodes: int
    successes: int
    weight: float
    success_weight: float
    evidence: list[int]


class _Numbers(dict[_Code, int]):
    """The number of each code of one context. A new code gets the next one."""

    def __init__(self, build: Build) -> None:
        super().__init__()
        self._build = build

    def __missing__(self, code: _Code) -> int:
        number = self[code] = self._build.next_number
        self._build.next_number += 1
        return number


class Build:
    """Counts of episodes that come in the order of their start.

    Args:
        longest: The most tools of a sequence.
        evidence: The most successes that a count names.
    """

    def __init__(self, longest: int, evidence: int) -> None:
        self.next_number = 1
        self.learned: list[tuple[int, bool, float, array[int]]] = []
        self._longest, self._most_evidence = longest, evidence
        self._tools: dict[str, int] = {}
        self._numbers: dict[Context, _Numbers] = {}
        self._evidence: dict[int, list[int]] = {}
        self._has_enough: set[int] = set()
        self._episodes, self._successes = array("q", [0]), array("q", [0])
        self._weights, self._success_weights = array("d", [0.0]), array("d", [0.0])
        self._period = 0
        self._recent: dict[bool, Counter[int]] = {False: Counter(), True: Counter()}

    def add(self, traces: Iterable[Trace]) -> None:
        """Count episodes."""
        for trace in traces:
            period = period_of(trace.ended_at)
            if period != self._period:
                self._settle()
                self._period = period
            numbers = self._numbers.get(trace.context)
            if numbers is None:
                numbers = self._numbers[trace.context] = _Numbers(self)
            found = {numbers[code] for code in self._codes(trace)}
            self._recent[trace.success].update(found)
            if trace.success:
                self._note_evidence(trace.seq, found)
            self.learned.append((trace.seq, trace.success, weight_of_period(period), array("q", found)))

    def counted(self) -> Iterator[Counted]:
        """Return the rows, in the order of the table."""
        self._settle()
        names = list(self._tools)
        rows = [
            (_content(code, names), context, number)
            for context, numbers in self._numbers.items()
            for code, number in numbers.items()
        ]
        rows.sort()
        for content, context, number in rows:
            yield Counted(
                content,
                context,
                number,
                self._episodes[number],
                self._successes[number],
                self._weights[number],
                self._success_weights[number],
                self._evidence.get(number, []),
            )

    def _codes(self, trace: Trace) -> set[_Code]:
        tools = self._tools
        ids = [tools.setdefault(step[0], len(tools) + 1) for step in trace.steps]
        codes: set[_Code] = {_EVERY, *ids}
        sequences = ids
        for length in range(1, self._longest):
            sequences = [before << _BITS | last for before, last in zip(sequences, ids[length:], strict=False)]
            codes.update(sequences)
        codes.update(trace.recoveries())
        return codes

    def _note_evidence(self, seq: int, found: set[int]) -> None:
        for number in found - self._has_enough:
            evidence = self._evidence.setdefault(number, [])
            evidence.append(seq)
            if len(evidence) >= self._most_evidence:
                self._has_enough.add(number)

    def _settle(self) -> None:
        """Add what was counted of one period to the sums, by its weight."""
        more = self.next_number - len(self._episodes)
        for sums in (self._episodes, self._successes, self._weights, self._success_weights):
            sums.extend([0] * more)  # type: ignore[arg-type]
        weight = weight_of_period(self._period)
        for success, counter in self._recent.items():
            for number, count in counter.items():
                self._episodes[number] += count
                self._weights[number] += count * weight
                if success:
                    self._successes[number] += count
                    self._success_weights[number] += count * weight
            counter.clear()


def _content(code: _Code, names: list[str]) -> Content:
    if not isinstance(code, int):
        return code
    if code == _EVERY:
        return EVERY
    tools = []
    while code:
        tools.append(names[(code & _MASK) - 1])
        code >>= _BITS
    return TOOLS, tuple(reversed(tools))
