"""Conversion of rows to episodes, and of episodes to the values of rows."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from itertools import zip_longest
from operator import itemgetter
from typing import Any

from pydantic_core import to_json

from memory_storage.models import Episode, LazyList, Page, Step
from memory_storage.schema.words import words_of_ending, words_of_step
from memory_storage.search.statement import N_FACT_COLUMNS
from memory_storage.sql.documents import (
    NumberRow,
    OnCorrupt,
    corrupt_error,
    decode,
    decode_steps,
    from_micros,
    readable_steps,
    report_corrupt,
    to_micros,
    with_columns,
    without_output,
)
from memory_storage.sql.paging import Cursor, page
from memory_storage.sql.session import Row
from memory_storage.sql.validation import size

_NO_NUMBER = '"step_number":null'  # the first occurrence in a document is the field itself: only the id precedes it
_STEP_NUMBER = 2 + N_FACT_COLUMNS  # the index at which the columns of the episode or step begin in a row of a search


def episode_from_rows(rows: Sequence[Row]) -> Episode:
    """Return the episode in its row (number 0) and those of its steps."""
    head, *steps = sorted(rows, key=itemgetter(0))
    return _decode_episode(head[1:], [row[1:4] for row in steps])


def page_from_rows(
    rows: Sequence[Row], size: int, cursor: Cursor | None, *, descending: bool, on_corrupt: OnCorrupt = None
) -> Page[Episode]:
    """Return the page in rows that begin with a sort key. They come from two tables, in no particular order."""
    heads = sorted((row for row in rows if row[2] == 0), key=itemgetter(0, 1), reverse=descending)
    size = min(size, sum(row[3] is not None for row in heads))  # those without an id are for the next page
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[2]), key=itemgetter(2)):
        steps.setdefault(row[1], []).append(row[3:6])
    episodes = [_episode_or_none(row[3:], steps.get(row[1], []), on_corrupt) for row in heads[:size]]
    return page(episodes, [(row[0], row[1]) for row in heads], size, cursor)


def episodes_by_seq(rows: Sequence[Row]) -> dict[int, Episode]:
    """Return the episodes in rows that begin with a key and `seq`, by their `seq`."""
    heads = [row for row in rows if row[2] == 0]
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[2]), key=itemgetter(2)):
        steps.setdefault(row[1], []).append(row[3:6])
    return {row[1]: _decode_episode(row[3:9], steps.get(row[1], [])) for row in heads}


def hits_from_rows(rows: Sequence[Row], k: int, on_corrupt: OnCorrupt = None) -> list[tuple[Row, Episode | None]]:
    """Return the hits in rows that begin with score, `seq` and the facts of a search, the best first.

    None stands for an episode that cannot be decoded, and for those after the first `k`.
    """
    heads = sorted((row for row in rows if row[_STEP_NUMBER] == 0), key=lambda row: (-row[0], row[1]))
    steps: dict[int, list[Row]] = {}
    for row in sorted((row for row in rows if row[_STEP_NUMBER]), key=itemgetter(_STEP_NUMBER)):
        steps.setdefault(row[1], []).append(row[_STEP_NUMBER + 1 : _STEP_NUMBER + 4])
    episodes = [_episode_or_none(row[_STEP_NUMBER + 1 :], steps.get(row[1], []), on_corrupt) for row in heads[:k]]
    return list(zip_longest((row[:_STEP_NUMBER] for row in heads), episodes))


def with_saved_state(episode: Episode, state: Row) -> Episode:
    """Return an episode that was just saved, with the columns that the database has set."""
    version, created_at, updated_at, archived_at = state
    return with_columns(episode, version, created_at, updated_at, archived_at=from_micros(archived_at))


def state_after_save(episode: Episode, state: Row | None, now: int) -> Row:
    """Return the version and times that a save has left.

    `state` belongs to another writer if the acknowledgement was lost, and the row was read again after that writer's
    save.
    """
    if state is not None and state[0] == episode.version + 1:
        return state
    created_at = state[1] if state else now
    return episode.version + 1, created_at, now, state[3] if state else None


def step_values(step: Step) -> dict[str, Any]:
    """Return the values of a step's row; its document in two parts, between which the number is inserted."""
    bare, output = without_output(step)
    document = bare.model_dump_json()
    before, _, after = document.partition(_NO_NUMBER)
    return {
        "id": str(step.id),
        "tool": step.tool,
        "status": step.result and step.result.status,
        "latency_ms": step.latency_ms,
        "tokens_used": step.tokens_used,
        "started_at": to_micros(step.started_at),
        "output": output,
        "before_number": before + _NO_NUMBER.removesuffix("null"),
        "after_number": after,
        "words": words_of_step(document, output),
    }


def completion_values(completion: Episode, completed_at: datetime) -> dict[str, Any]:
    """Return the values that complete an episode."""
    outcome = completion.outcome.model_dump_json() if completion.outcome else None
    reflection = completion.reflection.model_dump_json() if completion.reflection else None
    return {
        "kind": completion.outcome and completion.outcome.kind,
        "total": completion.reward and completion.reward.total,
        "completed_at": to_micros(completed_at),
        "completed_json": to_json(completed_at).decode(),
        "outcome": outcome,
        "reward": completion.reward and completion.reward.model_dump_json(),
        "reflection": reflection,
        "words": words_of_ending(outcome, reflection),
    }


def completion_bytes(completion: Episode) -> int:
    """Return the minimum size in bytes of the episode's document after completion."""
    return size(completion.model_dump_json(include={"outcome", "reward", "reflection"}))


def with_completion(stored: Episode, completion: Episode) -> Episode:
    """Return the stored episode as it is after completion."""
    return stored.model_copy(
        update={
            "outcome": completion.outcome,
            "completed_at": completion.completed_at,
            "reward": completion.reward or stored.reward,
            "reflection": completion.reflection or stored.reflection,
        }
    )


def reward_rows(episodes: Sequence[Episode]) -> list[NumberRow]:
    """Return the rewards that the column has to hold, with the ids of their episodes."""
    return [((str(one.id),), (one.reward.total,)) for one in episodes if one.reward is not None]


def same_content(episode: Episode, stored_episode: Episode) -> bool:
    """Return whether a stored episode has everything that a copy of it carries."""
    steps = {step.id: step for step in stored_episode.steps}
    names = ("version", "created_at", "updated_at", "archived_at", "steps")
    same_head = episode.model_copy(update={name: getattr(stored_episode, name) for name in names}) == stored_episode
    return same_head and all(steps.get(step.id) == step for step in episode.steps)


def _episode_or_none(row: Row, steps: Sequence[Row], on_corrupt: OnCorrupt) -> Episode | None:
    if on_corrupt is None:
        return _decode_episode(row, steps)
    episode = report_corrupt(partial(_decode_episode, row, ()), on_corrupt)
    if episode is not None and steps:
        episode.__dict__["steps"] = readable_steps(steps, on_corrupt)
    return episode


def _decode_episode(row: Row, steps: Sequence[Row]) -> Episode:
    key, document, *state = row
    try:
        episode = with_saved_state(decode(Episode.model_validate_json, document, "episodes", key), tuple(state))
    except (TypeError, OverflowError) as error:  # a column that another program has written
        raise corrupt_error("episodes", key) from error
    # Decoding the steps takes a third of a read, and many callers need none of them.
    if steps:
        episode.__dict__["steps"] = LazyList(partial(decode_steps, steps))
    return episode
