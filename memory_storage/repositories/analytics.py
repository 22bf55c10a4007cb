"""The repository of figures over the whole memory. Each answer is one statement."""

from __future__ import annotations

from dataclasses import dataclass

from ._session import Repository
from ._statement import Prepared

_SUMMARY = Prepared("""
SELECT 'rows', 'episodes', count(*), NULL FROM episodes WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'steps', count(*), NULL FROM steps WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'patterns', count(*), NULL FROM patterns WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'embeddings', count(*), NULL FROM embeddings WHERE namespace = :namespace
UNION ALL SELECT 'rows', 'places', count(*), NULL FROM spatiotemporal_index WHERE namespace = :namespace
UNION ALL SELECT 'outcome', coalesce(outcome, 'open'), count(*), avg(reward) FROM episodes
    WHERE namespace = :namespace GROUP BY outcome
UNION ALL SELECT 'tool', tool, count(*), avg(status = 'ok') FROM steps WHERE namespace = :namespace GROUP BY tool
""")


@dataclass(frozen=True, slots=True)
class OutcomeFigures:
    """How many episodes ended so ("open": not yet), and their mean reward."""

    episodes: int
    mean_reward: float | None


@dataclass(frozen=True, slots=True)
class ToolFigures:
    """How many steps used a tool, and which part of those with a result were ok."""

    steps: int
    ok_rate: float | None


@dataclass(frozen=True, slots=True)
class Summary:
    """What a namespace holds: rows by table, episodes by outcome, steps by tool."""

    rows: dict[str, int]
    outcomes: dict[str, OutcomeFigures]
    tools: dict[str, ToolFigures]


class AnalyticsRepository(Repository):
    """Figures over one namespace."""

    def summary(self) -> Summary:
        """What the namespace holds."""
        rows = self._session.read(_SUMMARY.step(namespace=self._session.namespace))
        return Summary(
            rows={name: count for kind, name, count, _ in rows if kind == "rows"},
            outcomes={name: OutcomeFigures(count, mean) for kind, name, count, mean in rows if kind == "outcome"},
            tools={name: ToolFigures(count, rate) for kind, name, count, rate in rows if kind == "tool"},
        )
