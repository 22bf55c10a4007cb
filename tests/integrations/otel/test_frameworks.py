"""What two frameworks with instrumentations of their own did is what the episodes say."""

from __future__ import annotations

import asyncio
import time
from importlib import import_module
from types import ModuleType

import pytest

import memory_storage as ms


@pytest.fixture(scope="module")
def agents() -> ModuleType:
    """Imported when it is used: the frameworks take seconds."""
    return import_module("tests.integrations.otel.agents")


def lookup(order: int) -> str:
    """Look up an order."""
    time.sleep(0.02)
    return f"order {order}"


def refund(order: int) -> str:
    """Refund an order."""
    from .agents import ModelRetry

    raise ModelRetry("closed: ask again")


def crash(order: int) -> str:
    """Fail."""
    raise ValueError(f"no order {order}")


def _done(episode: ms.Episode) -> list[tuple[str, object, object]]:
    return [(step.tool, step.parameters, step.result) for step in episode.steps]


TURNS = [[("lookup", {"order": 17}), ("lookup", {"order": 18})], [("refund", {"order": 17})], "Refunded."]
STEPS = [
    ("lookup", {"order": 17}, ms.StepOk(output="order 17")),
    ("lookup", {"order": 18}, ms.StepOk(output="order 18")),
    ("refund", {"order": 17}, ms.StepError(message="ToolRetryError: closed: ask again")),
]


def test_pydantic_ai_succeeds(agents, provider, recorded):
    agent = agents.pydantic_agent(TURNS, [lookup, refund], provider)
    result = asyncio.run(agent.run("Refund order 17"))
    (episode,) = recorded()
    assert episode.task_description == "Refund order 17"
    assert episode.outcome == ms.Success(verdict="Refunded.")
    assert sorted(_done(episode), key=str) == sorted(STEPS, key=str)  # the first two run at the same time
    assert all(step.latency_ms >= 20 for step in episode.steps if step.tool == "lookup")
    usage = result.usage
    assert episode.metadata["tokens"] == {"input": usage.input_tokens, "output": usage.output_tokens}
    assert episode.metadata["agent"] == "refunds"
    assert episode.metadata["models"] == ["function:model:"]
    assert episode.metadata["instrumentation"] == "pydantic-ai"
    # The two calls of one response share its tokens: whose they are is not known.
    known = [step.tool for step in episode.steps if step.tokens_used is not None]
    assert known == ["refund"]
    assert episode.started_at <= episode.steps[0].started_at <= episode.completed_at


def test_pydantic_ai_fails(agents, provider, recorded):
    agent = agents.pydantic_agent([[("crash", {"order": 1})]], [crash], provider)
    with pytest.raises(ValueError, match="no order 1"):
        asyncio.run(agent.run("Refund order 1"))
    (episode,) = recorded()
    assert _done(episode) == [("crash", {"order": 1}, ms.StepError(message="ValueError: no order 1"))]
    assert episode.outcome.reason == "ValueError: no order 1"
    assert "in crash" in episode.outcome.error_details


def test_pydantic_ai_delegates_to_an_agent(agents, provider, recorded):
    inner = agents.pydantic_agent([[("lookup", {"order": 3})], "It is new."], [lookup], provider, name="clerk")

    async def delegate(question: str) -> str:
        """Ask another agent."""
        return (await inner.run(question)).output

    outer = agents.pydantic_agent([[("delegate", {"question": "What is order 3?"})], "New."], [delegate], provider)
    asyncio.run(outer.run("Tell me of order 3"))
    (episode,) = recorded()
    assert episode.task_description == "Tell me of order 3"
    assert _done(episode) == [
        ("delegate", {"question": "What is order 3?"}, ms.StepOk(output="It is new.")),
        ("lookup", {"order": 3}, ms.StepOk(output="order 3")),
    ]
    assert [step.metadata.get("agent") for step in episode.steps] == [None, "clerk"]
    assert episode.outcome == ms.Success(verdict="New.")


def test_pydantic_ai_without_content(agents, provider, recorded):
    agent = agents.pydantic_agent(TURNS, [lookup, refund], provider, include_content=False)
    asyncio.run(agent.run("Refund order 17"))
    (episode,) = recorded()
    assert episode.task_description == "refunds"
    assert sorted(step.tool for step in episode.steps) == ["lookup", "lookup", "refund"]
    assert {step.result.status for step in episode.steps} == {"ok", "error"}
    assert "order 17" not in episode.model_dump_json()


def test_smolagents_runs_twice(agents, provider, recorded):
    turns = [[("lookup", {"order": 17})], [("crash", {"order": 1})], [("final_answer", {"answer": "Refunded."})]]
    instrumentor = agents.SmolagentsInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        for _ in range(2):
            agents.smolagents_agent(turns, [lookup, crash]).run("Refund order 17")
    finally:
        instrumentor.uninstrument()
    first, second = recorded()
    assert first.id != second.id
    for episode in (first, second):
        assert episode.task_description == "Refund order 17"
        assert episode.outcome == ms.Success(verdict="Refunded.")
        assert _done(episode) == [
            ("lookup", {"order": 17}, ms.StepOk(output="order 17")),
            ("crash", {"order": 1}, ms.StepError(message="ValueError: no order 1")),
            ("final_answer", {"answer": "Refunded."}, ms.StepOk(output="Refunded.")),
        ]
        assert episode.steps[0].latency_ms >= 20
        assert episode.metadata["tokens"] == {"input": 30, "output": 15}
        assert episode.metadata["instrumentation"] == "openinference.instrumentation.smolagents"
