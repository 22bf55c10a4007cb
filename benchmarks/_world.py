"""A simulated world whose truth is known: which plan succeeds how often in which context.

Contexts are domains. A task's text names its domain only in part: the words of a domain are mixed with those of all
others, and some requests are worded without any. A plan is a sequence of tools; plans share tools and parts. Each
domain has one clearly good plan, and one mediocre plan works everywhere. What an agent executes is the plan with noise:
another lookup, or a step that fails and is repeated.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import memory_storage as ms

EXPLORED = 0.1
"""The share of tasks for which an agent tries a random plan, whatever its memory says."""

PLANS: tuple[tuple[str, ...], ...] = (
    ("search_records", "read_policy", "answer"),  # the one that works everywhere, though not well
    ("get_user", "search_records", "update_record", "confirm"),
    ("get_user", "check_payment", "issue_refund", "confirm"),
    ("search_records", "read_policy", "escalate"),
    ("list_options", "compare_options", "update_record", "confirm"),
    ("get_user", "search_records", "check_payment", "issue_refund", "send_receipt"),
    ("read_policy", "calculate", "update_record", "send_receipt"),
    ("list_options", "search_records", "calculate", "answer"),
)
LOOKUP = "look_up"
"""A tool of no plan."""

WORDS: dict[str, tuple[str, ...]] = {
    "flights": ("flight", "boarding", "layover", "airport", "seat", "gate"),
    "hotels": ("room", "suite", "lobby", "checkout", "breakfast", "bed"),
    "billing": ("invoice", "charge", "subscription", "statement", "balance", "fee"),
    "parcels": ("parcel", "courier", "tracking", "depot", "doorstep", "label"),
    "insurance": ("claim", "policyholder", "deductible", "coverage", "premium", "damage"),
    "energy": ("meter", "tariff", "outage", "kilowatt", "boiler", "supplier"),
}
DOMAINS = tuple(WORDS)
_NOISE = [
    "please",
    "today",
    "again",
    "customer",
    "asked",
    "quickly",
    "urgent",
    "problem",
    "wrong",
    "change",
    "help",
    "question",
    "morning",
    "account",
    "request",
    "old",
    "second",
    "family",
    "called",
    "twice",
    "manager",
    "new",
    "later",
    "support",
    "form",
    "sent",
    "waiting",
    "answer",
    "email",
    "phone",
    "letter",
]
_FORMS = (
    "The {0} about the {1} is {2}, {3}",
    "{2}: I need help with my {0}, {3}",
    "Customer {2} {3} because of the {0} and the {1}",
    "{3} {2} question, my {0} was {2}",
)
_VAGUE = "{2} {3}, please look into it"

_GOOD, _EVERYWHERE = 0.85, 0.5
_OTHERS = (0.1, 0.45)
_OF_ANOTHER_DOMAIN = 0.25  # of the words in a text
_IS_VAGUE = 0.15
_EXTRA_LOOKUP, _REPEATED = 0.2, 0.15


@dataclass(frozen=True)
class World:
    """The success rates of the plans in each domain.

    Attributes:
        rates: for each domain, the rate of each plan.
        later: the same from the task `drift_at` on.
        drift_at: the number of the first task after the world has changed; None if it does not.
    """

    rates: tuple[tuple[float, ...], ...]
    later: tuple[tuple[float, ...], ...] = ()
    drift_at: int | None = None

    def at(self, task: Task) -> tuple[float, ...]:
        """Return the success rate of each plan for a task."""
        changed = self.drift_at is not None and task.number >= self.drift_at
        return (self.later if changed else self.rates)[task.context]


@dataclass(frozen=True)
class Task:
    """A task, and all chance that belongs to it, so that each agent has the same.

    Attributes:
        number: its place in the stream, from 0.
        context: the number of its domain.
        text: its description.
        luck: from 0 to 1; a plan whose rate is above it succeeds.
        explores: whether a random plan is tried.
        random_plan: the plan that is tried then, or if there is nothing to follow.
        noise: a seed of the noise of the execution.
        is_flipped: whether the outcome is recorded wrongly in a poisoned memory.
    """

    number: int
    context: int
    text: str
    luck: float
    explores: bool
    random_plan: int
    noise: int
    is_flipped: bool

    @property
    def domain(self) -> str:
        """The name of its domain."""
        return DOMAINS[self.context]


def world(seed: int, *, drift_at: int | None = None) -> World:
    """Return a world. If it drifts, all plans exchange their rates: none keeps its own.

    Args:
        seed: The seed.
        drift_at: The number of the first task after the change.
    """
    chance = random.Random(f"world {seed}")
    best = chance.sample(range(1, len(PLANS)), len(DOMAINS))
    rates = tuple(
        tuple(
            _GOOD if plan == best[context] else _EVERYWHERE if plan == 0 else chance.uniform(*_OTHERS)
            for plan in range(len(PLANS))
        )
        for context in range(len(DOMAINS))
    )
    order = _derangement(chance, len(PLANS))
    return World(rates, tuple(tuple(row[plan] for plan in order) for row in rates), drift_at)


def tasks(seed: int, count: int, *, poison: float = 0.1) -> list[Task]:
    """Return the stream of tasks of a seed.

    Args:
        seed: The seed.
        count: The number of tasks.
        poison: The share of outcomes that a poisoned memory has wrong.
    """
    chance = random.Random(f"tasks {seed}")
    stream = []
    for number in range(count):
        context = chance.randrange(len(DOMAINS))
        stream.append(
            Task(
                number,
                context,
                _text(chance, DOMAINS[context]),
                luck=chance.random(),
                explores=chance.random() < EXPLORED,
                random_plan=chance.randrange(len(PLANS)),
                noise=chance.getrandbits(32),
                is_flipped=chance.random() < poison,
            )
        )
    return stream


def execute(plan: int, task: Task) -> list[ms.Step]:
    """Return the steps of an agent that follows a plan: with another lookup, or an error that it recovers from."""
    chance = random.Random(task.noise)
    steps = [ms.Step(tool=tool, result=ms.StepOk(output="done")) for tool in PLANS[plan]]
    if chance.random() < _REPEATED:
        at = chance.randrange(len(steps))
        steps.insert(at, ms.Step(tool=steps[at].tool, result=ms.StepError(message="service unavailable")))
    if chance.random() < _EXTRA_LOOKUP:
        steps.insert(chance.randrange(len(steps) + 1), ms.Step(tool=LOOKUP, result=ms.StepOk(output="nothing new")))
    return steps


@lru_cache(maxsize=10_000)
def likeness(tools: tuple[str, ...], plan: int) -> float:
    """Return how much of a plan and of some tools is the same, in order: from 0 to 1.

    Args:
        tools: What was recalled.
        plan: The number of the plan.
    """
    common = _common(tools, PLANS[plan])
    return 2 * common / (len(tools) + len(PLANS[plan]))


def plan_of(tools: Sequence[str]) -> int:
    """Return the plan that is most like some tools: what an agent does that follows them."""
    return max(range(len(PLANS)), key=lambda plan: likeness(tuple(tools), plan))


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return the length of the longest common subsequence."""
    lengths = [0] * (len(other) + 1)
    for tool in one:
        before = 0
        for at, another in enumerate(other, start=1):
            here = lengths[at]
            lengths[at] = before + 1 if tool == another else max(here, lengths[at - 1])
            before = here
    return lengths[-1]


def _text(chance: random.Random, domain: str) -> str:
    nouns = [
        chance.choice(WORDS[chance.choice(DOMAINS) if chance.random() < _OF_ANOTHER_DOMAIN else domain])
        for _ in range(2)
    ]
    form = _VAGUE if chance.random() < _IS_VAGUE else chance.choice(_FORMS)
    return form.format(*nouns, " ".join(chance.sample(_NOISE, 2)), " ".join(chance.sample(_NOISE, 2)))


def _derangement(chance: random.Random, count: int) -> list[int]:
    while True:
        order = chance.sample(range(count), count)
        if all(place != value for place, value in enumerate(order)):
            return order
