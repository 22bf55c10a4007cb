"""What a recall finds: whether the successes are of the task's family, and whether its text keeps to the budget.

The episodes are those of tau-bench: 50 tasks of an airline's customers, four trials each, where they are available;
else made here. An agent reads only what its customer writes, so the first message is what is stored as the task, and
what is wanted. The customer is a language model, which words it differently in each trial.
"""

from __future__ import annotations

import json
import math
import random
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import Any
from uuid import UUID

import memory_storage as ms
from memory_storage.importers import episode_from
from memory_storage.models.proportion import wilson

from ._report import Grid, Report, line_of, milliseconds

K = 5
_TRANSCRIPTS = Path(__file__).parents[2] / "shared/data/tau_airline.jsonl"
_CHANGES = ("book_", "cancel_", "update_", "send_", "transfer_")
"""How the names of tools begin that change something: those that the task requires are its kind."""

_BUDGETS = (0, 100, 250, 500, 1_000, 2_000, 4_000, 8_000)
_NOTES = (
    "same task: the episode is left out, its other trials are not; over the episodes whose task has another success.",
    "same kind: all trials of the task are left out; a task is of the same kind if it requires the same changes "
    "(book, cancel, update flights, ...); over all episodes.",
    "first, any: the share of searches whose first success, or one of five, is of the family; with its 95 % interval.",
    "chance: five random successes, exactly. words, vectors: `episodes.search` and `similar_to` for outcome='success', "
    "with HashingEmbedder().",
    "recall: near-duplicates count as one result.",
)


@dataclass(frozen=True)
class Run:
    """An episode, its task, and the changes that the task requires."""

    episode: ms.Episode
    task: Any
    kind: frozenset[str]


Find = Callable[[ms.MemoryStorage, str], Sequence[UUID]]


def run(*, short: bool) -> Report:
    """Leave out each episode in turn, and look for others by its task."""
    source, runs = trials()
    embedder = ms.HashingEmbedder()
    with ms.MemoryStorage.open(":memory:", embedder=embedder) as storage:
        storage.episodes.save_many([one.episode for one in runs])
        storage.embeddings.embed(embedder)
        storage.patterns.learn(min_episodes=3)
        asked = runs[::4] if short else runs
        ways: dict[str, Find] = {
            "words": lambda memory, task: _ids(
                memory.episodes.search(task, k=K, weights=ms.Weights(vector=0), outcome="success", steps=False)
            ),
            "vectors": lambda memory, task: _ids(
                memory.episodes.similar_to(embedder.embed_query(task), k=K, outcome="success", steps=False)
            ),
            "recall": lambda memory, task: _recalled(memory.recall(task, k=K, budget_tokens=100_000)),
            "recall, diversity=0": lambda memory, task: _recalled(
                memory.recall(task, k=K, budget_tokens=100_000, diversity=0.0)
            ),
        }
        rows, figures = [], {}
        for family, is_left_out in (("task", False), ("kind", True)):
            outcomes = {name: _outcomes(storage, runs, asked, find, family) for name, find in ways.items()}
            chance = _chance(runs, asked, family, whole_task=is_left_out)
            rows.append((f"same {family}", "chance", str(chance[2]), f"{chance[0]:.3f}", f"{chance[1]:.3f}"))
            for name, found in outcomes.items():
                first, any_ = (wilson(sum(one), len(one), 0.95) for one in zip(*found, strict=True))
                rows.append((f"same {family}", name, str(first.of), share(first), share(any_)))
                figures[family, name] = first.rate or 0.0, any_.rate or 0.0
            figures[family, "chance"] = chance[:2]
        budget = _budgets(storage, asked)
    shares = {name: figures["task", name][1] for name in ("chance", *ways)}
    lines = [
        line_of("same task, any of five: recall by chance", shares["recall"] / shares["chance"], at_least=2),
        line_of("same task, any of five: recall by words alone", shares["recall"] / shares["words"], at_least=1),
        # Diversity costs some of the trials of one task, which are alike.
        line_of("same task, any of five: recall by vectors alone", shares["recall"] / shares["vectors"], at_least=0.95),
        line_of(
            "same task, any of five: the same with diversity=0",
            shares["recall, diversity=0"] / shares["vectors"],
            at_least=0.95 if short else 1,  # a quarter of the searches: one of them more or less is 3 %
        ),
        line_of("tokens by budget, the greatest", budget[0], budget[1], at_most=1),
    ]
    columns = ("family", "way", "searches", "first", "any of five")
    return Report("Recall", lines, [source, *_NOTES], [Grid("Successes of the same family", columns, rows)])


def _outcomes(
    storage: ms.MemoryStorage, runs: Sequence[Run], asked: Sequence[Run], find: Find, family: str
) -> list[tuple[bool, bool]]:
    """Return for each search whether the first result, and whether any, is of the family of the episode left out."""
    by_id = {one.episode.id: one for one in runs}
    found = []
    for one in asked:
        left_out = [one] if family == "task" else [other for other in runs if other.task == one.task]
        if family == "task" and not any(is_success(other) and other.task == one.task for other in runs if other != one):
            continue
        with archived(storage, left_out):
            hits = [getattr(by_id[key], family) == getattr(one, family) for key in find(storage, _task(one))]
        found.append((bool(hits) and hits[0], any(hits)))
    return found


def _chance(runs: Sequence[Run], asked: Sequence[Run], family: str, *, whole_task: bool) -> tuple[float, float, int]:
    """Return the expected share of random successes of the family: the first, and any of five."""
    firsts, anys = [], []
    for one in asked:
        others = [other for other in runs if is_success(other) and other != one]
        if whole_task:
            others = [other for other in others if other.task != one.task]
        same = sum(getattr(other, family) == getattr(one, family) for other in others)
        if same or whole_task:
            firsts.append(same / len(others))
            anys.append(1 - math.comb(len(others) - same, K) / math.comb(len(others), K))
    return mean(firsts), mean(anys), len(firsts)


@contextmanager
def archived(storage: ms.MemoryStorage, runs: Iterable[Run]) -> Iterator[None]:
    """Leave episodes out: what is archived is not found."""
    ids = [one.episode.id for one in runs]
    for key in ids:
        storage.episodes.archive(key)
    yield
    for key in ids:
        storage.episodes.restore(key)


def _budgets(storage: ms.MemoryStorage, runs: Sequence[Run]) -> tuple[float, str]:
    """Return the greatest share of the budget that a text has used, by each of three counters, and the times."""
    counters: dict[str, Callable[[str], int] | None] = {
        "estimate": None,
        "characters": len,
        "words": lambda text: len(text.split()),
    }
    shares, seconds = [0.0], []
    for count in counters.values():
        for budget in _BUDGETS:
            for one in runs[::10]:
                start = time.perf_counter()
                recall = storage.recall(_task(one), k=K, budget_tokens=budget, count_tokens=count)
                seconds.append(time.perf_counter() - start)
                tokens = recall.tokens if count is None else count(str(recall))
                shares.append(tokens / budget if budget else float(tokens > 0) * 2)
    return max(shares), f"{len(seconds)} recalls, {milliseconds(median(seconds))} each"


def _recalled(recall: ms.Recall) -> list[UUID]:
    return [one.item.id for one in recall if one.kind == "success"]


def _ids(hits: ms.Hits[ms.Episode]) -> list[UUID]:
    return [hit.item.id for hit in hits]


def _task(one: Run) -> str:
    return one.episode.task_description


def is_success(one: Run) -> bool:
    return isinstance(one.episode.outcome, ms.Success)


def share(rate: ms.models.Rate) -> str:
    return f"{rate.rate or 0.0:.3f} ({rate.low or 0.0:.3f} - {rate.high or 0.0:.3f})"


def trials() -> tuple[str, list[Run]]:
    if not _TRANSCRIPTS.exists():
        return "made here: 50 tasks, four trials each", _invented()
    with _TRANSCRIPTS.open() as lines:
        return "tau-bench: 50 tasks of an airline's customers, four trials each", [
            _read(json.loads(one)) for one in lines
        ]


def _read(record: dict[str, Any]) -> Run:
    message = next(one["content"] for one in record["traj"] if one["role"] == "user")
    episode = episode_from(record).model_copy(update={"task_description": message})
    actions = (one["name"] for one in record["info"]["task"]["actions"])
    return Run(episode, record["task_id"], frozenset(name for name in actions if name.startswith(_CHANGES)))


def _invented() -> list[Run]:
    chance = random.Random(1)
    places = ["Denver", "Houston", "Boston", "Seattle", "Chicago", "Austin", "Miami", "Dallas", "Phoenix", "Newark"]
    verbs = {"book": "book a flight", "cancel": "cancel the flight", "update": "change the flight"}
    phrases = ("I want to {0}.", "Hi! I'd like to {0}, please.", "Could you help me to {0}?", "I need to {0} soon.")
    runs = []
    for task in range(50):
        kind = chance.choice(sorted(verbs))
        wish = (
            f"{verbs[kind]} from {' to '.join(chance.sample(places, 2))} for {chance.choice(('one', 'two', 'three'))}"
        )
        for trial in range(4):
            outcome = ms.Success(verdict="done") if chance.random() < 0.4 else ms.Failure(reason="not what was asked")
            tools = ["get_user", f"{kind}_flight", *(["confirm"] if isinstance(outcome, ms.Success) else [])]
            steps = [ms.Step(tool=tool, result=ms.StepOk(output="a result " * 50)) for tool in tools]
            text = phrases[trial].format(wish)
            runs.append(Run(ms.Episode(task_description=text, outcome=outcome, steps=steps), task, frozenset({kind})))
    return runs
