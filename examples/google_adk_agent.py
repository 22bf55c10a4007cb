"""An agent of Google's ADK that remembers earlier sessions. The model is a script; nothing is called.

    python examples/google_adk_agent.py --database memory.db

Needs the extra `google-adk`. Each conversation opens the file again: the second one finds in memory what was said
in the first.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

from google.adk.agents import LlmAgent
from google.adk.models.base_llm import BaseLlm
from google.adk.models.llm_request import LlmRequest
from google.adk.models.llm_response import LlmResponse
from google.adk.runners import Runner
from google.adk.tools import load_memory
from google.genai import types

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.google_adk import MemoryStorageMemoryService, MemoryStorageSessionService

APP, USER = "shop", "ann"
CONVERSATIONS = (
    ("monday", "My favourite fruit is the quince."),
    ("friday", "Which fruit do I like best?"),
)


class ScriptedModel(BaseLlm):
    """Answers as a language model would, by the contents of the request."""

    model: str = "script"

    async def generate_content_async(
        self,
        llm_request: LlmRequest,
        stream: bool = False,  # noqa: ARG002 - ADK's signature
    ) -> AsyncGenerator[LlmResponse, None]:
        """Yield the next content."""
        last = (llm_request.contents[-1].parts or [types.Part()])[-1]
        usage = types.GenerateContentResponseUsageMetadata(prompt_token_count=0, candidates_token_count=0)
        yield LlmResponse(content=types.Content(role="model", parts=[self._next(last)]), usage_metadata=usage)

    def _next(self, last: types.Part) -> types.Part:
        if last.function_response is not None:
            result = (last.function_response.response or {})["result"]
            said = [part.text for one in result.memories if one.author == "user" for part in one.content.parts or ()]
            return types.Part(text=f"You said: {said[0]}" if said else "I do not know.")
        if "?" in (last.text or ""):
            return types.Part(function_call=types.FunctionCall(name="load_memory", args={"query": last.text}))
        return types.Part(text="I will remember that.")


async def converse(database: Path, session_id: str, question: str) -> str:
    """Ask one question in a session, remember the session, and return the answer."""
    async with AsyncMemoryStorage.open(database) as storage:
        sessions, memory = MemoryStorageSessionService(storage), MemoryStorageMemoryService(storage)
        agent = LlmAgent(name="clerk", model=ScriptedModel(), tools=[load_memory])
        runner = Runner(app_name=APP, agent=agent, session_service=sessions, memory_service=memory)
        if await sessions.get_session(app_name=APP, user_id=USER, session_id=session_id) is None:
            await sessions.create_session(app_name=APP, user_id=USER, session_id=session_id)
        message = types.Content(role="user", parts=[types.Part(text=question)])
        answer = ""
        async for event in runner.run_async(user_id=USER, session_id=session_id, new_message=message):
            if event.is_final_response() and event.content and event.content.parts:
                answer = event.content.parts[0].text or ""
        session = await sessions.get_session(app_name=APP, user_id=USER, session_id=session_id)
        if session is None:
            return "the session was deleted"
        await memory.add_session_to_memory(session)
        return f"{session_id}: {question} {answer} ({len(session.events)} events are stored)"


async def conversations(database: Path) -> AsyncIterator[str]:
    """Have all conversations, and open the file again for each."""
    for session_id, question in CONVERSATIONS:
        yield await converse(database, session_id, question)


def main() -> None:
    """Print the conversations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database

    async def show(path: Path) -> None:
        async for line in conversations(path):
            print(line)

    if database is not None:
        asyncio.run(show(database))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(show(Path(directory, "memory.db")))


if __name__ == "__main__":
    main()
