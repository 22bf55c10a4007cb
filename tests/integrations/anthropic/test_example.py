"""The example runs: the SDK's own loop calls the tool, and a second conversation finds what the first one noted."""

from __future__ import annotations

import pytest

from tests.example_process import output_of


@pytest.mark.slow
def test_a_second_conversation_knows_what_the_first_one_noted(database):
    assert output_of("anthropic_memory.py", database, seconds=60) == [
        "Ann prefers short answers.",
        "  memory: view /memories",
        "  memory: create /memories/customers/ann.md",
        "  Noted.",
        "How does Ann like her answers?",
        "  memory: view /memories",
        "  memory: view /memories/customers/ann.md",
        "  - prefers short answers",
    ]
