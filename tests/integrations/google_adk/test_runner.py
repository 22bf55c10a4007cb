"""ADK's runner with a scripted model: tools, state, a session that is resumed, and memory by both of ADK's tools."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from google.adk.agents import LlmAgent, ParallelAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.tools.load_memory_tool import load_memory_tool
from google.adk.tools.preload_memory_tool import preload_memory_tool
from google.adk.tools.tool_context import ToolContext
from google.genai import types
from pydantic import Field

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.google_adk import MemoryStorageMemoryService, MemoryStorageSessionService

from .services import APP, SCOPE, USER, texts


class Script(BaseLlm):
    """Gives its answers one after the other, and keeps the requests."""

    model: str = "script"
    answers: list[Any]
    requests: list[Any] = Field(default_factory=list)

    async def generate_content_async(self, llm_request, stream=False):
        self.requests.append([part for one in llm_request.contents for part in one.parts])
        answer = self.answers.pop(0)
        part = types.Part(text=answer) if isinstance(answer, str) else types.Part(function_call=answer)
        usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=0, candidates_token_count=0)
        yield LlmResponse(content=types.Content(role="model", parts=[part]), usage_metadata=usage)


def call(name: str, **arguments) -> types.FunctionCall:
    return types.FunctionCall(name=name, args=arguments)


def sell(fruit: str, tool_context: ToolContext) -> dict:
    """Sell a fruit."""
    tool_context.state["user:sold"] = [*tool_context.state.get("user:sold", []), fruit]
    tool_context.state["app:last"] = fruit
    tool_context.state["temp:secret"] = 1
    return {"sold": fruit}


async def turn(storage, script: Script, question: str, *, session_id: str = "s", agent=None) -> list:
    """Ask a question by a new runner, add the session to memory, and return the events of the turn."""
    sessions, memory = MemoryStorageSessionService(storage), MemoryStorageMemoryService(storage)
    agent = agent or LlmAgent(
        name="clerk", model=script, tools=[sell, load_memory_tool, preload_memory_tool], output_key="said"
    )
    runner = Runner(app_name=APP, agent=agent, session_service=sessions, memory_service=memory)
    if await sessions.get_session(**SCOPE, session_id=session_id) is None:
        await sessions.create_session(**SCOPE, session_id=session_id)
    message = types.Content(role="user", parts=[types.Part(text=question)])
    events = [one async for one in runner.run_async(user_id=USER, session_id=session_id, new_message=message)]
    await memory.add_session_to_memory(await sessions.get_session(**SCOPE, session_id=session_id))
    return events


def test_a_turn_with_a_tool_is_resumed_in_another_storage(migrated_file):
    async def first() -> None:
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            await turn(storage, Script(answers=[call("sell", fruit="quince"), "Sold a quince."]), "Sell a quince")

    async def second() -> None:
        script = Script(answers=[call("sell", fruit="pear"), "Sold a pear."])
        async with AsyncMemoryStorage.open(migrated_file) as storage:
            await turn(storage, script, "And a pear")
            session = await MemoryStorageSessionService(storage).get_session(**SCOPE, session_id="s")
        seen = [part.text for part in script.requests[0] if part.text]
        assert {"Sell a quince", "Sold a quince.", "And a pear"} <= set(seen)
        assert len(session.events) == 8
        assert session.state == {"user:sold": ["quince", "pear"], "app:last": "pear", "said": "Sold a pear."}

    asyncio.run(first())
    asyncio.run(second())


def test_another_session_remembers_by_both_tools(storage):
    async def main() -> None:
        await turn(storage, Script(answers=["Noted."]), "My favourite fruit is the quince", session_id="monday")
        script = Script(answers=[call("load_memory", query="favourite fruit"), "The quince."])
        await turn(storage, script, "What is my favourite?", session_id="friday")
        preloaded = "\n".join(part.text for part in script.requests[0] if part.text)
        assert "My favourite fruit is the quince" in preloaded
        (loaded,) = [part.function_response for part in script.requests[1] if part.function_response]
        assert "My favourite fruit is the quince" in str(loaded.response)
        other = await MemoryStorageMemoryService(storage).search_memory(app_name=APP, user_id="bob", query="quince")
        assert other.memories == []

    asyncio.run(main())


@pytest.mark.filterwarnings("ignore:ParallelAgent is deprecated")
def test_agents_that_run_in_parallel_append_to_one_session(storage):
    agents = [LlmAgent(name=f"a{n}", model=Script(answers=[f"answer {n}"]), output_key=f"k{n}") for n in range(4)]

    async def main() -> None:
        await turn(storage, None, "All of you", agent=ParallelAgent(name="all", sub_agents=agents))
        session = await MemoryStorageSessionService(storage).get_session(**SCOPE, session_id="s")
        assert session.state == {f"k{n}": f"answer {n}" for n in range(4)}
        assert sorted(texts(one for one in session.events if one.content)) == [
            "All of you",
            *(f"answer {n}" for n in range(4)),
        ]

    asyncio.run(main())


def test_a_failing_tool_leaves_what_was_stored_before(storage):
    def fail() -> None:
        """Fail."""
        raise OSError("no fruit")

    async def main() -> None:
        agent = LlmAgent(name="clerk", model=Script(answers=[call("fail")]), tools=[fail])
        with pytest.raises(OSError, match="no fruit"):
            await turn(storage, None, "Fail", agent=agent)
        session = await MemoryStorageSessionService(storage).get_session(**SCOPE, session_id="s")
        assert session.events[0].content.parts[0].text == "Fail"
        await turn(storage, Script(answers=["Fine."]), "Continue")
        session = await MemoryStorageSessionService(storage).get_session(**SCOPE, session_id="s")
        assert session.events[-1].content.parts[0].text == "Fine."

    asyncio.run(main())
