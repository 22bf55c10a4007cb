"""Transaction blocks are atomic, in one thread or in many."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy

import memory_storage as ms
from memory_storage.models import new_id
from tests.checks import assert_consistent, dump, row_counts
from tests.encrypted import encrypted_template, target  # noqa: F401 - fixtures
from tests.raising import raises

VECTOR = [0.5] * 384


def _do_one_of_everything(memory, episode: ms.Episode) -> None:
    saved = memory.episodes.save(episode)
    memory.episodes.append_step(saved.id, ms.Step(tool="t"))
    memory.episodes.complete(saved.id, ms.Success(verdict="v"), reward=1.0)
    pattern = memory.patterns.save(ms.Heuristic(condition="c", action="a"))
    memory.patterns.record_retrieval(pattern.id)
    memory.embeddings.put("episode", saved.id, VECTOR, model="m")
    memory.spatiotemporal.put(
        ms.SpatiotemporalEntry(owner_type="episode", owner_id=saved.id, latitude=1.0, longitude=1.0)
    )


@pytest.mark.whole_database
def test_a_clean_exit_keeps_all_of_its_writes(storage, make_episode):
    with storage.transaction() as tx:
        _do_one_of_everything(tx, make_episode())
        assert tx.episodes.count(outcome="success") == 1
    assert storage.analytics.summary().rows == {
        "episodes": 1,
        "steps": 3,
        "patterns": 1,
        "embeddings": 1,
        "places": 1,
        "items": 0,
        "records": 0,
        "relationships": 0,
        "checkpoints": 0,
    }
    assert_consistent(storage.engine)


@pytest.mark.whole_database
@pytest.mark.parametrize("error", [RuntimeError("mine"), KeyboardInterrupt(), SystemExit(1), ms.NotFoundError("x", 1)])
def test_an_error_in_the_block_rolls_back_and_propagates(storage, make_episode, error):
    storage.episodes.save(make_episode())
    before = dump(storage.engine)

    def work() -> None:
        with storage.transaction() as tx:
            _do_one_of_everything(tx, make_episode())
            raise error

    with pytest.raises(type(error)) as caught:
        work()
    assert caught.value is error
    assert dump(storage.engine) == before
    assert_consistent(storage.engine)


@pytest.mark.whole_database
def test_a_caught_conflict_undoes_only_the_failed_call(storage, make_episode):
    episode = storage.episodes.save(storage.episodes.save(make_episode()))
    stale = episode.model_copy(update={"version": 1, "task_description": "lost"})
    absent, kept, late = make_episode(), make_episode(), make_episode()
    with storage.transaction() as tx:
        tx.episodes.save(kept)
        with pytest.raises(ms.ConflictError):
            tx.episodes.save_many([absent, stale])
        with pytest.raises(ms.ConflictError):
            tx.episodes.save(absent.model_copy(update={"steps": [*absent.steps, *_taken(episode)]}))
        with raises(ms.NotFoundError, kind="episode"):
            tx.embeddings.put_many([("episode", kept.id, VECTOR), ("episode", new_id(), VECTOR)], model="m")
        with raises(ms.ValidationError, field="tags.0"):
            tx.episodes.save(absent.model_copy(update={"tags": ["x" * 101]}))
        assert tx.episodes.find(absent.id) is None
        tx.episodes.save(late)
    assert {one.id for one in storage.episodes.iterate()} == {episode.id, kept.id, late.id}
    assert storage.episodes.get(episode.id) == episode
    assert row_counts(storage.engine)["steps"] == 6
    assert storage.embeddings.count() == 0
    assert_consistent(storage.engine)


def _taken(episode: ms.Episode) -> list[ms.Step]:
    return [episode.steps[0].model_copy(update={"step_number": 3})]


def test_a_transaction_is_refused_outside_its_block(storage, make_episode):
    tx = storage.transaction()
    with raises(ms.MemoryStorageError, match="not open"):
        tx.episodes.count()
    with tx:
        tx.episodes.save(make_episode())
    for call in (tx.episodes.count, lambda: tx.episodes.save(make_episode()), tx.analytics.summary):
        with raises(ms.MemoryStorageError, match="not open"):
            call()
    assert storage.episodes.count() == 1


def test_running_work_commits_it_and_gives_back_its_result(storage, make_episode):
    episode = make_episode()
    assert storage.run(lambda tx: tx.episodes.save(episode)) == storage.episodes.get(episode.id)


def test_failed_work_is_rolled_back_and_not_repeated(storage, make_episode):
    calls = []

    def work(tx: ms.Transaction) -> None:
        calls.append(tx.episodes.save(make_episode()))
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        storage.run(work)
    assert len(calls) == 1
    assert storage.episodes.count() == 0


def test_a_view_does_not_see_what_others_write(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        storage.episodes.save(make_episode())
        with storage.snapshot() as view:
            assert view.episodes.count() == 1
            storage.episodes.save(make_episode())
            assert (view.episodes.count(), len(list(view.episodes.iterate()))) == (1, 1)
        assert storage.episodes.count() == 2


def test_work_outside_an_open_block_sees_the_old_state_on_a_file(database, make_episode):
    with ms.MemoryStorage.open(database) as storage:
        episode = storage.episodes.save(make_episode())
        with storage.transaction() as tx:
            tx.episodes.delete(episode.id)
            tx.episodes.save(make_episode())
            assert storage.episodes.get(episode.id) == episode
            assert storage.episodes.count() == 1
        assert storage.episodes.find(episode.id) is None


def test_work_outside_an_open_block_raises_at_once_in_memory(make_episode):
    with ms.MemoryStorage.open(":memory:") as storage:
        with storage.transaction() as tx:
            tx.episodes.save(make_episode())
            started = time.monotonic()
            for call in (storage.episodes.count, lambda: storage.episodes.save(make_episode())):
                with pytest.raises(ms.UnavailableError, match=r"this thread .* transaction"):
                    call()
            assert time.monotonic() - started < 20  # one that waits does so for the 30 s of `connect_timeout`
        assert storage.episodes.count() == 1


def test_another_threads_write_waits_for_the_block(storage, make_episode):
    entered, done = threading.Event(), []

    def write() -> None:
        entered.wait(10)
        storage.episodes.save(make_episode())
        done.append(time.monotonic())

    thread = threading.Thread(target=write)
    thread.start()
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        entered.set()
        time.sleep(0.1)
        ended = time.monotonic()
    thread.join(30)
    assert done
    assert done[0] >= ended
    assert storage.episodes.count() == 2


def _save_in_vain(storage: ms.MemoryStorage, episode: ms.Episode) -> None:
    with storage.transaction() as tx:
        tx.episodes.save(episode)
        raise RuntimeError


@pytest.mark.whole_database
@pytest.mark.slow
def test_sixteen_threads_share_a_storage_and_nothing_is_lost(storage, make_episode):
    shared = storage.episodes.save(make_episode(steps=0))
    pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
    rounds, workers = 6, 16

    def work(worker: int) -> int:
        memory = storage.in_namespace(f"worker {worker}")
        for number in range(rounds):
            storage.episodes.append_step(shared.id, ms.Step(tool=f"tool {worker}", action=str(number)))
            storage.patterns.record_retrieval(pattern.id)
            own = memory.episodes.save(make_episode())
            with storage.transaction() as tx:
                tx.patterns.record_application(pattern.id, success=number % 2 == 0)
                tx.episodes.save(make_episode(steps=1, tags=[f"worker {worker}"]))
            storage.run(lambda tx: tx.patterns.record_retrieval(pattern.id))
            with pytest.raises(RuntimeError):
                _save_in_vain(storage, make_episode())
            memory.episodes.complete(own.id, ms.Success(verdict="v"))
            assert memory.episodes.count(outcome="success") == number + 1
            if number % 3 == 0:
                assert memory.episodes.delete(memory.episodes.save(make_episode()).id)
        return memory.steps.count()

    with ThreadPoolExecutor(workers) as threads:
        assert list(threads.map(work, range(workers))) == [2 * rounds] * workers
    steps = list(storage.steps.iterate(shared.id))
    assert [step.step_number for step in steps] == list(range(1, workers * rounds + 1))
    for worker in range(workers):
        own_steps = [step.action for step in steps if step.tool == f"tool {worker}"]
        assert own_steps == [str(number) for number in range(rounds)]
        assert storage.episodes.count(tags_any=[f"worker {worker}"]) == rounds
    effect = storage.patterns.get(pattern.id).effectiveness
    assert (effect.times_retrieved, effect.times_applied) == (2 * workers * rounds, workers * rounds)
    assert storage.episodes.count() == 1 + workers * rounds
    assert_consistent(storage.engine)


def test_of_sixteen_threads_that_save_one_version_one_wins(storage, make_episode):
    episode = storage.episodes.save(make_episode())

    def save(worker: int) -> int | ms.ConflictError:
        try:
            return storage.episodes.save(episode.model_copy(update={"task_description": str(worker)})).version
        except ms.ConflictError as error:
            return error

    with ThreadPoolExecutor(16) as threads:
        results = list(threads.map(save, range(16)))
    winners = [worker for worker, result in enumerate(results) if result == 2]
    assert len(winners) == 1
    assert all((e.expected, e.actual) == (1, 2) for e in results if isinstance(e, ms.ConflictError))
    assert storage.episodes.get(episode.id).task_description == str(winners[0])


@pytest.mark.slow
def test_threads_can_save_the_same_new_items_at_once(storage, make_episode):
    for _ in range(4):
        episodes = [make_episode(steps=1) for _ in range(6)]
        patterns = [ms.Heuristic(condition="c", action="a") for _ in range(6)]

        def save(worker: int, episodes=episodes, patterns=patterns) -> None:
            rng = random.Random(worker)
            for size in (2, 4, 6):
                storage.episodes.save_many(rng.sample(episodes, size))
                storage.patterns.save_many(rng.sample(patterns, size))

        with ThreadPoolExecutor(16) as threads:
            list(threads.map(save, range(16)))
    assert (storage.episodes.count(), storage.patterns.count()) == (24, 24)
    assert {episode.version for episode in storage.episodes.iterate()} == {1}


def test_a_snapshot_refuses_to_write(storage, make_episode):
    with storage.snapshot() as view, raises(ms.MemoryStorageError, match="read-only"):
        view.episodes.save(make_episode())
    assert storage.episodes.count() == 0


def test_a_transaction_cannot_be_entered_twice(storage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        with raises(ms.MemoryStorageError, match="already open"):
            tx.__enter__()
    assert storage.episodes.count() == 1


def test_a_write_outside_the_own_transaction_is_refused(storage, make_episode):
    with storage.transaction() as tx:
        with pytest.raises(ms.UnavailableError, match="nested write"):
            storage.episodes.save(make_episode())
        tx.episodes.save(make_episode())
    storage.episodes.save(make_episode())
    assert storage.episodes.count() == 2


def test_a_closed_storage_is_closed_in_all_its_namespaces(storage, make_episode):
    view = storage.in_namespace("other")
    storage.close()
    for closed in (storage, view):
        with pytest.raises(ms.UnavailableError, match="is closed"):
            closed.episodes.save(make_episode())
        with pytest.raises(ms.UnavailableError, match="is closed"), closed.transaction():
            pass


def test_closing_a_view_closes_nothing(storage, make_episode):
    with storage.in_namespace("other") as view:
        view.episodes.save(make_episode())
    assert storage.episodes.count() == 0
    assert storage.in_namespace("other").episodes.count() == 1


def test_a_nested_transaction_of_a_thread_is_refused(storage, make_episode):
    with storage.transaction() as tx:
        tx.episodes.save(make_episode())
        with pytest.raises(ms.UnavailableError, match="nested write"):
            storage.run(lambda inner: inner.episodes.count())
        with pytest.raises(ms.UnavailableError, match="nested write"):
            storage.episodes.save(make_episode())
    assert storage.episodes.count() == 1


def test_a_transaction_ended_by_another_thread_frees_this_one(storage, make_episode):
    tx = storage.transaction()
    tx.__enter__()
    ending = threading.Thread(target=lambda: tx.__exit__(None, None, None))
    ending.start()
    ending.join()
    assert storage.episodes.save(make_episode()).version == 1


def test_an_import_leaves_rows_of_a_concurrent_writer(storage, make_episode):
    episode = make_episode()
    session = storage.episodes._session
    write = session.write

    def after_another(steps, **options):
        session.write = write
        storage.in_namespace(storage.namespace).episodes.import_many([episode])
        return write(steps, **options)

    session.write = after_another
    assert storage.episodes.import_many([episode]) == 0
    assert storage.episodes.count() == 1


def test_an_engine_of_another_dialect_is_refused():
    with pytest.raises(ms.ConfigurationError, match="libsql"):
        ms.MemoryStorage(sqlalchemy.create_engine("sqlite://"), ms.Settings(database=":memory:"))


def test_an_engine_with_its_own_begin_mode_loses_no_write(database, make_episode):
    ms.MemoryStorage.open(database).close()
    engine = sqlalchemy.create_engine(f"libsql:///{database}", execution_options={"libsql_begin": "IMMEDIATE"})
    sqlalchemy.event.listen(engine, "before_cursor_execute", lambda *_: None)
    ms.MemoryStorage(engine, ms.Settings(database=str(database))).episodes.save(make_episode())
    engine.dispose()
    with ms.MemoryStorage.open(database) as storage:
        assert storage.episodes.count() == 1


@pytest.fixture(params=["own engine", "engine of the caller"])
def on_one_connection(request, database):
    ms.MemoryStorage.open(database).close()
    if request.param == "own engine":
        settings = ms.Settings(database=str(database), pool=ms.PoolSettings(max_connections=1))
        with ms.MemoryStorage.open(settings) as storage:
            yield storage
        return
    engine = sqlalchemy.create_engine(f"libsql:///{database}", pool_size=1, max_overflow=0)
    yield ms.MemoryStorage(engine, ms.Settings(database=str(database)))
    engine.dispose()


@pytest.mark.parametrize("ending", ["commit", "rollback", "abandoned", "snapshot"])
def test_a_connection_is_returned_with_its_defaults(on_one_connection, make_episode, ending):
    storage = on_one_connection
    tx = storage.snapshot() if ending == "snapshot" else storage.transaction()
    tx.__enter__()
    tx.episodes.count()
    error = RuntimeError("mine") if ending == "rollback" else None
    if ending != "abandoned":
        tx.__exit__(error and RuntimeError, error, None)
    del tx
    storage.episodes.save(make_episode())  # a mode that stays would leave it uncommitted
    with storage.engine.connect() as connection:
        driver = connection.connection.dbapi_connection
        assert (driver.begin_mode, driver.keep_alive) == ("", False)
    assert storage.episodes.count() == 1
