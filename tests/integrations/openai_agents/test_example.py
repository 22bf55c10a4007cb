"""The example runs: an agent of the SDK whose conversation outlives the storage that it was opened with."""

from __future__ import annotations

import asyncio

import pytest

import memory_storage as ms
from memory_storage.integrations.openai_agents import MemoryStorageSession
from tests.example_process import output_of


@pytest.mark.slow
def test_the_conversation_continues_where_it_ended(database):
    assert output_of("openai_agent.py", database) == [
        "How many apples are left? There are 5 apples. (4 items are stored)",
        "Sell 2 of them. Sold 2 of the 5 apples. (6 items are stored)",
        "What did I ask first? You asked first: How many apples are left? (8 items are stored)",
    ]
    with ms.MemoryStorage.open(database) as storage:
        items = asyncio.run(MemoryStorageSession("customer-42", storage).get_items())
    assert [one.get("type", one.get("role")) for one in items[:4]] == [
        "user",
        "function_call",
        "function_call_output",
        "message",
    ]
