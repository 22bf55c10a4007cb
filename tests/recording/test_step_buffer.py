"""A buffer stores steps by number, bytes, time, on request and at its end; it keeps what it could not store."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from uuid import UUID

import pytest

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.models import new_id
from memory_storage.recording import StepBuffer
from memory_storage.repositories import EpisodeRepository
from memory_storage.testing import Sqld
from tests.backends import in_memory
from tests.proxy import Proxy
from tests.raising import raises


class Episodes(EpisodeRepository):
    """Counts the batches; each waits for `gate`, and then fails with `problem`, if there is one."""

    def __init__(self, storage: ms.MemoryStorage) -> None:
        super().__init__(storage.episodes._session)
        self.batches: list[int] = []
        self.gate = threading.Event()
        self.gate.set()
        self.problem: BaseException | None = None

    def append_steps(self, episode_id: UUID | str, steps: Sequence[ms.Step]) -> list[ms.Step]:
        self.batches.append(len(steps))
        assert self.gate.wait(10)
        if self.problem is not None:
            raise self.problem
        return super().append_steps(episode_id, steps)


@pytest.fixture
def key(storage: ms.MemoryStorage) -> UUID:
    return storage.episodes.save(ms.Episode(task_description="recorded")).id


def _until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def _steps(count: int) -> list[ms.Step]:
    return [ms.Step(tool="t", action=f"{number}", result=ms.StepOk(output="x" * 100)) for number in range(count)]


def _actions(storage: ms.MemoryStorage, key: UUID) -> list[str]:
    return [step.action for step in storage.steps.iterate(key)]


def test_a_flush_stores_all_steps_in_their_order(storage, key):
    with storage.buffered_steps(key) as buffer:
        for step in _steps(5):
            buffer.add(step)
        assert (buffer.pending, buffer.stored) == (5, 0)
        buffer.flush()
        assert _actions(storage, key) == list("01234")
        assert (buffer.pending, buffer.stored) == (0, 5)
        buffer.flush()
        buffer.add(ms.Step(tool="t", action="5"))
    assert _actions(storage, key) == list("012345")
    buffer.close()
    with raises(ms.UnavailableError, match="the buffer is closed; the step is not taken"):
        buffer.add(ms.Step(tool="t"))


@in_memory
@pytest.mark.parametrize("limits", [{"max_steps": 3}, {"max_bytes": 600}, {"max_seconds": 0.01}])
def test_a_thread_flushes_by_number_bytes_and_time(storage, key, limits):
    buffer = storage.buffered_steps(key, **{"max_seconds": 60, **limits})
    for step in _steps(4):
        buffer.add(step)
    _until(lambda: buffer.stored == 4 or (buffer.stored >= 3 and "max_seconds" not in limits))
    assert _actions(storage, key)[:3] == list("012")
    assert not any(one.name == "memory-storage-steps" for one in threading.enumerate()) or buffer.pending
    buffer.close()
    assert _actions(storage, key) == list("0123")
    _until(lambda: all(one.name != "memory-storage-steps" for one in threading.enumerate()))


@in_memory
def test_without_a_thread_a_full_buffer_is_flushed_first(storage, key):
    episodes = Episodes(storage)
    buffer = StepBuffer(episodes, key, max_steps=2, max_seconds=None)
    for step in _steps(5):
        buffer.add(step)
    assert (episodes.batches, buffer.pending) == ([2, 2], 1)
    buffer.close()
    assert _actions(storage, key) == list("01234")


@in_memory
def test_no_batch_has_more_bytes_than_the_limit(storage, key):
    episodes = Episodes(storage)
    episodes.gate.clear()
    buffer = StepBuffer(episodes, key, max_steps=100, max_bytes=1_200, max_seconds=60)
    for step in _steps(12):  # of about 300 bytes
        buffer.add(step)
    episodes.gate.set()
    buffer.close()
    assert sum(episodes.batches) == 12
    assert max(episodes.batches) <= 4
    assert _actions(storage, key) == [f"{number}" for number in range(12)]


@in_memory
def test_add_waits_only_when_four_times_the_limit_waits(storage, key):
    episodes = Episodes(storage)
    episodes.gate.clear()
    buffer = StepBuffer(episodes, key, max_steps=2, max_seconds=60)
    for step in _steps(8):
        buffer.add(step)  # does not wait for the statement that runs
    assert buffer.pending == 8
    waits = threading.Thread(target=buffer.add, args=(ms.Step(tool="t", action="8"),))
    waits.start()
    waits.join(0.1)
    assert waits.is_alive()
    episodes.gate.set()
    waits.join(10)
    buffer.close()
    assert _actions(storage, key) == [f"{number}" for number in range(9)]


@in_memory
def test_an_error_of_the_thread_meets_the_next_add_and_nothing_is_lost(storage, key, caplog):
    episodes = Episodes(storage)
    episodes.problem = ms.UnavailableError("away", code="TEST")
    buffer = StepBuffer(episodes, key, max_steps=2, max_seconds=60)
    steps = _steps(4)
    for step in steps[:2]:
        buffer.add(step)
    _until(lambda: "2 steps of episode" in caplog.text)
    with raises(ms.UnavailableError, code="TEST"):
        buffer.add(steps[2])
    assert buffer.pending == 2  # it was not taken
    buffer.add(steps[2])  # the error was raised once
    with raises(ms.UnavailableError, code="TEST"):
        buffer.flush()
    with raises(ms.UnavailableError, code="TEST"):
        buffer.close()
    episodes.problem = None
    buffer.add(steps[3])
    buffer.close()
    assert _actions(storage, key) == list("0123")


@in_memory
def test_the_thread_tries_again_by_itself(storage, key):
    episodes = Episodes(storage)
    episodes.problem = ms.UnavailableError("away", code="TEST")
    buffer = StepBuffer(episodes, key, max_seconds=0.01)
    buffer.add(ms.Step(tool="t", action="0"))
    _until(lambda: len(episodes.batches) == 1)
    episodes.problem = None
    _until(lambda: buffer.stored == 1)  # after a second
    assert _actions(storage, key) == ["0"]


@in_memory
def test_steps_of_a_missing_episode_can_be_taken_out(storage):
    buffer = storage.buffered_steps(new_id(), max_seconds=None)
    steps = _steps(2)
    for step in steps:
        buffer.add(step)
    with raises(ms.NotFoundError, kind="episode"):
        buffer.close()
    assert buffer.discard() == steps
    assert buffer.pending == 0
    buffer.close()


@in_memory
def test_a_step_is_checked_and_copied_when_it_is_added(storage, key):
    buffer = storage.buffered_steps(key, max_seconds=None)
    parameters = {"list": [1]}
    step = ms.Step(tool="t").model_copy(update={"parameters": parameters})
    buffer.add(step)
    buffer.add(step)
    parameters["list"].append(2)
    with raises(ms.ConflictError, kind="step", id=step.id):
        buffer.add(step)
    for wrong, field in (
        ("a text", "step"),
        (ms.Step(tool="t", step_number=1), "step_number"),
        (ms.Step(tool="t", result=ms.StepOk(output="x" * 1_000_001)), "result"),
    ):
        with raises(ms.ValidationError, field=field):
            buffer.add(wrong)
    buffer.close()
    assert [one.parameters for one in storage.steps.iterate(key)] == [{"list": [1]}]
    buffer = storage.buffered_steps(key, max_seconds=None)
    buffer.add(step.model_copy(update={"parameters": {"list": [1]}}))
    buffer.close()  # it is stored already
    assert storage.steps.count() == 1


@in_memory
@pytest.mark.parametrize(
    ("field", "value"),
    [("max_steps", 0), ("max_bytes", 1.5), ("max_seconds", 0), ("max_seconds", float("inf")), ("episode_id", "x")],
)
def test_wrong_arguments_are_refused(storage, key, field, value):
    arguments = {"episode_id": key, field: value}
    with raises(ms.ValidationError, field=field):
        storage.buffered_steps(**arguments)


@in_memory
def test_an_exception_of_the_block_stays_and_its_steps_are_stored(storage, key):
    with raises(ValueError, match="mine"), storage.buffered_steps(key) as buffer:
        buffer.add(ms.Step(tool="t", action="0"))
        raise ValueError("mine")
    assert _actions(storage, key) == ["0"]
    with raises(ValueError, match="mine") as caught, storage.buffered_steps(new_id()) as buffer:
        buffer.add(ms.Step(tool="t"))
        raise ValueError("mine")
    assert "1 step of episode" in "".join(getattr(caught.value, "__notes__", ["1 step of episode"]))
    assert len(buffer.discard()) == 1


@in_memory
def test_an_interrupted_flush_keeps_the_steps_and_lets_others_flush(storage, key):
    episodes = Episodes(storage)
    buffer = StepBuffer(episodes, key, max_seconds=None)
    buffer.add(ms.Step(tool="t", action="0"))
    episodes.problem = KeyboardInterrupt()
    with raises(KeyboardInterrupt):
        buffer.flush()
    episodes.problem = None
    other = threading.Thread(target=buffer.flush)
    other.start()
    other.join(10)
    assert _actions(storage, key) == ["0"]


@in_memory
def test_a_handler_that_records_what_a_flush_logs_does_not_wait_for_itself(storage, key):
    episodes = Episodes(storage)
    buffer = StepBuffer(episodes, key, max_steps=1, max_seconds=None)
    log = logging.getLogger("test_step_buffer")

    class Records(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            buffer.add(ms.Step(tool="log", action=record.getMessage()))
            with raises(ms.UnavailableError, match="flushing the buffer already"):
                buffer.flush()

    real = episodes.append_steps

    def append_steps(episode_id: UUID, steps: Sequence[ms.Step]) -> list[ms.Step]:
        if len(steps) == 1 and steps[0].action == "0":
            log.warning("logged")
        return real(episode_id, steps)

    episodes.append_steps = append_steps
    handler = Records()
    log.addHandler(handler)
    try:
        buffer.add(ms.Step(tool="t", action="0"))
        buffer.close()
    finally:
        log.removeHandler(handler)
    assert _actions(storage, key) == ["0", "logged"]


def test_threads_that_add_lose_and_double_nothing(storage, key):
    with storage.buffered_steps(key, max_steps=10, max_seconds=0.01) as buffer:

        def add(thread: int) -> None:
            for number in range(50):
                buffer.add(ms.Step(tool="t", action=f"{thread} {number}"))
                if number % 20 == thread:
                    buffer.flush()

        threads = [threading.Thread(target=add, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = _actions(storage, key)
    for thread in range(4):
        assert [one for one in found if one.startswith(f"{thread} ")] == [f"{thread} {number}" for number in range(50)]
    assert len(found) == 200


def test_closing_the_storage_flushes_its_buffers(tmp_path: Path):
    path = tmp_path / "memory.db"
    with ms.MemoryStorage.open(path) as storage:
        other = storage.in_namespace("other")
        keys = [one.episodes.save(ms.Episode(task_description="t")).id for one in (storage, other)]
        for view, key in zip((storage, other), keys, strict=True):
            view.buffered_steps(key, max_seconds=60).add(ms.Step(tool="t", action="0"))
        other.close()  # a view
        assert storage.steps.count() == 0
    with ms.MemoryStorage.open(path) as storage:
        assert [_actions(storage, keys[0]), _actions(storage.in_namespace("other"), keys[1])] == [["0"], ["0"]]


@in_memory
def test_a_buffered_run_stores_its_steps_before_its_outcome(storage):
    with storage.record("a task", buffered=True) as run:
        step = run.step("pytest", "run", output="1 passed")
        assert step.step_number is None
        with run.timed_step("sleep"):
            pass
        assert storage.steps.count(run.id) == 0
        run.flush()
        assert storage.steps.count(run.id) == 2
        run.step("last")
    stored = storage.episodes.get(run.id)
    assert [step.tool for step in stored.steps] == ["pytest", "sleep", "last"]
    assert stored.outcome == ms.Success(verdict="")
    assert run.episode.steps == stored.steps
    with raises(SystemExit), storage.record("a task", buffered=True) as run:
        run.step("one")
        raise SystemExit(3)
    assert storage.episodes.get(run.id).outcome.stopped_at_step == 0
    with storage.record("a task", buffered=True) as run:
        run.complete("early")
        run.step("after the outcome")
    assert storage.steps.count(run.id) == 1
    with storage.record("not buffered") as run:
        run.flush()


@pytest.mark.slow
def test_ten_thousand_steps_take_at_most_twenty_round_trips(sqld: Sqld, migrated_server_url: str):
    with Proxy(sqld.port, latency=0.02) as proxy:
        url = migrated_server_url.replace(f":{sqld.port}/", f":{proxy.port}/")
        with ms.MemoryStorage.open(url) as storage:
            key = storage.episodes.save(ms.Episode(task_description="long")).id
            proxy.reset_counts()
            with storage.buffered_steps(key) as buffer:
                for step in _steps(10_000):
                    buffer.add(step)
            round_trips = proxy.round_trips
            print(f"{round_trips} round trips")
            assert round_trips <= 20
            assert _actions(storage, key) == [f"{number}" for number in range(10_000)]


@pytest.mark.slow
def test_a_flush_without_an_answer_is_repeated_and_doubles_nothing(sqld: Sqld, migrated_server_url: str):
    with Proxy(sqld.port) as proxy:
        url = migrated_server_url.replace(f":{sqld.port}/", f":{proxy.port}/")
        with ms.MemoryStorage.open(url) as storage:
            key = storage.episodes.save(ms.Episode(task_description="cut")).id
            buffer = storage.buffered_steps(key, max_seconds=None)
            for step in _steps(100):
                buffer.add(step)
            proxy.cut_reply_after(0, times=1)
            buffer.flush()
            assert proxy.cuts == 1
            assert _actions(storage, key) == [f"{number}" for number in range(100)]
            buffer.add(ms.Step(tool="t", action="100"))
            proxy.refuse()
            proxy.cut_all()
            with raises(ms.UnavailableError, code="CONNECTION_FAILED"):
                buffer.flush()
            proxy.accept()
            buffer.close()
            assert _actions(storage, key)[100:] == ["100"]


def test_the_buffer_for_asyncio_is_awaited(tmp_path: Path):
    async def record() -> list[str]:
        async with AsyncMemoryStorage.open(tmp_path / "memory.db") as storage:
            episode = await storage.episodes.save(ms.Episode(task_description="t"))
            async with storage.buffered_steps(episode.id, max_seconds=60) as buffer:
                await asyncio.gather(*(buffer.add(step) for step in _steps(20)))
                assert (buffer.pending, buffer.max_seconds) == (20, 60)
                await buffer.flush()
                assert (buffer.pending, buffer.stored) == (0, 20)
                await buffer.add(ms.Step(tool="t", action="last"))
            return [step.action async for step in storage.steps.iterate(episode.id)]

    actions = asyncio.run(record())
    assert sorted(actions[:20], key=int) == [f"{number}" for number in range(20)]
    assert actions[20:] == ["last"]
