"""The example runs: its second run avoids the mistake of the first."""

from __future__ import annotations

import pytest

import memory_storage as ms
from memory_storage.models import Success
from tests.example_process import output_of


@pytest.mark.slow
def test_the_second_run_remembers_the_first(database):
    assert output_of("pydantic_ai_agent.py", database) == [
        "Deploy version 2 of the shop: Version 2 is deployed.",
        "  1. deploy: error",
        "  2. migrate: ok",
        "  3. deploy: ok",
        "  (8 messages are stored)",
        "Deploy version 3 of the shop: Version 3 is deployed.",
        "  1. migrate: ok",
        "  2. deploy: ok",
        "  (14 messages are stored)",
    ]
    with ms.MemoryStorage.open(database) as storage:
        second, first = storage.episodes.query().items
        assert second.recalled.items == [("success", first.id)]
        assert second.outcome == Success(verdict="Version 3 is deployed.")
