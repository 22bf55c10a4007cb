"""The metrics of a storage: names and exact counts on every backend."""

from __future__ import annotations

import inspect
import math
import os
import random
import threading

import pytest

import memory_storage as ms
from memory_storage import repositories
from memory_storage.models import new_id
from memory_storage.monitoring import Histogram, current
from memory_storage.repositories import EpisodeRepository
from memory_storage.sql.session import Repository
from tests.raising import raises
from tests.resilience.work import at_once


def test_each_operation_has_its_name_calls_rows_and_round_trips(storage: ms.MemoryStorage, make_episode):
    saved = storage.episodes.save(make_episode())
    for _ in range(3):
        storage.episodes.get(saved.id)
    storage.steps.latest(saved.id)
    storage.analytics.summary()
    storage.embeddings.index.status()
    found = storage.metrics()
    get = found["episodes.get"]
    assert (get.count, get.errors, get.round_trips, get.statements, get.retries) == (3, {}, 3, 3, 0)
    assert get.rows >= 3
    assert {"episodes.save", "steps.latest", "analytics.summary", "vector_index.status"} <= set(found)
    assert found["episodes.save"].round_trips == 1
    assert found["episodes.save"].statements >= 3


def test_what_a_method_calls_of_others_is_a_part_of_it(storage: ms.MemoryStorage, make_episode):
    storage.episodes.save(make_episode())
    assert set(storage.metrics()) <= {"episodes.save", "vector_index.drop_unused", "vector_index.repair_missing"}
    assert current.operation is None


def test_errors_are_counted_by_class_and_as_calls(storage: ms.MemoryStorage):
    for _ in range(2):
        with raises(ms.NotFoundError, kind="episode"):
            storage.episodes.get(new_id())
    with pytest.raises(TypeError):
        storage.episodes.get()  # type: ignore[call-arg]
    found = storage.metrics()["episodes.get"]
    assert (found.count, found.errors) == (3, {"NotFoundError": 2, "TypeError": 1})
    assert current.operation is None


def test_iterate_is_one_operation_timed_by_its_waits(storage: ms.MemoryStorage, make_episode):
    storage.episodes.save_many([make_episode(0) for _ in range(150)])
    pause = threading.Event()
    for number, _ in enumerate(storage.episodes.iterate()):
        if number == 3:
            assert storage.episodes.count() == 150  # which is one by itself
            pause.wait(0.5)
    found = storage.metrics()["episodes.iterate"]
    assert (found.count, found.round_trips) == (1, 2)
    assert found.latency.total < 0.5 + 0.5 * found.latency.total
    assert storage.metrics()["episodes.count"].count == 1


def test_to_stop_iterating_ends_it(storage: ms.MemoryStorage, make_episode):
    storage.episodes.save_many([make_episode(0) for _ in range(3)])
    items = storage.episodes.iterate()
    next(items)
    items.close()
    assert storage.metrics()["episodes.iterate"].count == 1
    with raises(ms.ValidationError, field="domain"):
        next(storage.episodes.iterate(domain=3))
    assert storage.metrics()["episodes.iterate"].errors == {"ValidationError": 1}


def test_a_transaction_counts_its_own_operations_and_itself(storage: ms.MemoryStorage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        tx.execute([("SELECT count(*) FROM episodes", ()), ("SELECT 1", ())])
    with storage.snapshot() as view:
        view.episodes.count()
    found = storage.metrics()
    assert {name: one.count for name, one in found.items() if not name.startswith("vector_index")} == {
        "episodes.count": 1,
        "episodes.save": 1,
        "snapshot": 1,
        "transaction": 1,
        "transaction.execute": 1,
    }
    assert (found["transaction.execute"].statements, found["transaction.execute"].round_trips) == (2, 1)
    assert (found["transaction"].round_trips, found["snapshot"].round_trips) == (1, 1)


def test_all_namespaces_are_counted_together(storage: ms.MemoryStorage):
    storage.episodes.count()
    storage.in_namespace("other").episodes.count()
    storage.acting_as("alice").in_namespace("third").episodes.count()
    assert storage.metrics()["episodes.count"].count == 3
    assert storage.in_namespace("other").metrics() == storage.metrics()


def test_no_call_of_many_threads_is_missed(database):
    with ms.MemoryStorage.open(database) as storage:
        at_once(16, lambda: [storage.episodes.count() for _ in range(100)])
        found = storage.metrics()["episodes.count"]
    assert (found.count, found.round_trips, found.rows) == (1600, 1600, 1600)
    assert found.latency.buckets[-1][1] == 1600


def test_a_child_process_waits_for_no_thread_of_its_parent(database):
    with ms.MemoryStorage.open(database) as storage:
        with storage.meter._lock, storage.engine.pool._counting:
            child = os.fork()
            if child == 0:
                storage.episodes.count()
                os._exit(0 if storage.metrics()["episodes.count"].count == 1 and storage.pool_stats() else 1)
        assert os.waitpid(child, 0)[1] == 0


REPOSITORIES = {
    name: kind for name, kind in vars(repositories).items() if inspect.isclass(kind) and issubclass(kind, Repository)
}


@pytest.mark.parametrize("name", sorted(REPOSITORIES))
def test_public_methods_are_operations(name: str):
    inherited = {key: value for kind in reversed(REPOSITORIES[name].__mro__) for key, value in vars(kind).items()}
    public = {key: value for key, value in inherited.items() if inspect.isfunction(value) and not key.startswith("_")}
    assert public
    assert [method for method, function in public.items() if not hasattr(function, "is_operation")] == []


def test_repositories_are_of_their_own_class(storage: ms.MemoryStorage):
    assert type(storage.episodes) is EpisodeRepository
    with storage.snapshot() as view:
        assert type(view.episodes) is EpisodeRepository


def test_only_calls_in_the_same_session_are_a_part(storage: ms.MemoryStorage, make_episode):
    storage.episodes.save(make_episode())
    other = storage.in_namespace("other")

    def save_elsewhere(episode: ms.Episode) -> str:
        other.episodes.save(make_episode())
        assert storage.episodes.count() == 1
        return episode.task_description

    assert storage.embeddings.embed(ms.HashingEmbedder(), text_of=save_elsewhere) == 1
    counts = {name: one.count for name, one in storage.metrics().items()}
    assert (counts["episodes.save"], counts["embeddings.embed"]) == (2, 1)
    assert "episodes.count" not in counts


def test_a_write_of_a_callback_of_iterate_is_audited(database, make_episode, caplog):
    caplog.set_level("INFO", "memory_storage.audit")
    with ms.MemoryStorage.open(ms.Settings(database=str(database), logging={"audit": True})) as storage:
        storage.episodes.save(make_episode())
        with storage.transaction() as tx:
            tx.execute([("UPDATE episodes SET document = '{}'", ())])
        caplog.clear()
        list(storage.episodes.iterate(on_corrupt=lambda _: storage.episodes.save(make_episode())))
    assert [record.operation for record in caplog.records if record.name == "memory_storage.audit"] == [
        "episodes.iterate"
    ]


@pytest.mark.parametrize("count", [1, 2, 10, 1000])
def test_percentiles_are_within_five_percent(count: int):
    chance = random.Random(7)
    seconds = sorted(10 ** chance.uniform(-6, 2) for _ in range(count))
    histogram = Histogram()
    for one in seconds:
        histogram.add(one)
    found = histogram.latency()
    for part, given in ((0.5, found.p50), (0.95, found.p95), (0.99, found.p99)):
        assert given == pytest.approx(seconds[math.ceil(part * count) - 1], rel=0.05)
    assert found.longest == seconds[-1]
    assert found.mean == pytest.approx(sum(seconds) / count)
    assert found.total == pytest.approx(sum(seconds))
    for bound, at_most in found.buckets:
        assert at_most == sum(one < bound for one in seconds)


def test_no_call_and_no_time_are_zero():
    assert Histogram().latency() == ms.models.Latency()
    histogram = Histogram()
    histogram.add(0.0)
    assert histogram.latency().p99 == 0
    assert histogram.latency().buckets[0][0] < 1e-8
