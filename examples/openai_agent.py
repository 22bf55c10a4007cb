"""An agent of the OpenAI Agents SDK whose conversation outlives its process. The model is a script; nothing is called.

    python examples/openai_agent.py --database memory.db

Needs the extra `openai-agents`. Each run of the program is one turn more: the model is given the items of those before.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from agents.items import TResponseInputItem
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.openai_agents import MemoryStorageSession

QUESTIONS = ("How many apples are left?", "Sell 2 of them.", "What did I ask first?")


@function_tool
def stock(fruit: str) -> str:
    """Return how many of a fruit are left."""
    return f"5 {fruit}"


class ScriptedModel(Model):
    """Answers as a language model would, by the items of the conversation."""

    async def get_response(
        self,
        system_instructions: str | None,  # noqa: ARG002 - the SDK's signature
        input: str | list[TResponseInputItem],  # noqa: A002
        *_: Any,
        **__: Any,
    ) -> ModelResponse:
        """Return the next output."""
        items = input if isinstance(input, list) else []
        return ModelResponse(output=[self._next(items)], usage=Usage(), response_id=None)

    def stream_response(self, *_: Any, **__: Any) -> AsyncIterator[Any]:
        """Refuse: this example does not stream."""
        raise NotImplementedError

    def _next(self, items: list[TResponseInputItem]) -> ResponseOutputMessage | ResponseFunctionToolCall:
        asked = [str(one["content"]) for one in items if one.get("role") == "user"]
        results = [str(one["output"]) for one in items if one.get("type") == "function_call_output"]
        if not results:
            return ResponseFunctionToolCall(
                type="function_call", call_id="call-1", name="stock", arguments='{"fruit": "apples"}'
            )
        if "first" in asked[-1]:
            text = f"You asked first: {asked[0]}"
        elif "Sell" in asked[-1]:
            text = f"Sold 2 of the {results[0]}."
        else:
            text = f"There are {results[0]}."
        part = ResponseOutputText(type="output_text", text=text, annotations=[])
        return ResponseOutputMessage(
            id=f"message-{len(items)}", type="message", role="assistant", status="completed", content=[part]
        )


async def turn(database: Path, question: str) -> str:
    """Ask a question in the conversation that is stored in the file, and return the answer."""
    agent = Agent(name="clerk", instructions="You sell fruit.", model=ScriptedModel(), tools=[stock])
    async with AsyncMemoryStorage.open(database) as storage:
        session = MemoryStorageSession("customer-42", storage)
        result = await Runner.run(agent, question, session=session, run_config=RunConfig(tracing_disabled=True))
        items = await session.get_items()
        return f"{question} {result.final_output} ({len(items)} items are stored)"


async def conversation(database: Path) -> AsyncIterator[str]:
    """Ask all questions, and open the file again for each."""
    for question in QUESTIONS:
        yield await turn(database, question)


def main() -> None:
    """Print the conversation."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database

    async def show(path: Path) -> None:
        async for line in conversation(path):
            print(line)

    if database is not None:
        asyncio.run(show(database))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(show(Path(directory, "memory.db")))


if __name__ == "__main__":
    main()
