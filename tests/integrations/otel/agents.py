"""Scripted agents of two frameworks, each with its own instrumentation: no network, no model."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from opentelemetry.sdk.trace import TracerProvider

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of libraries that these packages import
    from openinference.instrumentation.smolagents import SmolagentsInstrumentor
    from pydantic_ai import Agent, ModelRetry, RunContext
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
    from pydantic_ai.models.function import AgentInfo, FunctionModel
    from pydantic_ai.models.instrumented import InstrumentationSettings
    from smolagents import Model, Tool, ToolCallingAgent
    from smolagents.models import (
        ChatMessage,
        ChatMessageToolCall,
        ChatMessageToolCallFunction,
        MessageRole,
    )
    from smolagents.monitoring import LogLevel, TokenUsage

Turn = Sequence[tuple[str, dict[str, Any]]] | str
"""What a scripted model returns: tool calls, or a text."""

__all__ = ["ModelRetry", "RunContext", "SmolagentsInstrumentor", "pydantic_agent", "smolagents_agent"]


def pydantic_agent(
    turns: Sequence[Turn],
    tools: Sequence[Callable[..., Any]],
    provider: TracerProvider,
    *,
    name: str = "refunds",
    include_content: bool = True,
    thinks: float = 0.0,
) -> Agent[None, str]:
    """Return an agent of Pydantic AI, which names its spans by OpenTelemetry's conventions.

    Args:
        turns: What its model returns, in order, in each run.
        tools: Its tools.
        provider: Where its spans go.
        name: Its name.
        include_content: Whether the spans have messages, arguments and results.
        thinks: Seconds that each model call takes.
    """

    def model(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        time.sleep(thinks)
        turn = turns[sum(isinstance(one, ModelResponse) for one in messages)]
        if isinstance(turn, str):
            return ModelResponse(parts=[TextPart(turn)])
        return ModelResponse(parts=[ToolCallPart(tool, arguments) for tool, arguments in turn])

    settings = InstrumentationSettings(tracer_provider=provider, include_content=include_content)
    return Agent(FunctionModel(model), name=name, tools=tools, capabilities=[Instrumentation(settings=settings)])


class _ScriptedModel(Model):  # type: ignore[misc]
    def __init__(self, turns: Sequence[Turn]) -> None:
        super().__init__(model_id="scripted")
        self._turns = list(turns)

    def generate(self, messages: list[ChatMessage], **options: Any) -> ChatMessage:
        calls = [
            ChatMessageToolCall(
                id=f"call-{index}",
                type="function",
                function=ChatMessageToolCallFunction(name=name, arguments=arguments),
            )
            for index, (name, arguments) in enumerate(self._turns.pop(0))
        ]
        usage = TokenUsage(input_tokens=10, output_tokens=5)
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=calls, token_usage=usage)


class _FunctionTool(Tool):  # type: ignore[misc]
    inputs = {"order": {"type": "integer", "description": "the number of an order"}}  # noqa: RUF012 - as smolagents asks
    output_type = "string"
    skip_forward_signature_validation = True

    def __init__(self, function: Callable[[int], str]) -> None:
        self.name, self.description, self._function = function.__name__, "a tool", function
        super().__init__()

    def forward(self, order: int) -> str:
        return self._function(order)


def smolagents_agent(turns: Sequence[Turn], tools: Sequence[Callable[[int], str]]) -> ToolCallingAgent:
    """Return an agent of smolagents, whose spans are OpenInference's while `SmolagentsInstrumentor` is in force."""
    return ToolCallingAgent(
        tools=[_FunctionTool(tool) for tool in tools],
        model=_ScriptedModel(turns),
        name="refunds",
        description="refunds orders",
        verbosity_level=LogLevel.OFF,
    )
