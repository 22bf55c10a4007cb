"""Summaries travel with their episodes, and merge as one field."""

from __future__ import annotations

from collections.abc import Callable

import memory_storage as ms

from .conftest import Open
from .test_sync import synced

MakeEpisode = Callable[..., ms.Episode]


def _both(replica: Open, make_episode: MakeEpisode) -> tuple[ms.MemoryStorage, ms.MemoryStorage, ms.Episode]:
    """Two replicas that have the same episode, without a summary."""
    a, b = replica("ann"), replica("ben")
    episode = a.episodes.save(make_episode(1, task_description="Fix the login. It fails."))
    synced(a, b)
    return a, b, episode


def test_a_summary_arrives_and_is_found(replica: Open, make_episode: MakeEpisode) -> None:
    a, b, episode = _both(replica, make_episode)
    summary = a.summaries.put(episode.id, "The clockwork was frozen.", key_steps=["1"], key_concepts=["時計"])
    synced(a, b)
    assert b.summaries.get(episode.id) == summary
    assert b.episodes.count(text="clockwork") == b.episodes.count(text="時計") == 1
    assert b.summaries.delete(episode.id)
    synced(b, a)
    assert a.summaries.find(episode.id) is None
    assert a.episodes.count(text="clockwork") == a.episodes.count(text="時計") == 0


def test_a_summary_merges_with_another_change(replica: Open, make_episode: MakeEpisode) -> None:
    a, b, episode = _both(replica, make_episode)
    summary = a.summaries.put(episode.id, "The clockwork was frozen.")
    b.episodes.save(b.episodes.get(episode.id).model_copy(update={"tags": ["by-ben"]}))
    synced(a, b, a)
    assert (a.conflicts.count(), b.conflicts.count()) == (0, 0)
    for storage in (a, b):
        merged = storage.episodes.get(episode.id)
        assert (merged.summary, merged.tags) == (summary, ["by-ben"])
        assert storage.episodes.count(text="clockwork") == 1


def test_the_same_summary_at_two_times_is_no_conflict(replica: Open, make_episode: MakeEpisode) -> None:
    a, b, episode = _both(replica, make_episode)
    one, other = (storage.summaries.summarize(episode.id) for storage in (a, b))
    assert one != other
    synced(a, b, a)
    assert (a.conflicts.count(), b.conflicts.count()) == (0, 0)
    assert a.summaries.get(episode.id) == b.summaries.get(episode.id) == one


def test_two_summaries_are_a_conflict_and_none_is_lost(replica: Open, make_episode: MakeEpisode) -> None:
    a, b, episode = _both(replica, make_episode)
    theirs, mine = a.summaries.put(episode.id, "Ann's"), b.summaries.put(episode.id, "Ben's")
    synced(a, b)
    (conflict,) = b.conflicts.iterate()
    assert conflict.difference() == {"summary": (None, mine.model_dump(mode="json"), theirs.model_dump(mode="json"))}
    assert b.summaries.get(episode.id) == theirs
    b.conflicts.take_mine(conflict.id)
    synced(b, a)
    assert a.summaries.get(episode.id) == mine
