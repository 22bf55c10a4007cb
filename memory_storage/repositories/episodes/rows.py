"""Conversion of rows to episodes, and of episodes to the values of rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from memory_storage.models import Episode, Page
from memory_storage.schema.words import words_of_ending
from memory_storage.search.statement import N_FACT_COLUMNS
from memory_storage.sql.documents import OnCorrupt, report_corrupt
from memory_storage.sql.episode_rows import (
    STEP_ROW,
    episode_of_row,
    episodes_of_rows,
    readable_steps,
)
from memory_storage.sql.paging import Cursor, page
from memory_storage.sql.session import Row
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import size

_STEP_NUMBER = 2 + N_FACT_COLUMNS  # the index at which the columns of the episode or step begin in a row of a search
_STEP_WIDTH = len(STEP_ROW)


def episode_from_rows(rows: Sequence[Row]) -> Episode:
    """Return the episode in its row (number 0) and those of its steps."""
    if len(rows) == 1:
        return episode_of_row(rows[0][1:], ())
    head, *steps = sorted(rows, key=itemgetter(0))
    return episode_of_row(head[1:], [row[:_STEP_WIDTH] for row in steps])


def page_from_rows(
    rows: Sequence[Row], size: int, cursor: Cursor | None, *, descending: bool, on_corrupt: OnCorrupt = None
) -> Page[Episode]:
    """Return the page in rows that begin with a sort key. They come from two tables, in no particular order."""
    heads = sorted((row for row in rows if row[2] == 0), key=itemgetter(0, 1), reverse=descending)
    size = min(size, sum(row[3] is not None for row in heads))  # those without an id are for the next page
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[2]), key=itemgetter(2)):
        steps.setdefault(row[1], []).append(row[2 : 2 + _STEP_WIDTH])
    episodes = _episodes([(row[3:], steps.get(row[1], ())) for row in heads[:size]], on_corrupt)
    return page(episodes, [(row[0], row[1]) for row in heads], size, cursor)


def episodes_by_seq(rows: Sequence[Row]) -> dict[int, Episode]:
    """Return the episodes in rows that begin with a key and `seq`, by their `seq`."""
    heads = [row for row in rows if row[2] == 0]
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[2]), key=itemgetter(2)):
        steps.setdefault(row[1], []).append(row[2 : 2 + _STEP_WIDTH])
    episodes = episodes_of_rows([(row[3:], steps.get(row[1], ())) for row in heads])
    return {row[1]: episode for row, episode in zip(heads, episodes, strict=True)}


def hits_from_rows(rows: Sequence[Row], k: int, on_corrupt: OnCorrupt = None) -> list[tuple[Row, Episode | None]]:
    """Return the hits in rows that begin with score, `seq` and the facts of a search, the best first.

    None stands for an episode that cannot be decoded, and for those after the first `k`.
    """
    heads = sorted((row for row in rows if row[_STEP_NUMBER] == 0), key=lambda row: (-row[0], row[1]))
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[_STEP_NUMBER]), key=itemgetter(_STEP_NUMBER)):
        steps.setdefault(row[1], []).append(row[_STEP_NUMBER : _STEP_NUMBER + _STEP_WIDTH])
    episodes = _episodes([(row[_STEP_NUMBER + 1 :], steps.get(row[1], ())) for row in heads[:k]], on_corrupt)
    return list(zip_longest((row[:_STEP_NUMBER] for row in heads), episodes))


def completion_values(completion: Episode, completed_at: datetime) -> dict[str, Any]:
    """Return the values that complete an episode."""
    outcome = completion.outcome.model_dump_json() if completion.outcome else None
    reflection = completion.reflection.model_dump_json() if completion.reflection else None
    receipt = completion.recalled
    return {
        "kind": completion.outcome and completion.outcome.kind,
        "total": completion.reward and completion.reward.total,
        "completed_at": to_micros(completed_at),
        "completed_json": None if completed_at.utcoffset() == timedelta(0) else to_json(completed_at).decode(),
        "outcome": outcome,
        "reward": completion.reward and completion.reward.model_dump_json(),
        "reflection": reflection,
        "recalled": receipt and receipt.model_dump_json(),
        "words": words_of_ending(outcome, reflection),
    }


def completion_bytes(completion: Episode) -> int:
    """Return the minimum size in bytes of the episode's document after completion."""
    return size(completion.model_dump_json(include={"outcome", "reward", "reflection", "recalled"}))


def with_completion(stored: Episode, completion: Episode) -> Episode:
    """Return the stored episode as it is after completion."""
    return stored.model_copy(
        update={
            "outcome": completion.outcome,
            "completed_at": completion.completed_at,
            "reward": completion.reward or stored.reward,
            "reflection": completion.reflection or stored.reflection,
            "recalled": completion.recalled or stored.recalled,
        }
    )


def same_content(episode: Episode, stored_episode: Episode) -> bool:
    """Return whether a stored episode has everything that a copy of it carries."""
    steps = {step.id: step for step in stored_episode.steps}
    names = ("version", "created_at", "updated_at", "archived_at", "steps")
    same_head = episode.model_copy(update={name: getattr(stored_episode, name) for name in names}) == stored_episode
    return same_head and all(steps.get(step.id) == step for step in episode.steps)


def _episodes(rows: Sequence[tuple[Row, Sequence[Row]]], on_corrupt: OnCorrupt) -> list[Episode | None]:
    """Return the episode of each pair of a row and the rows of its steps, None for one that cannot be decoded."""
    if on_corrupt is None:
        return [*episodes_of_rows(rows)]
    episodes = []
    for row, steps in rows:
        episode = report_corrupt(partial(episode_of_row, row, ()), on_corrupt)
        if episode is not None and steps:
            episode.__dict__["steps"] = readable_steps(steps, on_corrupt)
        episodes.append(episode)
    return episodes
