"""Learns patterns: counts, selects, and makes them. Deterministic."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from memory_storage.dbapi import chunked
from memory_storage.errors import ValidationError
from memory_storage.models import AnyPattern, TaskContext
from memory_storage.repositories.analytics.sql import SUCCESS_BY_OUTCOME
from memory_storage.sql.documents import CHUNK_BYTES
from memory_storage.sql.filters import Conditions
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import SqlTemplate, to_micros
from memory_storage.sql.validation import finite, size, whole

from . import sql
from .counts import MAX_EVIDENCE, ContextCounts, Group, SequenceCounts, group_of, groups
from .decay import period_of, weight_of_period
from .learner import LONGEST, Learner, read_traces
from .patterns import (
    Evidence,
    EvidenceEpisode,
    avoidance,
    content_of,
    decision_point,
    error_recovery,
    joined,
    tool_sequence,
    updated,
)
from .selection import Baseline, Finding, Thresholds, select
from .traces import EVERY, Content, encode

_MAX_PATTERNS = 500
_MAX_EVIDENCE = 1_000
_GENERAL = TaskContext().domain
_DETAILS = 500  # episodes whose details are read at a time


def thresholds(min_episodes: int, min_lift: float, max_patterns: int, evidence: int) -> Thresholds:
    """Return the thresholds; ValidationError if one is out of range."""
    if type(max_patterns) is not int or not 1 <= max_patterns <= _MAX_PATTERNS:
        raise ValidationError("max_patterns", f"a whole number from 1 to {_MAX_PATTERNS:,}", max_patterns)
    if type(evidence) is not int or not 1 <= evidence <= _MAX_EVIDENCE:
        raise ValidationError("evidence", f"a whole number from 1 to {_MAX_EVIDENCE:,}", evidence)
    return Thresholds(whole("min_episodes", min_episodes), finite("min_lift", min_lift), max_patterns, evidence)


@dataclass(frozen=True)
class Learning:
    """A call of `learn`.

    Attributes:
        session: The session of the namespace.
        thresholds: The minimum evidence of a pattern.
        lengths: The smallest and the largest number of tools of a sequence.
        where: Conditions that the episodes have to meet.
        success: SQL for whether an episode succeeded.
        values: The values of the parameters of the conditions.
    """

    session: SessionProtocol
    thresholds: Thresholds
    lengths: tuple[int, int]
    where: Conditions
    success: str
    values: Mapping[str, Any]

    def patterns(self, stored: Iterable[AnyPattern]) -> tuple[list[AnyPattern], list[AnyPattern]]:
        """Return the patterns that were found, and those that were learned before with their statistics of now.

        Args:
            stored: The patterns that were learned before. Those that are found again are not returned a second time.
        """
        counts = self._counts()
        weight_now = self._weight_now()
        found = self._found(counts, weight_now)
        if not self._is_incremental:
            return found, []
        ids = {one.id for one in found}
        known = [one for one in stored if one.id not in ids and one.statistics is not None]
        return found, list(self._updated(known, counts, weight_now)) if known else []

    @property
    def _is_incremental(self) -> bool:
        """Whether the counts that are stored answer. What they do not is counted in memory, as in a transaction."""
        return (
            not self.where
            and self.success == SUCCESS_BY_OUTCOME
            and self.lengths[1] <= LONGEST
            and self.thresholds.evidence <= MAX_EVIDENCE
            and not self.session.is_transaction
        )

    def _counts(self) -> _StoredCounts | _MemoryCounts:
        if self._is_incremental:
            Learner(self.session).run()
            return _StoredCounts(self.session)
        counts = SequenceCounts(self._longest, self.thresholds.evidence)
        for traces in read_traces(self.session, self.where, self.success, self.values):
            counts.add(traces)
        return _MemoryCounts(counts.take())

    @property
    def _longest(self) -> int:
        return max(LONGEST, self.lengths[1])

    def _found(self, counts: _StoredCounts | _MemoryCounts, weight_now: float) -> list[AnyPattern]:
        least, most = self.thresholds.min_episodes, self.thresholds.evidence
        overall, by_domain = counts.groups(least, by_domain=False), counts.groups(least, by_domain=True)
        findings = select(overall, by_domain, self.thresholds, self.lengths)
        # Joined sequences take several of the first ones: a few more are read than are wanted.
        leading = findings.sequences[: self.thresholds.max_patterns * 4]
        others = [one for part in findings[1:] for one in part]
        evidence = self._evidence(leading, others, counts, weight_now)
        sequences = joined(leading, self._longest, evidence)[: self.thresholds.max_patterns]
        return [
            *(tool_sequence(one, tools, evidence, most) for one, tools in sequences),
            *(error_recovery(one, evidence, most) for one in findings.recoveries),
            *(decision_point(one, evidence, most) for one in findings.choices),
            *(avoidance(one, evidence, most) for one in findings.avoided),
        ]

    def _evidence(
        self,
        sequences: Sequence[Finding],
        others: Sequence[Finding],
        counts: _StoredCounts | _MemoryCounts,
        weight_now: float,
    ) -> Evidence:
        """Read the evidence of findings."""
        successes: dict[tuple[Content, str | None], list[int]] = {}
        failures: dict[tuple[Content, str | None], list[int]] = {}
        wanted: dict[Content, set[str | None]] = {}
        for one in (*sequences, *others):
            wanted.setdefault(one.content, set()).add(one.domain)
        rows = counts.of(list(wanted))
        for row in rows:
            # A content of one domain is general and of that domain: both have the same key.
            for domain in wanted[row.content] & {None, row.context[0]}:
                successes.setdefault((row.content, domain), []).extend(row.evidence)
                failures.setdefault((row.content, domain), []).extend(row.counterexamples)
        for seqs in (successes, failures):
            for key, members in seqs.items():
                seqs[key] = sorted(members)[: self.thresholds.evidence]
        every = {seq for seqs in (successes, failures) for members in seqs.values() for seq in members}
        with_steps = {seq for one in sequences for seq in successes.get((one.content, one.domain), ())}
        episodes = dict(self._episodes(sql.TASKS_AND_STEPS, sorted(with_steps)))
        episodes |= self._episodes(sql.TASKS, sorted(every - with_steps))
        return Evidence(episodes, successes, failures, _domain_weights(rows), weight_now)

    def _episodes(self, statement: SqlTemplate, seqs: Sequence[int]) -> Iterator[tuple[int, EvidenceEpisode]]:
        for start in range(0, len(seqs), _DETAILS):
            step = statement.bind(seqs=json.dumps(seqs[start : start + _DETAILS]))
            for seq, key, task, steps in self.session.read(step):
                pairs = [(tool, latency) for tool, latency in json.loads(steps)] if steps else []
                yield seq, EvidenceEpisode(UUID(key), task or "", pairs)

    def _weight_now(self) -> float:
        step = sql.LATEST.bind(namespace=self.session.namespace, now=to_micros(self.session.now()))
        ((latest,),) = self.session.read(step)
        return weight_of_period(period_of(latest))

    def _updated(
        self, patterns: Sequence[AnyPattern], counts: _StoredCounts | _MemoryCounts, weight_now: float
    ) -> Iterator[AnyPattern]:
        """Yield patterns that were not found again, with their statistics of now."""
        contents = {one.id: content_of(one, self._longest) for one in patterns}
        wanted = sorted({EVERY, *(content for content in contents.values() if content is not None)})
        rows: dict[Content, list[ContextCounts]] = {}
        for row in counts.of(wanted):
            rows.setdefault(row.content, []).append(row)
        for pattern in patterns:
            content = contents[pattern.id]
            members = [row for row in rows.get(content, ()) if _is_of(row, pattern)] if content else []
            if members:
                domain = pattern.context.domain
                of_all = [row for row in rows[EVERY] if domain in (_GENERAL, row.context[0])]
                baseline = Baseline(*group_of(of_all)[1:5])
                finding = Finding(members[0].content, group_of(members), baseline)
                yield updated(pattern, finding, weight_now, _domain_weights(members)[finding.content])


class _StoredCounts:
    """The counts in the tables."""

    def __init__(self, session: SessionProtocol) -> None:
        self._session = session

    def groups(self, least: int, *, by_domain: bool) -> list[Group]:
        """Return the groups of at least `least` episodes."""
        step = sql.groups(by_domain=by_domain).bind(namespace=self._session.namespace, least=least)
        return [
            Group((row[0], tuple(json.loads(row[1]))), row[2], row[3], row[4], row[5], tuple(row[6:]))
            for row in self._session.read(step)
        ]

    def of(self, contents: Sequence[Content]) -> list[ContextCounts]:
        """Return the counts of contents, in all contexts."""
        rows: list[ContextCounts] = []
        keys = [encode([kind, encode(parts)]) for kind, parts in contents]
        for group in chunked(keys, size, most_bytes=CHUNK_BYTES):
            step = sql.CONTENTS.bind(namespace=self._session.namespace, contents=f"[{','.join(group)}]")
            rows += map(_counts_from_row, self._session.read(step))
        return rows


class _MemoryCounts:
    """Counts in memory."""

    def __init__(self, rows: Sequence[ContextCounts]) -> None:
        self._rows = rows

    def groups(self, least: int, *, by_domain: bool) -> list[Group]:
        """Return the groups of at least `least` episodes."""
        return list(groups(self._rows, least, by_domain=by_domain))

    def of(self, contents: Sequence[Content]) -> list[ContextCounts]:
        """Return the counts of contents, in all contexts."""
        wanted = set(contents)
        return [row for row in self._rows if row.content in wanted]


def _domain_weights(rows: Iterable[ContextCounts]) -> dict[Content, dict[str, tuple[float, float]]]:
    """Return the weights of the domains of each content."""
    weights: dict[Content, dict[str, tuple[float, float]]] = {}
    for row in rows:
        domains = weights.setdefault(row.content, {})
        weight, success_weight = domains.get(row.context[0], (0.0, 0.0))
        domains[row.context[0]] = weight + row.weight, success_weight + row.success_weight
    return weights


def _is_of(row: ContextCounts, pattern: AnyPattern) -> bool:
    """Return whether counts are of the context of a pattern; one of the domain "general" is of all."""
    context = pattern.context
    wanted = (None if context.domain == _GENERAL else context.domain, context.language, context.framework)
    return all(one in (None, value) for one, value in zip(wanted, row.context, strict=False))


def _counts_from_row(row: Row) -> ContextCounts:
    kind, content, domain, language, framework, task_type = row[:6]
    number, episodes, successes, weight, success_weight, evidence, counterexamples = row[6:]
    return ContextCounts(
        (kind, tuple(json.loads(content))),
        (domain, language, framework, task_type),
        number,
        episodes,
        successes,
        weight,
        success_weight,
        _seqs(evidence),
        _seqs(counterexamples),
    )


def _seqs(text: str) -> list[int]:
    return [int(seq) for seq in text.split(",") if seq]
