"""An agent of Pydantic AI whose second run avoids the mistake of the first. The model is a script; nothing is called.

    python examples/pydantic_ai_agent.py --database memory.db

Needs the extra `pydantic-ai`. Both runs belong to one conversation, which is kept in the same file.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from pydantic_ai import Agent, Conversation, ModelRetry
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, FunctionModel

from memory_storage.aio import AsyncMemoryStorage
from memory_storage.integrations.pydantic_ai import EpisodicMemory, MemoryStorageConversationStore

TASKS = ("Deploy version 2 of the shop", "Deploy version 3 of the shop")


def respond(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
    """Answer as a language model would that reads its instructions, and what its tools return."""
    version = next(task for task in reversed(TASKS) if task in str(messages)).split()[2]
    results = [part for part in messages[-1].parts if isinstance(part, ToolReturnPart)]
    deploy = ToolCallPart("deploy", {"version": int(version)})
    migrate = ToolCallPart("migrate", {"version": int(version)})
    if not results:
        is_warned = "run the migrations first" in (info.instructions or "")
        return ModelResponse(parts=[migrate if is_warned else deploy])
    if results[-1].outcome == "retried":
        return ModelResponse(parts=[migrate])
    if results[-1].tool_name == "migrate":
        return ModelResponse(parts=[deploy])
    return ModelResponse(parts=[TextPart(f"Version {version} is deployed.")])


async def run(database: Path, task: str) -> AsyncIterator[str]:
    """Work on a task with the memory that is stored in the file, and yield what was done."""
    migrated: set[int] = set()

    def migrate(version: int) -> str:
        """Bring the database to the schema of a version."""
        migrated.add(version)
        return "migrated"

    def deploy(version: int) -> str:
        """Deploy a version."""
        if version not in migrated:
            raise ModelRetry("run the migrations first")
        return "deployed"

    async with AsyncMemoryStorage.open(database) as storage:
        store = MemoryStorageConversationStore(storage)
        agent = Agent(
            FunctionModel(respond),
            name="operator",
            instructions="You deploy a shop.",
            tools=[migrate, deploy],
            capabilities=[EpisodicMemory(storage)],
        )
        conversation = await store.load("deployments") or Conversation(conversation_id="deployments")
        result = await agent.run(task, conversation=conversation)
        await store.save(result)
        yield f"{task}: {result.output}"
        episode = (await storage.episodes.query(limit=1, steps=True)).items[0]
        for step in episode.steps:
            outcome = "" if step.result is None else step.result.status
            yield f"  {step.step_number}. {step.tool}: {outcome}"
        yield f"  ({len(result.all_messages())} messages are stored)"


async def show(database: Path) -> None:
    """Run all tasks, and open the file again for each."""
    for task in TASKS:
        async for line in run(database, task):
            print(line)


def main() -> None:
    """Print what the runs do."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database
    if database is not None:
        asyncio.run(show(database))
        return
    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(show(Path(directory, "memory.db")))


if __name__ == "__main__":
    main()
