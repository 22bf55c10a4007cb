"""Rows that are larger than a server's limits for one value or one response."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.models import new_id
from memory_storage.testing import Sqld

MB = 1_000_000


@pytest.fixture
def remote(server: Sqld) -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(server.url) as storage:
        yield storage


def _step(size: int, letter: str = "x") -> ms.Step:
    return ms.Step(tool="t", result=ms.StepOk(output=letter * size))


@pytest.mark.slow
def test_an_episode_larger_than_one_value_can_be_saved(remote):
    episode = ms.Episode(task_description="large", steps=[_step(900_000, letter) for letter in "abcdefghijklm"])
    saved = remote.episodes.save(episode)
    assert saved == remote.episodes.get(episode.id)
    assert [step.result.output[0] for step in saved.steps] == list("abcdefghijklm")
    changed = remote.episodes.save(saved.model_copy(update={"tags": ["changed"], "steps": [*saved.steps, _step(1)]}))
    assert remote.episodes.get(episode.id) == changed
    ended = remote.episodes.complete(episode.id, ms.Success(verdict="v"))
    assert ended == remote.episodes.get(episode.id)
    assert (ended.version, len(ended.steps)) == (3, 14)


@pytest.mark.slow
def test_many_large_episodes_are_saved_all_or_none(remote):
    episodes = [ms.Episode(task_description=str(n), steps=[_step(700_000)] * 1) for n in range(12)]
    saved = remote.episodes.save_many(episodes)
    assert remote.episodes.get(episodes[-1].id) == saved[-1]
    new = ms.Episode(task_description="new", steps=[_step(800_000)])
    with pytest.raises(ms.ConflictError):
        remote.episodes.save_many([new, *(one.model_copy(update={"version": 7}) for one in saved)])
    assert remote.episodes.find(new.id) is None
    imported = [ms.Episode(task_description=str(n), steps=[_step(900_000)]) for n in range(6)]
    assert remote.episodes.import_many(imported) == 6
    patterns = [ms.Heuristic(condition="é" * MB, action=str(n)) for n in range(5)]
    assert remote.patterns.save_many(patterns)[4] == remote.patterns.get(patterns[4].id)


def test_a_value_too_large_for_a_server_names_field_and_size(remote):
    episode = remote.episodes.save(ms.Episode(task_description="small", steps=[_step(1)]))
    wide = ms.Step(tool="é" * 2_500_000)
    for field, write in (
        ("document", lambda: remote.episodes.save(episode.model_copy(update={"metadata": {"a": "x" * 5 * MB}}))),
        ("steps.1", lambda: remote.episodes.save(ms.Episode(task_description="", steps=[_step(1), wide]))),
        ("episodes.1", lambda: remote.episodes.save_many([episode, _with_metadata(5 * MB)])),
        ("document", lambda: remote.episodes.append_step(episode.id, wide)),
        ("document", lambda: remote.episodes.complete(episode.id, ms.Failure(reason="x" * 5 * MB))),
        ("document", lambda: remote.patterns.save(ms.Heuristic(condition="x" * 5 * MB, action="a"))),
    ):
        with pytest.raises(ms.ValidationError, match="4,900,000 bytes") as caught:
            write()
        assert caught.value.field == field
        assert caught.value.value >= 5 * MB
    assert list(remote.episodes.iterate()) == [episode]


@pytest.mark.slow
def test_what_grows_beyond_what_a_server_takes_is_refused(remote):
    episode = remote.episodes.save(_with_metadata(3 * MB))
    source = remote.episodes.save(ms.Episode(task_description="source"))
    one, some, many = remote.patterns.save_many(
        [
            ms.Heuristic(condition="x" * size, action="a", evidence=_ids(count, source.id))
            for size, count in ((4_870_000, 0), (1, 1_600), (1, 30_000))
        ]
    )
    for size, write in (
        (1_950_000, lambda: remote.episodes.complete(episode.id, ms.Failure(reason="x" * 1_950_000))),
        (3 * MB, lambda: remote.episodes.complete(episode.id, ms.Failure(reason="x" * 3 * MB))),
        (1_900_000, lambda: remote.patterns.merge(one.id, some.id)),
        (3 * MB, lambda: remote.patterns.merge(one.id, many.id)),
    ):
        with pytest.raises(ms.ValidationError, match="4,900,000 bytes") as caught:
            write()
        assert caught.value.field == "document"
        assert caught.value.value >= 3 * MB + size
    assert remote.episodes.get(episode.id) == episode
    assert [remote.patterns.get(kept.id) for kept in (one, some, many)] == [one, some, many]


def _ids(count: int, *more: UUID) -> list[UUID]:
    return [*(new_id() for _ in range(count)), *more]


def _with_metadata(size: int) -> ms.Episode:
    return ms.Episode(task_description="large", metadata={"a": "x" * size})
