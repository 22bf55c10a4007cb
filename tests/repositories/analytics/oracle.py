"""The expected results of analytics, computed in plain Python over episodes in the order of their first save."""

from __future__ import annotations

import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import memory_storage as ms

Z = 1.959963984540054
Judge = Callable[[ms.Episode], bool | None]


def by_outcome(episode: ms.Episode) -> bool | None:
    return None if episode.outcome is None else episode.outcome.kind == "success"


def by_reward(least: float) -> Judge:
    return lambda episode: None if episode.reward is None else episode.reward.total >= least


def groups(episodes: Iterable[ms.Episode], dimension: str) -> dict[str | None, list[ms.Episode]]:
    found: dict[str | None, list[ms.Episode]] = defaultdict(list)
    for episode in episodes:
        for name in _names(episode, dimension):
            found[name].append(episode)
    return found


def _names(episode: ms.Episode, dimension: str) -> list[Any]:
    if dimension == "tool":
        return sorted({step.tool for step in episode.steps})
    if dimension == "tag":
        return sorted({*episode.tags, *episode.context.tags})
    return [str(episode.task_type) if dimension == "task_type" else getattr(episode.context, dimension)]


def figures(episodes: list[ms.Episode], judge: Judge) -> tuple[Any, ...]:
    judged = [well for episode in episodes if (well := judge(episode)) is not None]
    rewards = [episode.reward.total for episode in episodes if episode.reward]
    durations = [(e.completed_at - e.started_at).total_seconds() for e in episodes if e.completed_at]
    return len(episodes), rate(sum(judged), len(judged)), mean(rewards), mean(durations)


def rate(count: int, of: int) -> tuple[Any, ...]:
    """By solving |p - rate| = z * sqrt(p (1 - p) / n) for p, with bisection: not the formula that is used."""
    if not of:
        return None, None, None, 0, 0
    share = count / of

    def is_beyond(p: float) -> bool:
        return (p - share) ** 2 > Z * Z * p * (1 - p) / of

    return share, _bisect(is_beyond, 0.0, share), _bisect(is_beyond, 1.0, share), count, of


def _bisect(is_beyond: Callable[[float], bool], outside: float, inside: float) -> float:
    for _ in range(200):
        middle = (outside + inside) / 2
        outside, inside = (middle, inside) if is_beyond(middle) else (outside, middle)
    return inside


def mean(values: list[float]) -> tuple[Any, ...]:
    if len(values) < 2:
        return (values[0] if values else None), None, None, len(values)
    middle = math.fsum(values) / len(values)
    reach = Z * statistics.stdev(values) / math.sqrt(len(values))
    return middle, middle - reach, middle + reach, len(values)


def within(episodes: Iterable[ms.Episode], since: datetime, until: datetime) -> list[ms.Episode]:
    return [episode for episode in episodes if since <= episode.started_at < until]


def tools(episodes: Iterable[ms.Episode]) -> dict[str, tuple[Any, ...]]:
    found: dict[str, list[ms.Step]] = defaultdict(list)
    for episode in episodes:
        for step in episode.steps:
            found[step.tool].append(step)
    return {tool: _use(steps) for tool, steps in found.items()}


def _use(steps: list[ms.Step]) -> tuple[Any, ...]:
    statuses = [step.result.status for step in steps if step.result]
    times = sorted(step.latency_ms for step in steps if step.latency_ms)
    ranks = [times[math.ceil(len(times) * percent / 100) - 1] if times else None for percent in (50, 95, 99)]
    failed = sum(status != "ok" for status in statuses)
    return (
        len(steps),
        rate(failed, len(statuses)),
        statuses.count("timeout"),
        len(times),
        sum(times) / len(times) if times else None,
        *ranks,
    )


def sequences(
    episodes: Iterable[ms.Episode], judge: Judge, shortest: int, longest: int, least: int
) -> list[tuple[Any, ...]]:
    judged = [(episode, well) for episode in episodes if (well := judge(episode)) is not None]
    found: dict[tuple[str, ...], list[bool]] = defaultdict(list)
    for episode, well in judged:
        names = [step.tool for step in episode.steps]
        for one in {tuple(names[i : i + n]) for n in range(shortest, longest + 1) for i in range(len(names) - n + 1)}:
            found[one].append(well)
    base = sum(well for _, well in judged) / len(judged) if judged else 0
    rows = [
        (tools, len(ends), len(ends) / len(judged), sum(ends), sum(ends) / len(ends) / base if base else None)
        for tools, ends in found.items()
        if len(ends) >= least
    ]
    return sorted(rows, key=lambda row: (-round(row[4] or 0, 9), -row[1], row[0]))


def slope(episodes: Iterable[ms.Episode]) -> tuple[float, float] | None:
    """The slope in reward a day, and its standard error, by statistics' own regression."""
    pairs = [(e.started_at.timestamp() / 86400, e.reward.total) for e in episodes if e.reward]
    days, rewards = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(pairs) < 3 or len(set(days)) < 2:
        return None
    line = statistics.linear_regression(days, rewards)
    rests = [reward - line.slope * day - line.intercept for day, reward in pairs]
    middle = statistics.fmean(days)
    return line.slope, math.sqrt(
        math.fsum(rest * rest for rest in rests) / (len(pairs) - 2) / math.fsum((day - middle) ** 2 for day in days)
    )


def summary(episodes: Iterable[ms.Episode]) -> dict[str, dict[str, Any]]:
    episodes = list(episodes)
    steps = [step for episode in episodes for step in episode.steps]
    ends: dict[str, list[ms.Episode]] = defaultdict(list)
    for episode in episodes:
        ends[episode.outcome.kind if episode.outcome else "open"].append(episode)
    used: dict[str, list[bool]] = defaultdict(list)
    for step in steps:
        used[step.tool] += [step.result.status == "ok"] if step.result else []
    return {
        "rows": {"episodes": len(episodes), "steps": len(steps)},
        "outcomes": {
            name: (len(them), _average([one.reward.total for one in them if one.reward])) for name, them in ends.items()
        },
        "tools": {name: (sum(step.tool == name for step in steps), _average(well)) for name, well in used.items()},
    }


def _average(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


@dataclass
class Life:
    """What happened to a pattern."""

    id: UUID
    description: str
    last: datetime
    used_at: datetime | None = None
    retrieved: int = 0
    ends: list[bool] = field(default_factory=list)
    deltas: list[float] = field(default_factory=list)

    def use(self, what: str, delta: float, now: datetime) -> None:
        self.used_at = self.last = now
        if what == "retrieved":
            self.retrieved += 1
        else:
            self.ends.append(what == "well")
            self.deltas.append(delta)

    def figures(self, now: datetime, half_life: timedelta) -> tuple[Any, ...]:
        success = rate(sum(self.ends), len(self.ends))
        score = (success[1] or 0.0) * math.exp(
            math.log(0.5) * (now - self.last).total_seconds() / half_life.total_seconds()
        )
        average = _average(self.deltas) or 0.0
        return (
            self.id,
            "heuristic",
            self.description,
            self.retrieved,
            len(self.ends),
            success,
            average,
            self.used_at,
            score,
        )
