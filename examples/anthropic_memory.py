"""Claude's memory tool on a database: the second conversation knows what the first one noted. The model is a script.

    python examples/anthropic_memory.py --database memory.db

Needs the extra `anthropic`. The SDK's loop and the tool are real; the answers of the API are made here.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import httpx2

import memory_storage as ms
from memory_storage.integrations.anthropic import MemoryStorageTool

NOTES = "/memories/customers/ann.md"


class ScriptedModel:
    """Answers as the API would, by the results of the tools that were called so far."""

    def __init__(self) -> None:
        self.results: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        """Return the next message."""
        last = json.loads(request.content)["messages"][-1]["content"]
        if not isinstance(last, str):
            self.results += [part["content"] for part in last if part["type"] == "tool_result"]
        content = self._next()
        message = {
            "id": "message-1",
            "type": "message",
            "role": "assistant",
            "model": "scripted",
            "content": [content],
            "stop_reason": "tool_use" if content["type"] == "tool_use" else "end_turn",
            "usage": {"input_tokens": 1, "output_tokens": 1},
        }
        return httpx2.Response(200, json=message)

    def _next(self) -> dict[str, Any]:
        call = {"type": "tool_use", "id": f"call-{len(self.results)}", "name": "memory"}
        if not self.results:
            return {**call, "input": {"command": "view", "path": "/memories"}}
        knows = NOTES in self.results[0]
        if len(self.results) == 1 and knows:
            return {**call, "input": {"command": "view", "path": NOTES}}
        if len(self.results) == 1:
            note = "- prefers short answers\n"
            return {**call, "input": {"command": "create", "path": NOTES, "file_text": note}}
        return {"type": "text", "text": self.results[1].split("\t")[1].splitlines()[0] if knows else "Noted."}


def conversation(storage: ms.MemoryStorage, text: str) -> Iterator[str]:
    """Send a message, let the SDK run the tool, and yield a line for each thing that the model does."""
    transport = httpx2.Client(transport=httpx2.MockTransport(ScriptedModel()))
    with anthropic.Anthropic(api_key="none", http_client=transport) as client:
        runner = client.beta.messages.tool_runner(
            model="scripted",
            max_tokens=1_000,
            messages=[{"role": "user", "content": text}],
            tools=[MemoryStorageTool(storage)],
        )
        yield text
        for message in runner:
            for part in message.content:
                if part.type == "tool_use":
                    yield f"  memory: {part.input['command']} {part.input['path']}"
                elif part.type == "text":
                    yield f"  {part.text}"


def two_conversations(database: Path) -> Iterator[str]:
    """Hold two conversations, and open the file again for the second one."""
    for text in ("Ann prefers short answers.", "How does Ann like her answers?"):
        with ms.MemoryStorage.open(database) as storage:
            yield from conversation(storage, text)


def main() -> None:
    """Print the conversations."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one")
    database = parser.parse_args().database
    if database is not None:
        print("\n".join(two_conversations(database)))
        return
    with tempfile.TemporaryDirectory() as directory:
        print("\n".join(two_conversations(Path(directory, "memory.db"))))


if __name__ == "__main__":
    main()
