"""The capability: what a run is given, and what is stored of it, however it is driven and however it ends."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from dataclasses import dataclass

import pydantic
import pytest
from pydantic_ai import (
    Agent,
    ApprovalRequired,
    BinaryContent,
    CallDeferred,
    DeferredToolRequests,
    DeferredToolResults,
    ModelRetry,
    RunContext,
    ToolFailed,
    ToolReturn,
    UnexpectedModelBehavior,
)
from pydantic_ai.exceptions import RunCancelled, RunTimedOut
from pydantic_ai.models.test import TestModel

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.pydantic_ai import EpisodicMemory
from memory_storage.models import Abstained, Failure, Success
from tests.raising import raises

from .models import Script, refusing

TITLE = "# Recalled from memory"
in_memory = pytest.mark.parametrize("target", ["memory"], indirect=True)


def _steps(episode: ms.Episode) -> list[tuple]:
    return [(step.tool, step.parameters, getattr(step.result, "output", None)) for step in episode.steps]


def _errors(episode: ms.Episode) -> list[str]:
    return [step.result.message for step in episode.steps]


def _only(storage: ms.MemoryStorage) -> ms.Episode:
    (episode,) = storage.episodes.query(steps=True).items
    return episode


class Order(pydantic.BaseModel):
    """What is shipped."""

    number: int


def stock(fruit: str) -> str:
    """Return how many are left."""
    return f"5 {fruit}"


def test_the_second_run_is_given_what_the_first_has_learned(storage):
    script = Script([("stock", {"fruit": "apples"})], answer="There are 5.")
    agent = Agent(script.model, name="clerk", instructions="Sell.", tools=[stock])
    memory = EpisodicMemory(storage, tags=["sales"])

    async def run() -> str:
        return (await agent.run("How many apples are left?", capabilities=[memory])).output

    assert asyncio.run(run()) == "There are 5."
    first = _only(storage)
    assert first.outcome == Success(verdict="There are 5.")
    assert first.task_description == "How many apples are left?"
    assert first.tags == ["sales"]
    assert _steps(first) == [("stock", {"fruit": "apples"}, "5 apples")]
    assert first.metadata.items() >= {"source": "pydantic-ai", "agent": "clerk"}.items()
    assert first.recalled.items == []

    asyncio.run(run())
    before, after = script.instructions[:2], script.instructions[2:]
    assert before == ["Sell."] * 2
    assert len(after) == 2
    for text in after:
        assert text.startswith("Sell.")
        assert TITLE in text
        assert "There are 5." in text
        assert "`fruit=apples` → `5 apples`" in text
    second = storage.episodes.query(steps=True).items[0]
    assert second.recalled.items == [("success", first.id)]


@in_memory
def test_a_capability_of_the_agent_works_as_one_of_the_run(storage):
    script = Script()
    agent = Agent(script.model, capabilities=[EpisodicMemory(storage)])
    for _ in range(2):
        asyncio.run(agent.run("Count"))
    assert [TITLE in text for text in script.instructions] == [False, True]
    assert storage.episodes.count() == 2


@in_memory
def test_a_step_has_times_tokens_and_the_values_of_the_call(storage):
    def ship(order: Order, notify: bool = True) -> ToolReturn:
        order.number = -1
        time.sleep(0.05)
        return ToolReturn(return_value={"shipped": notify}, content="for the model only")

    script = Script([("ship", {"order": {"number": 17}})], [("stock", {"fruit": "a"}), ("stock", {"fruit": "b"})])
    asyncio.run(Agent(script.model, tools=[ship, stock]).run("Ship", capabilities=[EpisodicMemory(storage)]))
    first, *others = _only(storage).steps
    assert first.parameters == {"order": {"number": 17}, "notify": True}
    assert first.result == ms.StepOk(output='{"shipped":true}')
    assert 50 <= first.latency_ms < 5_000
    assert first.tokens_used > 0
    assert sorted(one.parameters["fruit"] for one in others) == ["a", "b"]
    assert [one.tokens_used for one in others] == [None, None]  # one request has asked for both
    assert len({one.metadata["tool_call_id"] for one in (first, *others)}) == 3


@in_memory
def test_refused_calls_are_steps_with_their_error(storage):
    def divide(number: int) -> float:
        if number == 0:
            raise ModelRetry("not by zero")
        if number < 0:
            raise ToolFailed("no negative numbers")
        return 1 / number

    turns = [
        [("divide", {"number": 0})],
        [("divide", {"number": "x"})],
        [("multiply", {})],
        [("divide", {"number": -1})],
    ]
    script = Script(*turns, [("divide", {"number": 2})])
    agent = Agent(script.model, tools=[divide], retries=5)
    asyncio.run(agent.run("Divide", capabilities=[EpisodicMemory(storage)]))
    episode = _only(storage)
    assert [step.tool for step in episode.steps] == ["divide", "divide", "multiply", "divide", "divide"]
    retried, invalid, unknown, failed, done = episode.steps
    assert retried.result == ms.StepError(message="ModelRetry: not by zero")
    assert invalid.result.message.startswith("number: Input should be a valid integer")
    assert invalid.parameters == {"number": "x"}
    assert unknown.result.message.startswith("Unknown tool name: 'multiply'")
    assert failed.result == ms.StepError(message="ToolFailed: no negative numbers")
    assert done.result == ms.StepOk(output="0.5")
    assert episode.outcome == Success(verdict="done")


@in_memory
@pytest.mark.parametrize(("error", "result"), [(ValueError("empty"), "error"), (TimeoutError("late"), "timeout")])
def test_an_error_of_a_tool_is_a_failure_of_the_run(storage, error, result):
    def look() -> None:
        raise error

    agent = Agent(Script([("look", {})]).model, tools=[look])
    with pytest.raises(type(error)) as raised:
        asyncio.run(agent.run("Look", capabilities=[EpisodicMemory(storage)]))
    assert raised.value is error
    episode = _only(storage)
    assert [step.result.status for step in episode.steps] == [result]
    assert isinstance(episode.outcome, Failure)
    assert episode.outcome.reason == f"{type(error).__name__}: {error}"
    assert "in look" in episode.outcome.error_details


@in_memory
def test_an_error_of_the_model_and_too_many_retries_are_failures(storage):
    memory = [EpisodicMemory(storage)]
    with pytest.raises(ConnectionError):
        asyncio.run(Agent(refusing(ConnectionError("gone"))).run("Ask", capabilities=memory))
    assert _only(storage).outcome.reason == "ConnectionError: gone"

    def never() -> None:
        raise ModelRetry("again")

    agent = Agent(Script(*[[("never", {})]] * 9).model, tools=[never], retries=1)
    with pytest.raises(UnexpectedModelBehavior):
        asyncio.run(agent.run("Retry", capabilities=memory))
    episode = storage.episodes.query(steps=True).items[0]
    assert _errors(episode) == ["ModelRetry: again"] * 2
    assert "exceeded max retries" in episode.outcome.reason
    script = Script()
    asyncio.run(Agent(script.model).run("Retry", capabilities=memory))
    assert "exceeded max retries" in script.instructions[0]


@in_memory
def test_structured_output_is_the_verdict_and_no_step(storage):
    class Answer(pydantic.BaseModel):
        apples: int

    agent = Agent(TestModel(custom_output_args={"apples": 5}), output_type=Answer)
    asyncio.run(agent.run("Count", capabilities=[EpisodicMemory(storage)]))
    episode = _only(storage)
    assert episode.outcome == Success(verdict='{"apples":5}')
    assert episode.steps == []


@in_memory
def test_the_task_is_the_newest_text_of_the_user(storage):
    agent = Agent(Script().model, name="seer")
    memory = [EpisodicMemory(storage)]
    image = BinaryContent(b"png", media_type="image/png")

    async def main() -> None:
        first = await agent.run(["What is", image, "on it?"], capabilities=memory)
        await agent.run("And now?", message_history=first.all_messages(), capabilities=memory)
        await agent.run([image], capabilities=memory)
        await agent.run(message_history=first.all_messages()[:1], capabilities=memory)
        await agent.run("long " * 3_000, capabilities=memory)

    asyncio.run(main())
    tasks = [one.task_description for one in reversed(storage.episodes.query().items)]
    assert tasks[:4] == ["What is\non it?", "And now?", "A run of seer", "What is\non it?"]
    assert len(tasks[4]) == 10_000
    assert tasks[4].endswith("... (14,999 characters)")
    assert all(isinstance(one.outcome, Success) for one in storage.episodes.query().items)


@in_memory
def test_a_nested_agent_is_an_episode_below_that_of_the_outer_one(storage):
    inner = Agent(Script([("stock", {"fruit": "pears"})]).model, name="inner", tools=[stock])
    memory = EpisodicMemory(storage)

    async def delegate(question: str) -> str:
        return (await inner.run(question, capabilities=[memory])).output

    @storage.recorded
    def helper() -> str:
        return "helped"

    def use_helper() -> str:
        return helper()

    script = Script([("delegate", {"question": "Count pears"})], [("use_helper", {})])
    outer = Agent(script.model, name="outer", tools=[delegate, use_helper])
    asyncio.run(outer.run("Count fruit", capabilities=[memory]))
    episodes = {one.metadata["agent"]: one for one in storage.episodes.query(steps=True).items}
    assert episodes["inner"].metadata["parent_episode"] == str(episodes["outer"].id)
    assert _steps(episodes["inner"]) == [("stock", {"fruit": "pears"}, "5 pears")]
    assert [step.tool for step in episodes["outer"].steps] == ["delegate", "helper", "use_helper"]


@in_memory
def test_after_a_run_nothing_is_the_current_run(storage):
    agent = Agent(Script().model)

    async def main() -> None:
        with storage.record("outer") as outer:
            await agent.run("inner", capabilities=[EpisodicMemory(storage)])
            async with agent.iter("iterated", capabilities=[EpisodicMemory(storage)]) as run:
                assert ms.current_run().episode.task_description == "iterated"
                async for _ in run:
                    pass
            assert ms.current_run() is outer
        assert ms.current_run() is None

    asyncio.run(main())
    parents = [one.metadata.get("parent_episode") for one in storage.episodes.query(text="inner OR iterated").items]
    assert None not in parents


@in_memory
def test_runs_that_stream_are_recorded(storage):
    script = Script([("stock", {"fruit": "apples"})], answer="There are 5.")
    agent = Agent(script.model, tools=[stock])
    memory = [EpisodicMemory(storage)]

    async def stream() -> None:
        async with agent.run_stream("Stream", capabilities=memory) as result:
            assert "".join([part async for part in result.stream_text(delta=True)]) == "There are 5. "

    async def events() -> None:
        async with agent.run_stream_events("Events", capabilities=memory) as stream_of_events:
            assert [event async for event in stream_of_events]

    async def iterate() -> None:
        async with agent.iter("Iterate", capabilities=memory) as run:
            assert [node async for node in run]

    for drive in (stream, events, iterate):
        asyncio.run(drive())
        episode = storage.episodes.query(steps=True).items[0]
        assert episode.outcome.verdict.strip() == "There are 5."
        assert _steps(episode) == [("stock", {"fruit": "apples"}, "5 apples")]
    assert storage.episodes.count() == 3


@in_memory
def test_a_run_that_its_caller_leaves_is_abstained(storage):
    agent = Agent(Script([("stock", {"fruit": "apples"})]).model, tools=[stock])

    async def main() -> None:
        async with agent.iter("Leave", capabilities=[EpisodicMemory(storage)]) as run:
            async for _ in run:
                break

    asyncio.run(main())
    assert _only(storage).outcome == Abstained(reason="CancelledError")


@in_memory
@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("task", asyncio.CancelledError),
        ("timeout", asyncio.TimeoutError),  # the built-in one since Python 3.11
        ("group", asyncio.CancelledError),
    ],
)
def test_a_cancelled_run_is_abstained_with_its_steps(storage, how, expected):
    started = threading.Event()

    async def wait() -> None:
        started.set()
        await asyncio.sleep(60)

    agent = Agent(Script([("stock", {"fruit": "apples"})], [("wait", {})]).model, tools=[stock, wait])

    async def run() -> None:
        await agent.run("Wait", capabilities=[EpisodicMemory(storage)])

    async def main() -> None:
        if how == "timeout":
            await asyncio.wait_for(run(), 1.0)
        elif how == "group":
            import anyio

            with anyio.move_on_after(1.0):
                await run()
            raise asyncio.CancelledError
        else:
            task = asyncio.create_task(run())
            while not started.is_set():
                await asyncio.sleep(0.01)
            task.cancel()
            await task

    with pytest.raises(expected):
        asyncio.run(main())
    episode = _only(storage)
    assert [step.tool for step in episode.steps] == ["stock", "wait"]
    assert episode.steps[1].result == ms.StepError(message="CancelledError")
    assert episode.outcome == Abstained(reason="CancelledError", stopped_at_step=1)


@in_memory
def test_a_run_that_the_application_stops_is_abstained_and_one_out_of_time_failed(storage):
    async def stop(context: RunContext) -> None:
        context.cancel()
        await asyncio.sleep(60)

    async def wait() -> None:
        await asyncio.sleep(60)

    agent = Agent(Script([("stop", {})]).model, tools=[stop])
    with pytest.raises(RunCancelled):
        asyncio.run(agent.run("Stop", capabilities=[EpisodicMemory(storage)]))
    assert isinstance(storage.episodes.query().items[0].outcome, Abstained)
    late = Agent(Script([("wait", {})]).model, tools=[wait])
    with pytest.raises(RunTimedOut):
        asyncio.run(late.run("Be late", timeout=0.3, capabilities=[EpisodicMemory(storage)]))
    assert isinstance(storage.episodes.query().items[0].outcome, Failure)


@in_memory
def test_deferred_tools_pause_a_run_and_their_results_are_steps_of_the_next(storage):
    def ship(context: RunContext, order: int) -> str:
        if not context.tool_call_approved:
            raise ApprovalRequired
        return f"shipped {order}"

    def phone(number: str) -> str:
        raise CallDeferred

    script = Script([("ship", {"order": 17}), ("phone", {"number": "112"})])
    agent = Agent(script.model, tools=[ship, phone], output_type=[str, DeferredToolRequests])
    memory = [EpisodicMemory(storage)]

    async def main() -> None:
        paused = await agent.run("Ship it", capabilities=memory)
        results = DeferredToolResults()
        assert isinstance(paused.output, DeferredToolRequests)
        results.approvals[paused.output.approvals[0].tool_call_id] = True
        results.calls[paused.output.calls[0].tool_call_id] = "answered"
        await agent.run(message_history=paused.all_messages(), deferred_tool_results=results, capabilities=memory)

    asyncio.run(main())
    resumed, paused = storage.episodes.query(steps=True).items
    assert paused.outcome == Abstained(reason="paused until there are results of phone, ship")
    assert paused.steps == []
    assert resumed.task_description == "Ship it"
    assert sorted((step.tool, step.result.output) for step in resumed.steps) == [
        ("phone", "answered"),
        ("ship", "shipped 17"),
    ]
    assert resumed.outcome == Success(verdict="done")
    assert resumed.metadata["conversation"] == paused.metadata["conversation"]


def test_twenty_runs_at_once_have_twenty_episodes(storage):
    async def slow_stock(fruit: str) -> str:
        await asyncio.sleep(0.01)
        return f"5 {fruit}"

    memory = EpisodicMemory(storage)

    async def run(number: int) -> None:
        calls = [("slow_stock", {"fruit": f"{number}.{index}"}) for index in range(3)]
        await Agent(Script(calls, calls).model, tools=[slow_stock]).run(f"Task {number}", capabilities=[memory])

    async def main() -> None:
        await asyncio.gather(*map(run, range(20)))

    asyncio.run(main())
    episodes = storage.episodes.query(steps=True, limit=100).items
    assert len(episodes) == 20
    for episode in episodes:
        number = episode.task_description.removeprefix("Task ")
        assert sorted(step.parameters["fruit"] for step in episode.steps) == sorted(
            [f"{number}.{index}" for index in range(3)] * 2
        )
        assert isinstance(episode.outcome, Success)
        assert "parent_episode" not in episode.metadata


@in_memory
def test_namespaces_are_those_of_the_storage_or_of_the_run(storage):
    @dataclass
    class Deps:
        tenant: str

    script = Script()
    memory = EpisodicMemory(storage, namespace_of=lambda context: context.deps.tenant)
    agent = Agent(script.model, deps_type=Deps, capabilities=[memory])
    for tenant in ("a", "b", "a"):
        asyncio.run(agent.run("Count", deps=Deps(tenant)))
    assert [storage.in_namespace(name).episodes.count() for name in ("a", "b", "default")] == [2, 1, 0]
    assert [TITLE in text for text in script.instructions] == [False, False, True]
    bound = storage.in_namespace("c")
    asyncio.run(Agent(Script().model).run("Count", capabilities=[EpisodicMemory(bound)]))
    assert [one.episodes.count() for one in (bound, storage)] == [1, 0]


@in_memory
def test_a_namespace_that_fails_is_logged_and_breaks_no_run(storage, caplog):
    memory = EpisodicMemory(storage, namespace_of=lambda context: context.deps.tenant, tools=True)
    assert asyncio.run(Agent(Script().model).run("Count", capabilities=[memory])).output == "done"
    assert "a run has no namespace, and is not recorded: AttributeError" in caplog.text
    assert storage.episodes.count() == 0


def test_a_storage_for_asyncio_is_used_as_it_is(tmp_path):
    async def main() -> None:
        async with AsyncMemoryStorage.open(tmp_path / "memory.db") as storage:
            memory = EpisodicMemory(storage)
            await Agent(Script([("stock", {"fruit": "a"})]).model, tools=[stock]).run("Count", capabilities=[memory])
            assert await storage.episodes.count() == 1
            assert await storage.steps.count() == 1

    asyncio.run(main())


@in_memory
def test_a_broken_storage_breaks_no_run(storage, caplog):
    script = Script([("stock", {"fruit": "apples"})])
    agent = Agent(script.model, tools=[stock], capabilities=[EpisodicMemory(storage, tools=True)])
    storage.close()
    with caplog.at_level(logging.WARNING, "memory_storage.recording"):
        assert asyncio.run(agent.run("Count")).output == "done"
    assert [record.message.partition(":")[0] for record in caplog.records] == [
        "nothing is recalled for a run",
        "a run is not recorded",
    ]


@in_memory
def test_a_storage_that_breaks_during_a_run_breaks_it_not(storage, caplog):
    def close(fruit: str) -> str:
        storage.close()
        return fruit

    script = Script([("close", {"fruit": "a"})], [("search_memory", {"query": "apples"})])
    memory = EpisodicMemory(storage, tools=True)
    with caplog.at_level(logging.WARNING, "memory_storage.recording"):
        result = asyncio.run(Agent(script.model, tools=[close]).run("Count", capabilities=[memory]))
    assert [record.message.partition(" of ")[0] for record in caplog.records] == ["a step", "the end"]
    answers = [part.content for message in result.all_messages() for part in message.parts if hasattr(part, "outcome")]
    assert answers == ["a", "The memory is not available now: UnavailableError."]


@in_memory
def test_the_error_of_a_run_is_raised_when_the_storage_fails_too(storage):
    def close() -> None:
        storage.close()
        raise LookupError("of the tool")

    agent = Agent(Script([("close", {})]).model, tools=[close])
    with pytest.raises(LookupError, match="of the tool") as raised:
        asyncio.run(agent.run("Close", capabilities=[EpisodicMemory(storage)]))
    assert any("is not recorded" in note for note in getattr(raised.value, "__notes__", ["is not recorded"]))


@in_memory
def test_a_slow_storage_does_not_block_the_event_loop(storage):
    begun, released = threading.Event(), threading.Event()

    def hold() -> bool:
        with storage.transaction() as tx:
            tx.items.put((), "k", 1)
            begun.set()
            return released.wait(30)

    async def main() -> None:
        holding = asyncio.create_task(asyncio.to_thread(hold))
        await asyncio.to_thread(begun.wait)
        running = asyncio.create_task(Agent(Script().model).run("Count", capabilities=[EpisodicMemory(storage)]))
        for _ in range(20):  # what blocked the loop would keep it from the release
            await asyncio.sleep(0.01)
        assert not running.done()
        released.set()
        assert await holding
        await running

    asyncio.run(main())
    assert _only(storage).outcome == Success(verdict="done")


@in_memory
def test_texts_are_redacted(storage):
    def call(key: str) -> str:
        return f"used {key}"

    memory = EpisodicMemory(storage, redact=lambda text: text.replace("sk-1", "[key]"))
    script = Script([("call", {"key": "sk-1"})], answer="sk-1 works")
    asyncio.run(Agent(script.model, tools=[call]).run("Try sk-1", capabilities=[memory]))
    episode = _only(storage)
    assert "sk-1" not in episode.model_dump_json()
    assert (episode.task_description, episode.outcome.verdict) == ("Try [key]", "[key] works")


@in_memory
def test_the_agent_can_look_into_its_memory(storage):
    with storage.record("Count apples") as run:
        run.step("stock", output="5 apples")
        run.complete("There are 5 apples.")
    calls = [("recall_memory", {"task": "Count apples"}), ("search_memory", {"query": "apples", "k": 1})]
    script = Script(calls, [("search_memory", {"query": "nothingness"})])
    memory = EpisodicMemory(storage, budget_tokens=0, tools=True)
    result = asyncio.run(Agent(script.model).run("Sell apples", capabilities=[memory]))
    recalled, hits, nothing = [
        part.content for message in result.all_messages() for part in message.parts if part.part_kind == "tool-return"
    ]
    assert recalled.startswith(TITLE)
    assert hits.startswith("### 1. Count apples")
    assert nothing == "The memory has nothing about this."
    assert all(TITLE not in text for text in script.instructions)
    episode = storage.episodes.query(steps=True).items[0]
    assert (episode.task_description, episode.steps, episode.recalled) == ("Sell apples", [], None)


@in_memory
@pytest.mark.parametrize(
    ("arguments", "error", "facts"),
    [
        ({"storage": "memory.db"}, ms.ConfigurationError, {}),
        ({"k": 0}, ms.ValidationError, {"field": "k"}),
        ({"budget_tokens": -1}, ms.ValidationError, {"field": "budget_tokens"}),
        ({"count_tokens": 4}, ms.ValidationError, {"field": "count_tokens"}),
        ({"task_type": "napping"}, ms.ValidationError, {"field": "task_type"}),
        ({"redact": "secret"}, ms.ValidationError, {"field": "redact"}),
        ({"namespace_of": "tenant"}, ms.ValidationError, {"field": "namespace_of"}),
        ({"tools": "yes"}, ms.ValidationError, {"field": "tools"}),
        ({"tags": 7}, ms.ValidationError, {"field": "tags"}),
    ],
)
def test_bad_options_are_refused(storage, arguments, error, facts):
    with raises(error, **facts):
        EpisodicMemory(**{"storage": storage, **arguments})
