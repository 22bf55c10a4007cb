"""On tau-bench: whether what is recalled for a failed trial shows what successful trials of its task did otherwise.

An agent reads only what its customer writes: the first message is the task. What is shown are sequences of tools, of at
least two, in the successes and the learned patterns that a search returns.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from statistics import mean

import memory_storage as ms
from memory_storage.models.proportion import wilson

from ._report import Grid, Line, line_of
from .recall import Run, archived, is_success, share, trials

K = 5
"""Records that a search returns."""

_PATTERNS = 2
"""Of these, patterns."""

_LONGEST = 4
_DRAWS = 20
_BUDGET = 100_000
_WAYS = ("chance", "words", "vectors", "recall with learning")

Sequences = frozenset[tuple[str, ...]]
Shown = Callable[[ms.MemoryStorage, str], Sequence[Sequences]]
"""Returns the sequences of each record that a search shows."""


def measured(*, short: bool) -> tuple[list[Line], Grid, list[str]]:
    """Return the ratios, the table and the notes.

    Args:
        short: Measure a quarter of the failed trials, and no order of time.
    """
    source, episodes = trials()
    rows, figures = [], {}
    for name, order in (("any other trial", False), ("earlier trials alone", True))[: 1 if short else 2]:
        results = _in_order(episodes) if order else _left_out(episodes, 4 if short else 1)
        for way in _WAYS:
            for least in (2, 3):
                found = [one[least] for one in results[way]]
                rows.append((name, way, f"{least} tools", str(len(found)), _interval(found, way)))
                figures[name, way, least] = mean(found) if found else 0.0
    recalled, chance = (figures["any other trial", way, 3] for way in ("recall with learning", "chance"))
    ratio = recalled / chance if chance else 0.0
    lines = [line_of("tau-bench, a sequence of 3 tools: recall by chance", ratio, at_least=1)]
    columns = ("memory", "way", "at least", "failed trials", "shows one")
    notes = [
        f"{source}. shows one: the share of failed trials for which one of {K} records shows a sequence of tools that "
        "a successful trial of the task in memory has, and the failed one has not; 95 % interval.",
        f"recall with learning: {K - _PATTERNS} successes and {_PATTERNS} patterns; the others: {K} successes.",
    ]
    return lines, Grid("What a failed trial did not do", columns, rows), notes


def _left_out(episodes: Sequence[Run], every: int) -> dict[str, list[dict[int, float]]]:
    """Ask for each failed trial, with all others in memory."""
    results: dict[str, list[dict[int, float]]] = defaultdict(list)
    with _memory() as storage:
        _remember(storage, episodes)
        for one in [one for one in episodes if not is_success(one)][::every]:
            with archived(storage, [one]):
                # What was learned from the trial itself must not be shown: learned without it, as archived ones are.
                for pattern in list(storage.patterns.iterate()):
                    storage.patterns.delete(pattern.id)
                storage.patterns.learn(min_episodes=3, archived=False)
                storage.embeddings.flush()
                _ask(storage, one, [other for other in episodes if other != one], results)
    return results


def _in_order(episodes: Sequence[Run]) -> dict[str, list[dict[int, float]]]:
    """Ask for each failed trial, with the earlier trials of all tasks in memory."""
    results: dict[str, list[dict[int, float]]] = defaultdict(list)
    by_trial: dict[int, list[Run]] = defaultdict(list)
    seen: dict[object, int] = defaultdict(int)
    for one in episodes:
        by_trial[seen[one.task]].append(one)
        seen[one.task] += 1
    known: list[Run] = []
    with _memory() as storage:
        for trial in sorted(by_trial):
            for one in by_trial[trial]:
                if known and not is_success(one):
                    _ask(storage, one, known, results)
            known += by_trial[trial]
            _remember(storage, by_trial[trial])
            storage.patterns.learn(min_episodes=3)
            storage.embeddings.flush()
    return results


def _ask(storage: ms.MemoryStorage, one: Run, known: Sequence[Run], results: dict[str, list[dict[int, float]]]) -> None:
    """Add for each way whether it shows a sequence of at least 2, and of at least 3 tools; or its expected share."""
    tools = sequences(_tools(one.episode))
    successes = [other for other in known if is_success(other)]
    missing = frozenset().union(*(sequences(_tools(other.episode)) for other in successes if other.task == one.task))
    missing -= tools
    if not missing:
        return  # the task has no success in memory, or it did nothing else
    task = one.episode.task_description
    for way, find in _searches().items():
        shown = find(storage, task)
        results[way].append({least: float(_shows(shown, missing, least)) for least in (2, 3)})
    chance = random.Random(str(one.episode.id))
    draws = [
        [sequences(_tools(other.episode)) for other in chance.sample(successes, min(K, len(successes)))]
        for _ in range(_DRAWS)
    ]
    results["chance"].append({least: mean(_shows(shown, missing, least) for shown in draws) for least in (2, 3)})


def _searches() -> dict[str, Shown]:
    embedder = ms.HashingEmbedder()

    def of_hits(hits: Iterable[ms.models.Hit[ms.Episode]]) -> list[Sequences]:
        return [sequences(_tools(hit.item)) for hit in hits]

    def recalled(memory: ms.MemoryStorage, task: str) -> list[Sequences]:
        recall = memory.recall(
            task,
            k=K - _PATTERNS,
            failures=0,
            patterns=_PATTERNS,
            budget_tokens=_BUDGET,
            weights=ms.RecallWeights(effectiveness=0.5),
        )
        return [sequences(_tools(one.item)) for one in recall]

    return {
        "words": lambda memory, task: of_hits(
            memory.episodes.search(task, k=K, weights=ms.Weights(vector=0), outcome="success")
        ),
        "vectors": lambda memory, task: of_hits(
            memory.episodes.similar_to(embedder.embed_query(task), k=K, outcome="success")
        ),
        "recall with learning": recalled,
    }


def sequences(tools: Sequence[str]) -> Sequences:
    """Return the sequences of two to four tools."""
    return frozenset(
        tuple(tools[at : at + length]) for length in range(2, _LONGEST + 1) for at in range(len(tools) - length + 1)
    )


def _shows(shown: Iterable[Sequences], missing: Sequences, least: int) -> bool:
    return any(len(one) >= least for record in shown for one in record & missing)


def _tools(item: ms.Episode | ms.models.AnyPattern) -> list[str]:
    if isinstance(item, ms.Episode):
        return [step.tool for step in item.steps]
    return list(item.tools) if isinstance(item, ms.ToolSequence) else []


def _interval(found: Sequence[float], way: str) -> str:
    if way == "chance" or not found:
        return f"{mean(found):.3f}" if found else ""
    return share(wilson(round(sum(found)), len(found), 0.95))


def _memory() -> ms.MemoryStorage:
    return ms.MemoryStorage.open(":memory:", embedder=ms.HashingEmbedder(), embed="manually")


def _remember(storage: ms.MemoryStorage, episodes: Sequence[Run]) -> None:
    storage.episodes.save_many([one.episode for one in episodes])
    storage.embeddings.flush()
