"""Scripted models of Pydantic AI, which call no network."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel

Call = tuple[str, dict[str, Any] | str]


class Script:
    """Asks for the tools of one turn after the other, then answers; any number of runs may use it.

    Attributes:
        instructions: what each request was given as instructions.
        model: the model for an agent; it can also stream.
    """

    def __init__(self, *turns: list[Call], answer: str = "done") -> None:
        self._turns, self._answer = turns, answer
        self.instructions: list[str] = []
        self.model = FunctionModel(self._respond, stream_function=self._stream)

    def _respond(self, messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        self.instructions.append(info.instructions or "")
        calls = self._calls(messages)
        return ModelResponse(parts=[ToolCallPart(*call) for call in calls] or [TextPart(self._answer)])

    async def _stream(self, messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        self.instructions.append(info.instructions or "")
        calls = self._calls(messages)
        for index, (name, arguments) in enumerate(calls):
            text = arguments if isinstance(arguments, str) else json.dumps(arguments)
            yield {index: DeltaToolCall(name=name, json_args=text)}
        if not calls:
            for word in self._answer.split():
                yield f"{word} "

    def _calls(self, messages: list[ModelMessage]) -> list[Call]:
        """Return the calls of this turn: one turn is over for each request with results since the prompt."""
        over = 0
        for message in reversed(messages):
            has_results = any(isinstance(part, ToolReturnPart) for part in message.parts)
            if not has_results and any(part.part_kind == "user-prompt" for part in message.parts):
                break
            over += has_results
        return self._turns[over] if over < len(self._turns) else []


def refusing(error: Exception) -> FunctionModel:
    """Return a model whose requests fail."""

    def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        raise error

    return FunctionModel(respond)
