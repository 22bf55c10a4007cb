"""Counts, in memory, how many episodes have a sequence of tools or a recovery in common, and how many succeeded.

A sequence of tools is a whole number here, in which each tool takes 32 bits: n-grams of whole numbers are counted in a
third of the time of tuples of texts. Each sequence in each context has a number of its own, its place in the arrays.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from .decay import period_of, weight_of_period
from .traces import EVERY, TOOLS, Content, Context, Trace

MAX_EVIDENCE = 20
"""Successful episodes that are kept as evidence of a content in a context."""

MAX_COUNTEREXAMPLES = 5
"""Episodes without success that are kept of a content in a context."""

_SETTLED_AT = 1_000_000
_BITS = 32
_MASK = (1 << _BITS) - 1
_EVERY = 0

_Code = int | Content
"""A sequence of tools as a number, or a recovery."""


class ContextCounts(NamedTuple):
    """The counts of a content in one context: a row of the table `sequences`."""

    content: Content
    context: Context
    number: int
    episodes: int
    successes: int
    weight: float
    success_weight: float
    evidence: Sequence[int]
    counterexamples: Sequence[int]


class CountedEpisode(NamedTuple):
    """An episode, and the numbers of the counts that it is part of: a row of the table `learned`."""

    seq: int
    success: bool
    weight: float
    numbers: tuple[int, ...]


class Group(NamedTuple):
    """The episodes that have a content in common, in all contexts or in those of one domain.

    Attributes:
        content: What they have in common.
        episodes: How many they are.
        successes: How many of them succeeded.
        weight: The sum of their weights.
        success_weight: The sum of the weights of those that succeeded.
        context: The domain, language, framework and task type that all of them have; None for one that differs.
    """

    content: Content
    episodes: int
    successes: int
    weight: float
    success_weight: float
    context: tuple[str | None, ...]


class _Numbers(dict[_Code, int]):
    """The number of each code of one context. A new code gets the next one."""

    def __init__(self, keys: list[tuple[_Code, Context]], context: Context) -> None:
        super().__init__()
        self._keys, self._context = keys, context

    def __missing__(self, code: _Code) -> int:
        number = self[code] = len(self._keys)
        self._keys.append((code, self._context))
        return number


class _ToolIds(dict[str, int]):
    def __missing__(self, tool: str) -> int:
        number = self[tool] = len(self) + 1
        return number


class _Examples:
    """The first episodes of each count, up to a number of them."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._seqs: dict[int, list[int]] = {}
        self._full: set[int] = set()

    def add(self, seq: int, numbers: set[int]) -> None:
        for number in numbers - self._full:
            seqs = self._seqs.setdefault(number, [])
            seqs.append(seq)
            if len(seqs) >= self._most:
                self._full.add(number)

    def take(self, number: int) -> Sequence[int]:
        self._full.discard(number)
        return self._seqs.pop(number, ())


class SequenceCounts:
    """The counts of the episodes that were added.

    Args:
        longest: The most tools of a sequence.
        evidence: The most successful episodes that a count names.
    """

    def __init__(self, longest: int, evidence: int = MAX_EVIDENCE) -> None:
        self._longest = longest
        self._tool_ids = _ToolIds()
        self._keys: list[tuple[_Code, Context]] = [(_EVERY, ("", "", "", ""))]  # by the number, which begins at 1
        self._numbers: dict[Context, _Numbers] = {}
        self._examples = {True: _Examples(evidence), False: _Examples(MAX_COUNTEREXAMPLES)}
        self._touched: set[int] = set()
        self._counts, self._successes = array("q"), array("q")
        self._weights, self._success_weights = array("d"), array("d")
        # Of one period, whose episodes have the same weight: whole numbers are counted several times faster.
        self._period, self._period_weight = 0, weight_of_period(0)
        self._recent: dict[bool, list[int]] = {False: [], True: []}

    @property
    def next_number(self) -> int:
        """The number that the next new sequence gets."""
        return len(self._keys)

    def add(self, traces: Iterable[Trace]) -> list[CountedEpisode]:
        """Count episodes, and return what each was counted for. It is not kept: of many that is a lot of objects."""
        episodes = []
        recent = self._recent
        for trace in traces:
            period = period_of(trace.ended_at)
            if period != self._period:
                self._settle()
                self._period, self._period_weight = period, weight_of_period(period)
            numbers = self._numbers.get(trace.context)
            if numbers is None:
                numbers = self._numbers[trace.context] = _Numbers(self._keys, trace.context)
            distinct = set(map(numbers.__getitem__, self._codes(trace)))
            recent[trace.success] += distinct
            self._examples[trace.success].add(trace.seq, distinct)
            episodes.append(CountedEpisode(trace.seq, trace.success, self._period_weight, tuple(distinct)))
        if len(recent[True]) + len(recent[False]) > _SETTLED_AT:
            self._settle()
        return episodes

    def take(self) -> list[ContextCounts]:
        """Return the counts since the last time, by their numbers, which stay the same."""
        self._settle()
        names = ["", *self._tool_ids]
        evidence, counterexamples = self._examples[True], self._examples[False]
        rows = []
        for number in sorted(self._touched):
            code, context = self._keys[number]
            rows.append(
                ContextCounts(
                    _content(code, names),
                    context,
                    number,
                    self._counts[number],
                    self._successes[number],
                    self._weights[number],
                    self._success_weights[number],
                    evidence.take(number),
                    counterexamples.take(number),
                )
            )
            self._counts[number] = self._successes[number] = 0
            self._weights[number] = self._success_weights[number] = 0.0
        self._touched.clear()
        return rows

    def _codes(self, trace: Trace) -> set[_Code]:
        tool_ids = self._tool_ids
        ids = [tool_ids[tool] for tool in trace.tools]
        codes: set[_Code] = {_EVERY, *ids}
        sequences = ids
        for length in range(1, self._longest):
            sequences = [before << _BITS | last for before, last in zip(sequences, ids[length:], strict=False)]
            codes.update(sequences)
        if trace.messages:
            codes.update(trace.recoveries())
        return codes

    def _settle(self) -> None:
        """Add what was counted of the current period to the sums, by its weight."""
        more = len(self._keys) - len(self._counts)
        for sums in (self._counts, self._successes, self._weights, self._success_weights):
            sums.extend([0] * more)
        weight = self._period_weight
        for success, numbers in self._recent.items():
            counter = Counter(numbers)
            numbers.clear()
            self._touched.update(counter)
            for number, count in counter.items():
                self._counts[number] += count
                self._weights[number] += count * weight
                if success:
                    self._successes[number] += count
                    self._success_weights[number] += count * weight


def _content(code: _Code, names: Sequence[str]) -> Content:
    if not isinstance(code, int):
        return code
    if code == _EVERY:
        return EVERY
    tools = []
    while code:
        tools.append(names[code & _MASK])
        code >>= _BITS
    return TOOLS, tuple(reversed(tools))


def groups(rows: Sequence[ContextCounts], least: int, *, by_domain: bool) -> Iterator[Group]:
    """Return the groups of at least `least` episodes, as `sql.groups` does for counts that are stored.

    Args:
        rows: The counts.
        least: The least number of episodes.
        by_domain: Whether each domain is a group of its own.
    """
    content = attrgetter("content")
    ordered = sorted(rows, key=attrgetter("content", "context"))
    for _, entries in groupby(ordered, (lambda row: (row.content, row.context[0])) if by_domain else content):
        group = group_of(list(entries))
        if group.episodes >= least:
            yield group


def group_of(rows: Sequence[ContextCounts]) -> Group:
    """Return the sums of counts of one content, of which there is at least one."""
    episodes, successes, weight, success_weight = map(sum, zip(*(row[3:7] for row in rows), strict=True))
    columns = zip(*(row.context for row in rows), strict=True)
    shared = tuple(values[0] if len(set(values)) == 1 else None for values in columns)
    return Group(rows[0].content, episodes, successes, weight, success_weight, shared)
