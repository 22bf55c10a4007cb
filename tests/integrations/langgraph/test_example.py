"""The example's agent, and what happens without the extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

import memory_storage as ms
from memory_storage.integrations.langgraph import STORE_PATH
from tests.example_process import output_of


@pytest.mark.slow
def test_the_agent_needs_fewer_steps_the_second_time(database):
    assert output_of("langgraph_agent.py", database) == [
        "Fix the flaky test of the login token",
        "Fix the flaky test of the session token",
        "login: 6 tool calls, 16 checkpoints",
        "  run_tests: test_token: expired 1 s too early",
        "  edit: done: increase the timeout",
        "  run_tests: test_token: expired 1 s too early",
        "  edit: done: freeze the clock in the test",
        "  run_tests: 20 passed",
        "  remember: remembered",
        "session: 2 tool calls, 8 checkpoints",
        "  edit: done: freeze the clock in the test",
        "  run_tests: 20 passed",
    ]
    with ms.MemoryStorage.open(database) as storage:
        (lesson,) = storage.items.query(STORE_PATH)
        assert lesson.path == (*STORE_PATH, "agents", "coder", "lessons")
        assert [(one.path, one.key) for one in storage.items.iterate_vectors()] == [(lesson.path, lesson.key)]
    again = output_of("langgraph_agent.py", database)
    assert [line for line in again if line.startswith(("login", "session"))] == [
        "login: 8 tool calls, 24 checkpoints",
        "session: 4 tool calls, 16 checkpoints",
    ]


@pytest.mark.parametrize("missing", ["langgraph", "langchain_core"])
def test_without_the_extra_it_is_named(missing):
    code = f"import sys; sys.modules[{missing!r}] = None\nimport memory_storage.integrations.langgraph"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError: the store and the saver need" in done.stderr
    assert "pip install 'memory-storage[langgraph]'" in done.stderr
