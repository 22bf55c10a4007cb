"""How the spans of each convention, and of older versions, become an episode."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import Status, StatusCode, Tracer, set_span_in_context

import memory_storage as ms
from memory_storage.integrations.otel import EpisodeRecorder

AGENT = {"gen_ai.operation.name": "invoke_agent", "gen_ai.agent.name": "clerk"}
SECOND = 10**9

Recorded = Callable[[], list[ms.Episode]]


def _tool(name: str, **attributes: object) -> dict[str, object]:
    return {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": name, **attributes}


def _text(role: str, text: str) -> dict[str, object]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _call(name: str, call_id: str, **arguments: object) -> dict[str, object]:
    return {"type": "tool_call", "id": call_id, "name": name, "arguments": arguments}


def _chat(inputs: list[object], outputs: list[object], *, tokens: tuple[int, int] = (0, 0)) -> dict[str, object]:
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "m-1",
        "gen_ai.input.messages": json.dumps(inputs),
        "gen_ai.output.messages": json.dumps(outputs),
        "gen_ai.usage.input_tokens": tokens[0],
        "gen_ai.usage.output_tokens": tokens[1],
    }


@pytest.fixture
def tracer(provider: TracerProvider) -> Tracer:
    return provider.get_tracer("test-instrumentation")


def test_times_and_ids_are_those_of_the_spans(tracer: Tracer, recorded: Recorded):
    at = 1_700_000_000 * SECOND
    agent = tracer.start_span("invoke_agent clerk", attributes=AGENT, start_time=at)
    for number in (2, 1):  # they end in another order than they begin
        attributes = _tool("read", **{"gen_ai.tool.call.arguments": json.dumps({"page": number})})
        start = at + number * SECOND
        child = tracer.start_span("x", set_span_in_context(agent), attributes=attributes, start_time=start)
        child.end(start + 250_000_000)
    agent.end(at + 4 * SECOND)
    (episode,) = recorded()
    assert [step.parameters["page"] for step in episode.steps] == [1, 2]
    assert [step.latency_ms for step in episode.steps] == [250, 250]
    assert episode.steps[0].started_at - episode.started_at == timedelta(seconds=1)
    assert episode.completed_at - episode.started_at == timedelta(seconds=4)
    context = agent.get_span_context()
    assert episode.metadata["trace_id"] == f"{context.trace_id:032x}"
    assert episode.metadata["span_id"] == f"{context.span_id:016x}"
    assert {episode.id.version, *(step.id.version for step in episode.steps)} == {5}


TASKS = {
    "messages": ({"gen_ai.input.messages": json.dumps([_text("user", "old"), _text("user", "Refund"), {}])}, "Refund"),
    "a tool result has the role of a user": (
        {"gen_ai.input.messages": json.dumps([_text("user", "Refund"), {"role": "user", "parts": [{"type": "x"}]}])},
        "Refund",
    ),
    "a text": ({"input.value": "Refund"}, "Refund"),
    "an object": ({"input.value": json.dumps({"max": 3, "task": "Refund"})}, "Refund"),
    "an object with messages": ({"input.value": json.dumps({"messages": [["user", "Refund"]]})}, "Refund"),
    "LangChain's messages": (
        {"input.value": json.dumps({"messages": [{"lc": 1, "kwargs": {"type": "human", "content": "Refund"}}]})},
        "Refund",
    ),
    "an object of something else": ({"input.value": '{"order": 17}'}, '{"order": 17}'),
    "broken JSON": ({"gen_ai.input.messages": "[{", "input.value": '{"a'}, '{"a'),
    "nothing": ({}, "clerk"),
}


@pytest.mark.parametrize(("attributes", "task"), TASKS.values(), ids=TASKS)
def test_the_task_of_an_agent(tracer: Tracer, recorded: Recorded, attributes: dict[str, str], task: str):
    tracer.start_span("invoke_agent clerk", attributes={**AGENT, **attributes}).end()
    assert [episode.task_description for episode in recorded()] == [task]


def test_the_task_of_the_first_model_call(tracer: Tracer, recorded: Recorded):
    with tracer.start_as_current_span("a", attributes=AGENT):
        with tracer.start_as_current_span("b", attributes={"gen_ai.operation.name": "chat"}) as span:
            span.add_event("gen_ai.user.message", {"content": "Refund"})
            span.add_event("gen_ai.choice", {"message": '{"content": "x"}', "content": "Done"})
        tracer.start_span("c", attributes=_chat([_text("user", "Fix the arguments")], [])).end()
    (episode,) = recorded()
    assert episode.task_description == "Refund"


def test_errors_timeouts_and_interruptions(tracer: Tracer, recorded: Recorded):
    with tracer.start_as_current_span("a", attributes=AGENT) as agent:
        for attributes, description in (
            ({"error.type": "timeout"}, "10 s"),
            ({"error.type": "builtins.LookupError"}, "no order"),
            ({}, None),
        ):
            span = tracer.start_span("x", attributes=_tool("read", **attributes))
            span.set_status(Status(StatusCode.ERROR, description))
            span.end()
        agent.set_status(Status(StatusCode.ERROR, "asyncio.CancelledError"))
        agent.set_attribute("error.type", "asyncio.exceptions.CancelledError")
    (episode,) = recorded()
    assert [step.result for step in episode.steps] == [
        ms.StepTimeout(),
        ms.StepError(message="LookupError: no order"),
        ms.StepError(message="the span has the status ERROR"),
    ]
    assert episode.steps[0].metadata["error"] == "timeout: 10 s"
    assert episode.outcome.kind == "abstained"


def test_calls_that_only_messages_show_are_steps(tracer: Tracer, recorded: Recorded):
    responses = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "c1", "response": {"total": 9}}]}
    calls = {"role": "assistant", "parts": [_call("search", "c1", word="x"), _call("deferred", "c2")]}
    with tracer.start_as_current_span("a", attributes=AGENT):
        tracer.start_span("b", attributes=_chat([_text("user", "Find x")], [calls], tokens=(10, 5))).end()
        inputs = [_text("user", "Find x"), calls, responses]
        tracer.start_span("b", attributes=_chat(inputs, [_text("assistant", "9")], tokens=(20, 7))).end()
    (episode,) = recorded()
    search, deferred = episode.steps
    assert (search.tool, search.parameters, search.result) == ("search", {"word": "x"}, ms.StepOk(output='{"total":9}'))
    assert (deferred.tool, deferred.result) == ("deferred", None)
    assert episode.outcome == ms.Success(verdict="9")
    assert episode.metadata["tokens"] == {"input": 30, "output": 12}
    assert episode.metadata["models"] == ["m-1"]


def test_tokens_belong_to_the_one_tool_of_a_model_call(tracer: Tracer, recorded: Recorded):
    with tracer.start_as_current_span("a", attributes=AGENT):
        one = {"role": "assistant", "parts": [_call("one", "c1")]}
        tracer.start_span("b", attributes=_chat([], [one], tokens=(10, 5))).end()
        tracer.start_span("c", attributes=_tool("one", **{"gen_ai.tool.call.id": "c1"})).end()
        # Without content, by the time: two tools between two calls share the tokens of the first.
        tracer.start_span("b", attributes=_chat([], [], tokens=(20, 5))).end()
        tracer.start_span("c", attributes=_tool("two")).end()
        tracer.start_span("b", attributes=_chat([], [], tokens=(30, 5))).end()
        for _ in range(2):
            tracer.start_span("c", attributes=_tool("three")).end()
    (episode,) = recorded()
    used = [(step.tool, step.tokens_used) for step in episode.steps]
    assert used == [("one", 15), ("two", 25), ("three", None), ("three", None)]


@pytest.mark.parametrize("has_id", [True, False])
def test_an_mcp_call_is_one_step(tracer: Tracer, recorded: Recorded, has_id: bool):
    same = {"gen_ai.tool.call.id": "c1"} if has_id else {}
    read, mcp = _tool("read", **same), {**same, "mcp.method.name": "tools/call"}
    with tracer.start_as_current_span("a", attributes=AGENT), tracer.start_as_current_span("b", attributes=read):
        tracer.start_span("tools/call read", attributes=_tool("read", **mcp)).end()
        tracer.start_span("another", attributes=_tool("open")).end()
    (episode,) = recorded()
    assert [step.tool for step in episode.steps] == ["read", "open"]


def test_evaluations_are_the_reward(tracer: Tracer, recorded: Recorded):
    with tracer.start_as_current_span("request"), tracer.start_as_current_span("a", attributes=AGENT) as agent:
        agent.add_event(
            "gen_ai.evaluation.result",
            {"gen_ai.evaluation.name": "polite", "gen_ai.evaluation.score.value": 0.5},
        )
        with tracer.start_as_current_span("judge") as judge:
            judge.add_event(
                "gen_ai.evaluation.result",
                {
                    "gen_ai.evaluation.name": "right",
                    "gen_ai.evaluation.score.value": 1.0,
                    "gen_ai.evaluation.score.label": "pass",
                },
            )
    (episode,) = recorded()
    assert episode.reward.total == 0.75
    assert episode.metadata["evaluations"] == [
        {"name": "polite", "score": 0.5},
        {"name": "right", "score": 1.0, "label": "pass"},
    ]


def test_openinference_attributes(tracer: Tracer, recorded: Recorded):
    agent = {"openinference.span.kind": "AGENT", "agent.name": "clerk", "session.id": "s-1", "output.value": "Done"}
    model = {
        "openinference.span.kind": "LLM",
        "llm.model_name": "m-2",
        "llm.token_count.prompt": 11,
        "llm.token_count.completion": 4,
        "llm.input_messages.0.message.role": "system",
        "llm.input_messages.0.message.content": "Be kind",
        "llm.input_messages.1.message.role": "user",
        "llm.input_messages.1.message.contents.0.message_content.text": "Refund",
        "llm.input_messages.2.message.role": "tool",
        "llm.input_messages.2.message.tool_call_id": "c1",
        "llm.input_messages.2.message.content": "refunded",
        "llm.output_messages.0.message.role": "assistant",
        "llm.output_messages.0.message.tool_calls.0.tool_call.id": "c1",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "refund",
        "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"order": 17}',
    }
    with tracer.start_as_current_span("clerk.run", attributes=agent):
        tracer.start_span("llm", attributes=model).end()
    (episode,) = recorded()
    assert (episode.task_description, episode.outcome) == ("Refund", ms.Success(verdict="Done"))
    assert [(step.tool, step.parameters, step.result) for step in episode.steps] == [
        ("refund", {"order": 17}, ms.StepOk(output="refunded"))
    ]
    assert episode.metadata["conversation"] == "s-1"
    assert episode.metadata["models"] == ["m-2"]
    assert episode.metadata["tokens"] == {"input": 11, "output": 4}


def test_a_chain_that_uses_a_tool_is_an_agent_if_there_is_none(tracer: Tracer, recorded: Recorded):
    """As LangGraph's agents are, in OpenInference's instrumentation of LangChain."""
    chain = {"openinference.span.kind": "CHAIN", "input.value": '{"messages": [["user", "Refund"]]}'}
    model = {"openinference.span.kind": "LLM", "llm.output_messages.0.message.content": "Done"}
    with tracer.start_as_current_span("refunds", attributes={**chain, "output.value": '{"state": "x"}'}):
        with tracer.start_as_current_span("tools", attributes=chain):
            tracer.start_span("refund", attributes={"openinference.span.kind": "TOOL"}).end()
        tracer.start_span("model", attributes=model).end()
    with tracer.start_as_current_span("no tool", attributes=chain):
        tracer.start_span("model", attributes=model).end()
    (episode,) = recorded()
    assert (episode.task_description, episode.outcome) == ("Refund", ms.Success(verdict="Done"))
    assert [step.tool for step in episode.steps] == ["refund"]


def test_what_is_too_large_is_named(tracer: Tracer, recorded: Recorded):
    agent = {**AGENT, "input.value": "x" * 20_000}
    with tracer.start_as_current_span("a", attributes=agent):
        tracer.start_span("b", attributes=_tool("read", **{"gen_ai.tool.call.result": "y" * 2_000_000})).end()
        tracer.start_span("b", attributes=_tool("nul\0", **{"gen_ai.tool.call.arguments": '"a\0b"'})).end()
    (episode,) = recorded()
    assert len(episode.task_description) == 10_000
    assert episode.task_description.endswith("x... (20,000 characters)")
    assert episode.steps[0].metadata["not_stored"] == {"output": 2_000_002}
    assert (episode.steps[1].tool, episode.steps[1].parameters) == ("nul\ufffd", {"input": '"a\ufffdb"'})


def test_without_content_nothing_of_it_is_stored(storage: ms.MemoryStorage):
    recorder = EpisodeRecorder(storage, capture_content=False)
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(recorder)
    tracer = provider.get_tracer("t")
    with pytest.raises(ValueError, match="canary"):  # noqa: SIM117, PT012
        with tracer.start_as_current_span("a", attributes={**AGENT, "input.value": "canary"}):
            tracer.start_span("b", attributes=_chat([_text("user", "canary")], [_text("assistant", "canary")])).end()
            with tracer.start_as_current_span(
                "c", attributes=_tool("read", **{"gen_ai.tool.call.arguments": "canary"})
            ):
                raise ValueError("canary")
    assert recorder.force_flush()
    provider.shutdown()
    (episode,) = storage.episodes.query().items
    assert "canary" not in episode.model_dump_json()
    assert (episode.task_description, episode.outcome.reason) == ("clerk", "ValueError")
    assert episode.steps[0].result == ms.StepError(message="ValueError")
