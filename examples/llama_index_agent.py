"""An agent of LlamaIndex that remembers conversations, and what it has learned in others. The model is a script.

    python examples/llama_index_agent.py --database memory.db

Needs the extra `llama-index`. Each conversation opens the file again. In the second one, another agent finds the key at
once, because the block recalls how the first one has found it; the third one continues the first.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import tempfile
import warnings
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.base.llms.types import ToolCallBlock
from llama_index.core.llms import ChatMessage
from llama_index.core.llms.mock import MockFunctionCallingLLM
from llama_index.core.memory import Memory
from pydantic.warnings import PydanticDeprecationWarning

import memory_storage as ms
from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.llama_index import MemoryStorageChatStore, RecallMemoryBlock

CONVERSATIONS = (
    ("monday", "Where is the key of the archive?"),
    ("tuesday", "Find the key of the archive, please."),
    ("monday", "What did I ask first?"),
)
PLACES = ("desk", "shelf", "safe")

# LlamaIndex 0.14 reads all attributes of an agent, also those that pydantic has deprecated.
warnings.filterwarnings("ignore", category=PydanticDeprecationWarning)


def answer(messages: Sequence[ChatMessage], **_: Any) -> ChatMessage:
    """Answer as a language model would, by the messages: the prompt with what is recalled, and the conversation."""
    prompt = " ".join(one.content or "" for one in messages if one.role == "system")
    questions = [one.content or "" for one in messages if one.role == "user"]
    if "first" in questions[-1]:
        return ChatMessage(role="assistant", content=f"You asked first: {questions[0]}")
    results = [one.content or "" for one in messages if one.role == "tool"]
    if results and "key" in results[-1]:
        return ChatMessage(role="assistant", content=f"{results[-1]} (places searched: {len(results)})")
    recalled = re.search(r"The key is in the (\w+)", prompt)
    place = recalled[1] if recalled else PLACES[len(results)]
    call = ToolCallBlock(tool_call_id=f"call-{len(results)}", tool_name="look", tool_kwargs={"place": place})
    return ChatMessage(role="assistant", blocks=[call])


async def converse(database: Path, session: str, question: str) -> str:
    """Ask a question in a conversation that is stored in the file, record the run, and return the answer."""
    async with AsyncMemoryStorage.open(database) as storage:
        block = RecallMemoryBlock(storage, k=2)
        memory = Memory.from_defaults(
            session_id=session, chat_store=MemoryStorageChatStore(storage), memory_blocks=[block]
        )
        episode = await storage.episodes.save(ms.Episode(task_description=question))

        async def look(place: str) -> str:
            """Look for the key in a place."""
            output = "The key is in the safe." if place == "safe" else f"Nothing in the {place}."
            step = ms.Step(tool="look", parameters={"place": place}, result=ms.StepOk(output=output))
            await storage.episodes.append_step(episode.id, step)
            return output

        agent = FunctionAgent(tools=[look], llm=MockFunctionCallingLLM(response_generator=answer))
        result = await agent.run(question, memory=memory)
        # The episode keeps what was recalled for it, and patterns are counted as applied.
        await storage.episodes.complete(episode.id, ms.Success(verdict=str(result)), recalled=block.last_recall)
        count = len(await memory.aget_all())
        return f"{session}: {question} {result} [{count} messages]"


async def conversations(database: Path) -> AsyncIterator[str]:
    """Hold all conversations, and open the file again for each."""
    for session, question in CONVERSATIONS:
        yield await converse(database, session, question)


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
