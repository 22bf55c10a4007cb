"""A coding agent with a memory by MCP: the second time, it knows what to do. The model is a script; nothing is called.

    python examples/mcp_agent.py --database memory.db

Needs the extra `mcp`. The agent starts `memory-storage mcp` as a process, as Claude Code does, and its model sees the
server's tools next to its own, `pytest` and `edit`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import mcp


@dataclass(frozen=True)
class ToolCall:
    """What a model asks for: a tool and its arguments."""

    tool: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass
class Workspace:
    """The agent's own tools: a project with a test that reads the real clock."""

    is_clock_frozen: bool = False

    def pytest(self) -> tuple[str, str]:
        """Run the tests: the status and the output."""
        return ("ok", "20 passed") if self.is_clock_frozen else ("error", "test_token: expired 1 s too early")

    def edit(self, change: str) -> tuple[str, str]:
        """Change the code."""
        self.is_clock_frozen = self.is_clock_frozen or "freeze the clock" in change
        return "ok", "1 file changed"


def scripted_model(task: str, results: list[str]) -> ToolCall:
    """Return the next tool call, as a language model would: by the results of those before."""
    knows = "freeze the clock" in results[0] if results else False
    guesses = [ToolCall("pytest"), ToolCall("edit", {"change": "increase the timeout"}), ToolCall("pytest")]
    ending = {
        "outcome": "success",
        "verdict": "the test read the real clock",
        "reward": 1.0 if knows else 0.6,
        "lessons": ["A flaky test of expiry: freeze the clock, a longer timeout does not help."],
    }
    plan = [
        ToolCall("recall", {"task": task}),
        ToolCall("start_episode", {"task": task, "task_type": "debugging"}),
        *([] if knows else guesses),
        ToolCall("edit", {"change": "freeze the clock in the test"}),
        ToolCall("pytest"),
        ToolCall("complete_episode", ending),
    ]
    return plan[len(results)]


async def run_agent(
    client: mcp.Client, task: str, model: Callable[[str, list[str]], ToolCall] = scripted_model
) -> AsyncIterator[str]:
    """Do a task, and yield a line for each thing that the agent does.

    Args:
        client: A client of the memory's server.
        task: What is to be done.
        model: Returns the next tool call for the task and the results of those before.
    """
    workspace, results = Workspace(), []
    of_memory = {tool.name for tool in (await client.list_tools()).tools}
    episode_id = recall_id = ""
    while True:
        call = model(task, results)
        if call.tool not in of_memory:
            status, output = getattr(workspace, call.tool)(**call.arguments)
            # What the agent does is recorded by its loop: the model need not think of it.
            step = {"tool": call.tool, "parameters": call.arguments, "status": status, "output": output}
            await client.call_tool("record_step", {"episode_id": episode_id, **step})
            yield f"  {call.tool}: {output}"
            results.append(output)
            continue
        more = {"episode_id": episode_id, "recall_id": recall_id} if call.tool == "complete_episode" else {}
        result = await client.call_tool(call.tool, {**call.arguments, **more})
        facts = result.structured_content
        if result.is_error or facts is None:
            raise RuntimeError(f"{call.tool}: {result.content}")
        results.append(facts["markdown"])
        recall_id = facts.get("recall_id", recall_id)
        episode_id = facts.get("episode_id", episode_id)
        if call.tool == "recall":
            count = len(facts["records"])
            yield f"  recall: {count} record{'' if count == 1 else 's'}"
        if call.tool == "complete_episode":
            yield f"  complete_episode: {facts['outcome']}"
            return


async def two_tasks(database: Path) -> AsyncIterator[str]:
    """Do two similar tasks with one memory, each by an agent of its own."""
    arguments = ["-m", "memory_storage", "mcp", "--database", str(database)]
    server = mcp.StdioServerParameters(command=sys.executable, args=arguments)
    for task in ("Fix the flaky test of the login token", "Fix the flaky test of the session token"):
        yield task
        async with mcp.Client(mcp.stdio_client(server)) as client:
            async for line in run_agent(client, task):
                yield line


def main() -> None:
    """Print what the agent does."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database

    async def show(path: Path) -> None:
        async for line in two_tasks(path):
            print(line)

    if database is not None:
        anyio.run(show, database)
        return
    with tempfile.TemporaryDirectory() as directory:
        anyio.run(show, Path(directory, "memory.db"))


if __name__ == "__main__":
    main()
