"""`storage.recorded`: a call is a step of the current run, or an episode, and the function does what it did before."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import memory_storage as ms
from memory_storage.recording import current_run
from tests.backends import in_memory
from tests.raising import raises


def _episodes(storage: ms.MemoryStorage) -> list[ms.Episode]:
    return storage.episodes.query(direction="oldest_first").items


def test_a_call_within_a_run_is_a_step(storage: ms.MemoryStorage):
    @storage.recorded
    def lookup(order: int, *others: int, currency: str = "EUR", **more: str) -> dict[str, int]:
        return {"total": order}

    class Shop:
        @storage.recorded(tool="cancel")
        def cancel(self, order: int) -> None:
            raise LookupError(f"no order {order}")

    with storage.record("a task") as run:
        assert lookup(17, 18, note="x") == {"total": 17}
        with raises(LookupError, match="no order 1"):
            Shop().cancel(1)
        with pytest.raises(TypeError):
            lookup()
    steps = storage.episodes.get(run.id).steps
    assert [step.tool for step in steps] == ["lookup", "cancel", "lookup"]
    assert steps[0].parameters == {"order": 17, "others": [18], "currency": "EUR", "more": {"note": "x"}}
    assert steps[0].result == ms.StepOk(output='{"total":17}')
    assert (steps[1].parameters, steps[1].result) == ({"order": 1}, ms.StepError(message="LookupError: no order 1"))
    assert steps[2].result.message.startswith("TypeError: ")
    assert storage.episodes.count() == 1


def test_a_call_outside_of_a_run_is_an_episode(storage: ms.MemoryStorage):
    @storage.recorded
    def tool(name: str) -> str:
        return name.upper()

    @storage.recorded(task_type="testing", tags=["nightly"])
    def agent(name: str) -> str:
        """Greet a user.

        At length.
        """
        return f"hello {tool(name)}"

    assert agent("ada") == "hello ADA"
    assert current_run() is None
    (episode,) = _episodes(storage)
    assert (episode.task_description, episode.task_type, episode.tags) == ("Greet a user.", "testing", ["nightly"])
    assert (episode.outcome, episode.metadata) == (ms.Success(verdict="hello ADA"), {"parameters": {"name": "ada"}})
    assert [(step.tool, step.result) for step in episode.steps] == [("tool", ms.StepOk(output="ADA"))]

    @storage.recorded(task="Divide")
    def divide(x: int) -> float:
        return x / 0

    with pytest.raises(ZeroDivisionError):
        divide(1)
    failed = _episodes(storage)[1]
    assert (failed.task_description, failed.outcome.reason) == ("Divide", "ZeroDivisionError: division by zero")
    assert "in divide" in failed.outcome.error_details


def test_coroutines_record_concurrently_and_never_in_the_loop(storage: ms.MemoryStorage, monkeypatch):
    threads = set()
    append = storage.episodes.append_step
    monkeypatch.setattr(
        storage.episodes, "append_step", lambda *args: (threads.add(threading.get_ident()), append(*args))[1]
    )

    @storage.recorded
    async def tool(number: int) -> int:
        await asyncio.sleep(0)
        return number

    @storage.recorded
    async def agent(number: int) -> int:
        return sum(await asyncio.gather(*(tool(number) for _ in range(3))))

    async def both() -> list[int]:
        return await asyncio.gather(agent(1), agent(2))

    assert asyncio.run(both()) == [3, 6]
    episodes = {episode.outcome.verdict: episode for episode in _episodes(storage)}
    assert {verdict: [step.parameters for step in one.steps] for verdict, one in episodes.items()} == {
        "3": [{"number": 1}] * 3,
        "6": [{"number": 2}] * 3,
    }
    assert threading.get_ident() not in threads


@pytest.mark.parametrize("seconds", [0.0, 0.001, 0.2])
def test_a_cancelled_coroutine_has_abstained(storage: ms.MemoryStorage, seconds: float):
    @storage.recorded
    async def agent() -> None:
        await asyncio.sleep(60)

    async def cancelled() -> None:
        task = asyncio.create_task(agent())
        await asyncio.sleep(seconds)  # while the episode is saved, or afterwards
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())
    assert [episode.outcome.kind for episode in _episodes(storage)] == ["abstained"]


@in_memory
def test_only_what_is_allowed_is_stored(storage: ms.MemoryStorage):
    @storage.recorded(parameters=False, output=False)
    def nothing(secret: str) -> str:
        return secret

    @storage.recorded(parameters=["user"])
    def some(user: str, password: str) -> None: ...

    @storage.recorded(redact=lambda text: text.replace("canary", "***"))
    def redacted(text: str) -> str:
        return text

    with storage.record("a task") as run:
        nothing("canary")
        some("ada", password="canary")
        redacted("canary!")
    steps = storage.episodes.get(run.id).steps
    assert [step.parameters for step in steps] == [{}, {"user": "ada"}, {"text": "***!"}]
    assert [step.result.output for step in steps] == ["", "", "***!"]


@in_memory
def test_arguments_are_stored_as_they_were_given(storage: ms.MemoryStorage):
    @storage.recorded
    def consume(items: list[int]) -> None:
        items.clear()

    with storage.record("a task") as run:
        consume([1, 2])
    assert storage.episodes.get(run.id).steps[0].parameters == {"items": [1, 2]}


@in_memory
def test_a_thread_with_a_copy_of_the_context_is_in_the_run(storage: ms.MemoryStorage):
    @storage.recorded
    def tool() -> None: ...

    with storage.record("a task") as run, ThreadPoolExecutor(1) as pool:
        pool.submit(contextvars.copy_context().run, tool).result()
        pool.submit(tool).result()
    assert len(storage.episodes.get(run.id).steps) == 1
    assert [one.task_description for one in _episodes(storage)] == ["a task", "tool"]


@in_memory
def test_a_storage_that_fails_changes_no_call(storage: ms.MemoryStorage, caplog):
    @storage.recorded
    def agent(fails: bool) -> str:
        if fails:
            raise ValueError("mine")
        return "done"

    @storage.recorded
    def closes() -> str:
        storage.close()
        return "closed"

    assert closes() == "closed"
    assert agent(False) == "done"
    with raises(ValueError, match="mine"):
        agent(True)
    with raises(ValueError, match="mine"):
        asyncio.run(_in_coroutine(storage))
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 4
    assert current_run() is None


@in_memory
def test_a_log_shows_a_name_of_any_characters(storage: ms.MemoryStorage, caplog):
    @storage.recorded(tool="a\nname\ud800" + "x" * 1_000)
    def tool() -> None:
        pass

    with storage.record("a task"):
        tool()
    (record,) = caplog.records
    message = record.getMessage()
    assert message.startswith("the result of a name\ufffdxxx")
    assert message.isprintable()
    assert len(message) < 300


async def _in_coroutine(storage: ms.MemoryStorage) -> None:
    @storage.recorded
    async def agent() -> None:
        raise ValueError("mine")

    await agent()


@in_memory
def test_what_cannot_be_recorded_is_refused(storage: ms.MemoryStorage):
    def generator():
        yield 1

    async def async_generator():
        yield 1

    for function in (generator, async_generator, int, "text", staticmethod(len), classmethod(len)):
        with raises(ms.ValidationError, field="function"):
            storage.recorded(function)
    with raises(ms.ValidationError, field="task_type"):
        storage.recorded(task_type="cooking")
    with raises(ms.ValidationError, field="output"):
        storage.recorded(output="no")
