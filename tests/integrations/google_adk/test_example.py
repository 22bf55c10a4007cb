"""The example runs: an agent that finds in memory what was said before its storage was opened again."""

from __future__ import annotations

import asyncio

import pytest

import memory_storage as ms
from memory_storage.integrations.google_adk import MemoryStorageSessionService
from tests.example_process import output_of


@pytest.mark.slow
def test_the_second_conversation_remembers_the_first(database):
    lines = [
        "monday: My favourite fruit is the quince. I will remember that. (2 events are stored)",
        "friday: Which fruit do I like best? You said: My favourite fruit is the quince. (4 events are stored)",
    ]
    assert output_of("google_adk_agent.py", database) == lines
    with ms.MemoryStorage.open(database) as storage:
        service = MemoryStorageSessionService(storage)
        session = asyncio.run(service.get_session(app_name="shop", user_id="ann", session_id="friday"))
    kinds = [
        [kind for kind in ("text", "function_call", "function_response") if getattr(one.content.parts[0], kind)]
        for one in session.events
    ]
    assert kinds == [["text"], ["function_call"], ["function_response"], ["text"]]
