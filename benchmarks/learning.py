"""Whether the memory helps: the regret of agents that choose plans by it, in a world whose truth is known.

Each agent gets the same tasks, luck and noise. Then tau-bench: whether what is recalled for a failed trial shows
something that successful trials of its task did and it did not.
"""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from . import _plot, _tau
from ._agents import HOPE, Agent, Chance, Learning, MostFrequent, remembering
from ._report import Grid, Line, Report
from ._world import DOMAINS, EXPLORED, PLANS, tasks, world

WORLDS = ("steady", "drift", "poison")
COLD = 50
"""The first episodes of a run, or after a change of the world."""

_PROCESSES = multiprocessing.get_context("spawn")
_WORKERS = 2
_RESAMPLES = 2_000
_BINS = 10
_HALF, _CALIBRATED = 0.5, 0.05
SIMILARITY, LEARNING = "similarity alone", "recall with learning"
_AGENTS: dict[str, Callable[[int], AbstractContextManager[Agent]]] = {
    "chance": lambda _: nullcontext(Chance()),
    "most frequent success": lambda _: nullcontext(MostFrequent()),
    SIMILARITY: remembering,
    LEARNING: partial(remembering, kind=Learning),
}
_COLORS = ("#9aa5b1", "#c98a2b", "#b5485d", "#2f6fb5")


class Claim(NamedTuple):
    """A success rate that the memory claimed for the plan that was followed, its true rate, and what happened."""

    claimed: float
    true: float
    success: bool


@dataclass(frozen=True)
class Course:
    """The run of an agent in a world: the regret of each episode, and the claims of its memory."""

    regrets: list[float]
    claims: list[Claim]


Courses = dict[tuple[str, str], list[Course]]
"""By world and agent, the course of each seed."""


@dataclass(frozen=True)
class Scale:
    """How much is measured: seeds, episodes, and the agents of each world."""

    seeds: int
    episodes: int
    agents: dict[str, tuple[str, ...]]


_FREE = ("chance", "most frequent success")
LONG = Scale(
    50,
    500,
    {
        "steady": (*_FREE, SIMILARITY, LEARNING),
        "drift": (*_FREE, LEARNING),
        "poison": (*_FREE, LEARNING),
    },
)
SHORT = Scale(
    2,
    160,
    {"steady": (*_FREE, SIMILARITY, LEARNING), "drift": (*_FREE, LEARNING), "poison": (*_FREE, LEARNING)},
)


def run(*, short: bool, plot: Path | None = None) -> Report:
    """Let the agents choose plans, and compare their regrets.

    Args:
        short: Fewer seeds, episodes and agents.
        plot: The file of the curves, as SVG.
    """
    scale = SHORT if short else LONG
    courses = simulated(scale)
    if plot is not None:
        plot.write_text(_drawn(courses, scale), encoding="utf-8")
    lines = [*_regret_lines(courses, scale, short=short), _calibration_line(courses, short=short)]
    tau_lines, tau_grid, tau_notes = _tau.measured(short=short)
    grids = [*_regret_grids(courses, scale), _calibration_grid(courses), tau_grid]
    return Report("Learning", [*lines, *tau_lines], [*_notes(scale), *tau_notes], grids)


def simulated(scale: Scale) -> Courses:
    """Return the courses of all agents in all worlds."""
    with _PROCESSES.Pool(_WORKERS) as pool:
        by_seed = pool.map(partial(_of_seed, scale), range(scale.seeds), chunksize=1)
    return {key: [one[key] for one in by_seed] for key in by_seed[0]}


def _of_seed(scale: Scale, seed: int) -> dict[tuple[str, str], Course]:
    return {
        (kind, name): course(seed, kind, name, scale.episodes)
        for kind in WORLDS
        for name in _AGENTS
        if name in scale.agents[kind]
    }


def course(seed: int, kind: str, name: str, episodes: int) -> Course:
    """Return the course of an agent.

    Args:
        seed: The seed of the world and its tasks.
        kind: "steady", "drift": the world changes half-way; or "poison": a part of the outcomes is remembered wrongly.
        name: The name of the agent.
        episodes: How many tasks there are.
    """
    truth = world(seed, drift_at=episodes // 2 if kind == "drift" else None)
    regrets, claims = [], []
    with _AGENTS[name](seed) as agent:
        for task in tasks(seed, episodes):
            rates = truth.at(task)
            decision = agent.decide(task)
            success = task.luck < rates[decision.plan]
            agent.record(task, decision, success=success != (kind == "poison" and task.is_flipped))
            regrets.append(max(rates) - rates[decision.plan])
            if decision.claim is not None:
                claims.append(Claim(decision.claim, rates[decision.plan], success))
    return Course(regrets, claims)


class Interval(NamedTuple):
    """A figure and its 95 % interval over the seeds."""

    figure: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.figure:.3f} ({self.low:.3f} - {self.high:.3f})"


def over_seeds(figure: Callable[[Sequence[int]], float], seeds: int) -> Interval:
    """Return a figure and its interval: the bootstrap over the seeds, of which each resample draws as many.

    Args:
        figure: Returns the figure of some seeds.
        seeds: The number of seeds.
    """
    chance = random.Random(seeds)
    drawn = sorted(figure(chance.choices(range(seeds), k=seeds)) for _ in range(_RESAMPLES))
    return Interval(figure(range(seeds)), drawn[round(0.025 * _RESAMPLES)], drawn[round(0.975 * _RESAMPLES) - 1])


def _mean_regret(courses: Sequence[Course], part: slice = slice(None)) -> Interval:
    """Return the mean regret of an episode in a part of the course."""
    means = [mean(one.regrets[part]) for one in courses]
    return over_seeds(lambda seeds: mean(means[seed] for seed in seeds), len(means))


def _ratio(over: Sequence[Course], under: Sequence[Course], part: slice = slice(None)) -> Interval:
    """Return the ratio of the regrets of two agents."""
    sums = [(sum(one.regrets[part]), sum(other.regrets[part])) for one, other in zip(over, under, strict=True)]

    def figure(seeds: Sequence[int]) -> float:
        return sum(sums[seed][0] for seed in seeds) / sum(sums[seed][1] for seed in seeds)

    return over_seeds(figure, len(sums))


def calibration_error(claims: Iterable[Claim]) -> float:
    """Return the mean difference of claimed and true rates over ten bins of the claimed one, by their claims."""
    bins: dict[int, list[Claim]] = {}
    for one in claims:
        bins.setdefault(min(int(one.claimed * _BINS), _BINS - 1), []).append(one)
    count = sum(map(len, bins.values()))
    return sum(abs(sum(one.claimed - one.true for one in found)) for found in bins.values()) / count if count else 0.0


def brier(claims: Iterable[Claim]) -> float:
    """Return the mean squared difference of claims and outcomes (Brier 1950)."""
    return mean((one.claimed - one.success) ** 2 for one in claims)


def _of_claims(courses: Sequence[Course], figure: Callable[[list[Claim]], float]) -> Interval:
    return over_seeds(lambda seeds: figure([one for seed in seeds for one in courses[seed].claims]), len(courses))


def _regret_lines(courses: Courses, scale: Scale, *, short: bool) -> list[Line]:
    last = slice(-(scale.episodes // 5), None)
    second_half = slice(scale.episodes // 2, None)
    steady = courses["steady", LEARNING], courses["steady", SIMILARITY]
    return [
        # A short run has too few seeds and episodes for the figure; it checks that it can be computed.
        _line("regret of all episodes: learning by similarity alone", _ratio(*steady), None if short else _HALF),
        _line("  of the last fifth", _ratio(*steady, last), None if short else _HALF),
        _no_worse("drift, after the change: learning by chance", _ratio(*_by_chance(courses, "drift"), second_half)),
        _no_worse("poison: learning by chance", _ratio(*_by_chance(courses, "poison"))),
    ]


def _by_chance(courses: Courses, kind: str) -> tuple[list[Course], list[Course]]:
    return courses[kind, LEARNING], courses[kind, "chance"]


def _line(name: str, ratio: Interval, at_most: float | None) -> Line:
    return Line(name, ratio.figure, ratio.low, ratio.high, "95 % over seeds", at_most=at_most)


def _no_worse(name: str, ratio: Interval) -> Line:
    """Return a line that holds if the ratio is at most 1, or its interval contains 1."""
    bounded = min(ratio.figure, max(1.0, ratio.low))
    return Line(name, bounded, ratio.low, ratio.high, f"mean {ratio.figure:.2f}, 95 % over seeds", at_most=1)


def _calibration_line(courses: Courses, *, short: bool) -> Line:
    error = _of_claims(courses["steady", LEARNING], calibration_error)
    return _line("calibration error of the claimed rates", error, None if short else _CALIBRATED)


def _regret_grids(courses: Courses, scale: Scale) -> list[Grid]:
    """Return for each world the regret of an episode: of all, of the first ones, after the change, and of the last."""
    half = scale.episodes // 2
    parts = {
        "all": slice(None),
        f"first {COLD}": slice(COLD),
        f"{COLD} after half": slice(half, half + COLD),
        "last fifth": slice(-(scale.episodes // 5), None),
    }
    rows = [
        (kind, name, *(str(_mean_regret(courses[kind, name], part)) for part in parts.values()))
        for kind in WORLDS
        for name in _AGENTS
        if (kind, name) in courses
    ]
    return [Grid("Regret of an episode (oracle: 0)", ("world", "agent", *parts), rows)]


def _calibration_grid(courses: Courses) -> Grid:
    rows = []
    for (kind, name), found in courses.items():
        count = sum(len(one.claims) for one in found)
        if count:
            figures = [_of_claims(found, figure) for figure in (brier, _brier_of_truth, calibration_error)]
            rows.append((kind, name, f"{count:,}", *map(str, figures)))
    columns = ("world", "agent", "claims", "Brier score", "of the true rate", "calibration error")
    return Grid("Rates that the memory claims for what is followed", columns, rows)


def _brier_of_truth(claims: Iterable[Claim]) -> float:
    """Return the Brier score of a memory that knows the true rates: what is left is luck."""
    return mean((one.true - one.success) ** 2 for one in claims)


def _drawn(courses: Courses, scale: Scale) -> str:
    """Return the curves of the sums of regrets."""
    titles = {
        "steady": "a steady world",
        "drift": "all rates change half-way",
        "poison": "10 % of the outcomes are wrong",
    }
    panels = [
        _plot.Panel(
            titles[kind],
            [
                _plot.Curve(name, color, _curve(courses[kind, name], scale.episodes))
                for name, color in zip(_AGENTS, _COLORS, strict=True)
                if (kind, name) in courses
            ],
        )
        for kind in WORLDS
    ]
    description = "; ".join(
        f"{panel.title}: " + ", ".join(f"{curve.name} {curve.points[-1][1]:.0f}" for curve in panel.curves)
        for panel in panels
    )
    title = f"Regret of {scale.episodes} episodes, mean and 95 % interval of {scale.seeds} seeds"
    return _plot.drawn(title, description, panels, ("episodes", "sum of regrets"))


def _curve(courses: Sequence[Course], episodes: int) -> list[tuple[float, float, float, float]]:
    sums = [[0.0, *accumulate(one.regrets)] for one in courses]
    points = []
    for at in range(0, episodes + 1, max(1, episodes // 50)):
        values = [one[at] for one in sums]
        spread = 1.96 * stdev(values) / len(values) ** 0.5 if len(values) > 1 else 0.0
        points.append((float(at), mean(values), max(0.0, mean(values) - spread), mean(values) + spread))
    return points


def _notes(scale: Scale) -> list[str]:
    return [
        f"{scale.seeds} seeds, {scale.episodes} episodes, {len(DOMAINS)} domains, {len(PLANS)} plans. In parentheses: "
        "95 % interval, by the bootstrap over the seeds.",
        "regret: the success rate of the best plan for the task, less that of the plan that was followed.",
        f"{SIMILARITY}: follows the most similar success of the domain; {LEARNING}: follows the plan with the greatest "
        f"success rate that the memory expects in the domain, where {HOPE:.0%} is expected of one it does not know.",
        f"{SIMILARITY} and the most frequent success try a random plan in {EXPLORED:.0%} of the episodes.",
        "calibration error: claimed and true rates in ten bins; Brier score: claims and outcomes.",
    ]
