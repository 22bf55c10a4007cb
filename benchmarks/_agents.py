"""Agents that choose plans in the simulated world, each with another memory, by public calls alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol
from uuid import UUID

import memory_storage as ms
from memory_storage.testing import FakeClock

from ._world import PLANS, Task, execute, plan_of

LEARNED_EVERY = 10
"""Episodes between two calls of `patterns.learn`."""

HOPE = 0.7
"""The success rate that an agent expects of a plan before it knows anything about it."""

_HOPES = 2.0  # the number of episodes that it counts as

EPISODE_EVERY = timedelta(hours=6)
"""The simulated time between two episodes: 500 of them take four months."""

_DIMENSION = 64
_PATTERNS = 50
_BUDGET = 100_000  # tokens: the agents read the records, and a text that leaves some out would hide the effect


@dataclass(frozen=True)
class Decision:
    """What an agent does.

    Attributes:
        plan: the plan it follows.
        claim: the success rate that the memory claims for what it follows; None if it claims none.
        recall: what it has recalled, if it did.
        used: the IDs of the records that it follows.
    """

    plan: int
    claim: float | None = None
    recall: ms.Recall | None = None
    used: list[UUID] = field(default_factory=list)


class Agent(Protocol):
    """An agent."""

    def decide(self, task: Task) -> Decision:
        """Choose a plan."""
        ...

    def record(self, task: Task, decision: Decision, *, success: bool) -> None:
        """Remember the outcome."""
        ...


class Chance:
    """Follows a random plan."""

    def decide(self, task: Task) -> Decision:
        """See `Agent`."""
        return Decision(task.random_plan)

    def record(self, task: Task, decision: Decision, *, success: bool) -> None:
        """See `Agent`."""


class MostFrequent:
    """Follows the plan that has succeeded most often, in whatever domain."""

    def __init__(self) -> None:
        self._successes: Counter[int] = Counter()

    def decide(self, task: Task) -> Decision:
        """See `Agent`."""
        if task.explores or not self._successes:
            return Decision(task.random_plan)
        return Decision(self._successes.most_common(1)[0][0])

    def record(self, task: Task, decision: Decision, *, success: bool) -> None:  # noqa: ARG002 - as in `Agent`
        """See `Agent`."""
        self._successes[decision.plan] += success


class Similarity:
    """Follows the most similar success of the domain.

    Args:
        storage: Its memory.
        clock: The clock of the memory.
        chance: The source of the IDs of its episodes, so that a run can be repeated.
    """

    def __init__(self, storage: ms.MemoryStorage, clock: FakeClock, chance: random.Random) -> None:
        self._storage, self._clock, self._chance = storage, clock, chance

    def decide(self, task: Task) -> Decision:
        """See `Agent`."""
        weights = ms.RecallWeights(similarity=1, reward=0, recency=0)
        recall = self._storage.recall(
            task.text, k=1, failures=0, patterns=0, budget_tokens=_BUDGET, weights=weights, domain=task.domain
        )
        if task.explores or not recall:
            return Decision(task.random_plan, recall=recall)
        item = recall.items[0].item
        return Decision(plan_of(_tools(item)), recall=recall, used=[item.id])

    def record(self, task: Task, decision: Decision, *, success: bool) -> None:
        """See `Agent`."""
        episode = ms.Episode(
            id=UUID(int=self._chance.getrandbits(128), version=4),
            task_description=task.text,
            context=ms.TaskContext(domain=task.domain),
            started_at=self._clock.now(),
            steps=execute(decision.plan, task),
        )
        self._storage.episodes.save(episode)
        self._storage.episodes.complete(
            episode.id,
            ms.Success(verdict="solved") if success else ms.Failure(reason="not what was asked for"),
            reward=float(success),
            recalled=decision.recall,
            used=decision.used,
            rating=None if not decision.used else 5 if success else 1,
        )
        self._clock.advance(EPISODE_EVERY.total_seconds())


class Learning(Similarity):
    """Follows the plan with the greatest expected success by what is recalled, and learns patterns at intervals.

    It is optimistic (Sutton and Barto, 2018, 2.6): of a plan that the memory does not know in the domain it expects
    `HOPE`, and what the memory expects counts by the number of episodes behind it. It tries no plan at random.

    Args:
        storage: Its memory.
        clock: The clock of the memory.
        chance: The source of the IDs of its episodes.
    """

    def decide(self, task: Task) -> Decision:
        """See `Agent`."""
        recall = self._storage.recall(
            task.text,
            k=1,
            failures=0,
            patterns=_PATTERNS,
            diversity=0,
            budget_tokens=_BUDGET,
            weights=ms.RecallWeights(similarity=0.1, reward=0, recency=0, effectiveness=1),
            domain=task.domain,
        )
        known = _known(recall, task.domain)
        hopes = {plan: _hope(*known[plan][:2]) if plan in known else HOPE for plan in range(len(PLANS))}
        most = max(hopes.values())
        plan = random.Random(task.noise).choice([plan for plan, hope in hopes.items() if hope == most])
        if plan not in known:
            return Decision(plan, recall=recall)
        rate, _, pattern = known[plan]
        return Decision(plan, rate, recall, [pattern.id])

    def record(self, task: Task, decision: Decision, *, success: bool) -> None:
        """See `Agent`."""
        super().record(task, decision, success=success)
        if (task.number + 1) % LEARNED_EVERY == 0:
            # All that was tried, not only what succeeds: the agent has to know what fails, too.
            self._storage.patterns.learn(lengths=(3, 3), min_lift=0.0, max_patterns=500)


@contextmanager
def remembering(seed: int, kind: type[Similarity] = Similarity) -> Iterator[Similarity]:
    """Yield an agent with a memory of its own.

    Args:
        seed: The seed of its IDs.
        kind: Its class.
    """
    clock = FakeClock()
    embedder = ms.HashingEmbedder(_DIMENSION)
    with ms.MemoryStorage.open(":memory:", embedder=embedder, embed="on_save", now=clock.now) as storage:
        yield kind(storage, clock, random.Random(seed))


def _hope(rate: float, episodes: float) -> float:
    return (rate * episodes + HOPE * _HOPES) / (episodes + _HOPES)


def _known(recall: ms.Recall, domain: str) -> dict[int, tuple[float, float, ms.ToolSequence]]:
    """Return for each plan that was tried in a domain its expected rate there, by the pattern with the most evidence.

    Args:
        recall: What was recalled.
        domain: The domain.
    """
    known: dict[int, tuple[float, float, ms.ToolSequence]] = {}
    for one in recall:
        pattern = one.item
        if not isinstance(pattern, ms.ToolSequence) or not _was_tried(pattern, domain):
            continue
        rate, episodes = pattern.observations(domain)
        for plan, tools in enumerate(PLANS):
            if _is_part(pattern.tools, tools) and (plan not in known or episodes > known[plan][1]):
                known[plan] = rate, episodes, pattern
    return known


def _was_tried(pattern: ms.ToolSequence, domain: str) -> bool:
    return pattern.context.domain == domain or (pattern.statistics is not None and domain in pattern.statistics.domains)


def _is_part(part: Sequence[str], tools: Sequence[str]) -> bool:
    return any(list(tools[at : at + len(part)]) == list(part) for at in range(len(tools) - len(part) + 1))


def _tools(item: ms.Episode | ms.models.AnyPattern) -> list[str]:
    """Return the tools of a success or of a sequence; none of what else there is, like what to avoid."""
    if isinstance(item, ms.Episode):
        return [step.tool for step in item.steps if isinstance(step.result, ms.StepOk)]
    return list(item.tools) if isinstance(item, ms.ToolSequence) else []
