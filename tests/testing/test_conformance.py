"""The conformance suite passes for a storage on every backend, and fails for one that breaks a guarantee."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.testing.conformance import Conformance
from memory_storage.testing.conformance import _own_namespace as own_namespace
from tests.checks import dump, index_all
from tests.raising import raises


class TestMemoryStorage(Conformance):
    """`storage` is on each backend."""


class TestAnEncryptedFile(Conformance):
    @pytest.fixture
    def storage(self, database: Path) -> Any:
        with ms.MemoryStorage.open(ms.Settings(database=str(database), encryption_key="k")) as opened:
            yield opened


@pytest.fixture(scope="module")
def crowded_storage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ms.MemoryStorage]:
    """One storage for several tests, with rows in namespaces that a test might use; they are the same at the end."""
    with ms.MemoryStorage.open(tmp_path_factory.mktemp("crowded") / "memory.db") as opened:
        for name in ("default", "other", "default2", "conformance"):
            view = opened.in_namespace(name)
            episode = view.episodes.save(ms.Episode(task_description="conformance", tags=["one", "two"]))
            view.embeddings.put("episode", episode.id, [1.0, 0.0, 0.0], model="conformance")
            view.patterns.save(ms.Heuristic(condition="c", action="a"))
        index_all(opened.engine)
        before = dump(opened.engine)
        yield opened
        assert dump(opened.engine) == before


class TestASharedDatabase(Conformance):
    @pytest.fixture
    def storage(self, crowded_storage: ms.MemoryStorage) -> Any:
        return crowded_storage


@pytest.mark.whole_database
def test_a_failing_test_leaves_no_row_behind(storage):
    def fail() -> None:
        with own_namespace(storage) as (_, view):
            view.episodes.archive(view.episodes.save(ms.Episode(task_description="t")).id)
            view.patterns.save(ms.Heuristic(condition="c", action="a"))
            raise ZeroDivisionError

    before = dump(storage.engine)
    with pytest.raises(ZeroDivisionError):
        fail()
    assert dump(storage.engine) == before


class _Broken:
    """A storage that is as it should be but for some methods."""

    def __init__(self, storage: Any, replaced: dict[str, Callable[..., Any]]) -> None:
        self._storage, self._replaced = storage, replaced

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._storage, name)
        below = {key.partition(".")[2]: call for key, call in self._replaced.items() if key.startswith(f"{name}.")}
        return _Methods(found, below) if below else self._replaced.get(name, found)


class _Methods:
    def __init__(self, repository: Any, replaced: dict[str, Callable[..., Any]]) -> None:
        self._repository, self._replaced = repository, replaced

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._repository, name)
        if name not in self._replaced:
            return found
        return lambda *args, **options: self._replaced[name](found, *args, **options)


def _cut(save: Any, episode: ms.Episode) -> ms.Episode:
    at = episode.started_at - timedelta(microseconds=episode.started_at.microsecond)
    return save(episode.model_copy(update={"started_at": at}))


def _last_wins(save: Any, episode: ms.Episode) -> ms.Episode:
    try:
        return save(episode)
    except ms.ConflictError as error:
        return save(episode.model_copy(update={"version": error.actual}))


def _swallow(save_many: Any, episodes: Any) -> list[Any]:
    found = []
    for episode in episodes:
        found += save_many([episode])
    return found


BROKEN: dict[str, tuple[dict[str, Callable[..., Any]], str]] = {
    "microseconds are cut": ({"episodes.save": _cut}, "test_what_is_saved_is_read_back_equal_by_every_method"),
    "a missing one is made up": (
        {"episodes.find": lambda find, *args, **options: ms.Episode(task_description="made up")},
        "test_a_missing_one_is_none_or_an_error_that_names_it",
    ),
    "the last one wins": ({"episodes.save": _last_wins}, "test_a_stale_version_is_a_conflict_and_changes_nothing"),
    "steps come backwards": (
        {"steps.range": lambda find, *args: find(*args)[::-1]},
        "test_appended_steps_are_numbered_in_their_order",
    ),
    "the archive is forgotten": (
        {"episodes.archive": lambda archive, key: ms.Episode(task_description="t", id=key)},
        "test_what_is_archived_is_left_out_until_it_is_restored",
    ),
    "filters are ignored": ({"episodes.query": lambda query, **_: query()}, "test_filters_hold_together"),
    "cursors are ignored": (
        {"episodes.query": lambda query, cursor=None, **rest: ms.Page(query(**rest).items)},
        "test_pages_show_each_one_once",
    ),
    "many are saved one by one": ({"episodes.save_many": _swallow}, "test_many_are_saved_all_or_none"),
    "counts are lost": (
        {"patterns.record_retrieval": lambda record, *args: None},
        "test_counters_of_a_pattern_are_counted_by_the_store",
    ),
    "the farthest come first": (
        {"episodes.similar_to": lambda find, *args, **options: find(*args, **options)[::-1]},
        "test_the_nearest_vectors_come_first",
    ),
    "nothing is deleted": (
        {"episodes.delete": lambda delete, key: True},
        "test_what_is_owned_goes_with_its_owner",
    ),
    "anything is an id": (
        {"episodes.get": lambda get, key, **options: None},
        "test_bad_input_is_refused_and_nothing_is_stored",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_storage_that_breaks_a_promise_fails(name):
    replaced, test = BROKEN[name]
    with ms.MemoryStorage.open(":memory:") as storage, raises(AssertionError):
        getattr(Conformance(), test)(_Broken(storage, replaced))


def test_namespaces_that_are_one_fail():
    with ms.MemoryStorage.open(":memory:") as storage:
        broken = _Broken(storage, {"in_namespace": lambda name: storage})
        with pytest.raises(AssertionError):
            Conformance().test_a_namespace_sees_nothing_of_another(broken)


def test_every_conformance_test_has_a_docstring():
    tests = [found for name, found in inspect.getmembers(Conformance, inspect.isfunction) if name.startswith("test_")]
    assert len(tests) >= 15
    assert all(test.__doc__ for test in tests)
