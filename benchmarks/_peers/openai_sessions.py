"""OpenAI Agents: `SQLiteSession` on a file. Its `SQLAlchemySession` needs two more packages for a local file."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from agents import SQLiteSession

import memory_storage as ms

from ._store import Store, document, level_of_file


class OpenAIAgents(Store):
    """A session for each episode, with an item for the task and one for each step."""

    note = "a session object for each episode, with an item for the task and each step; created and closed in each call"

    def __init__(self, directory: Path) -> None:
        self._path = directory / "sessions.db"
        self._loop = asyncio.new_event_loop()

    def record(self, episode: ms.Episode) -> tuple[str, list[dict[str, Any]]]:
        head = document(episode)
        steps = head.pop("steps")
        task = {"role": "user", "content": head.pop("task_description"), "metadata": head}
        return head["id"], [task, *({"type": "function_call", "call_id": step["id"], **step} for step in steps)]

    def save(self, record: tuple[str, list[dict[str, Any]]]) -> object:
        key, items = record
        return self._loop.run_until_complete(self._add(key, items))

    async def _add(self, key: str, items: Any) -> None:
        session = SQLiteSession(key, self._path)
        await session.add_items(items)
        session.close()

    def get(self, key: str) -> int:
        return len(self._loop.run_until_complete(self._items(key))) - 1

    async def _items(self, key: str) -> list[Any]:
        session = SQLiteSession(key, self._path)
        items = await session.get_items()
        session.close()
        return list(items)

    def durability(self) -> str:
        return level_of_file(self._path)

    def close(self) -> None:
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()


open_store = OpenAIAgents
