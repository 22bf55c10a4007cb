"""The example's agent, and what happens without the extra or a network."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

import memory_storage as ms
from memory_storage.integrations.llama_index import MemoryStorageChatStore
from tests.example_process import output_of


@pytest.mark.slow
def test_the_agent_remembers_what_it_did_and_what_was_said(database):
    assert output_of("llama_index_agent.py", database) == [
        "monday: Where is the key of the archive? The key is in the safe. (places searched: 3) [8 messages]",
        "tuesday: Find the key of the archive, please. The key is in the safe. (places searched: 1) [4 messages]",
        "monday: What did I ask first? You asked first: Where is the key of the archive? [10 messages]",
    ]
    with ms.MemoryStorage.open(database) as storage:
        assert asyncio.run(MemoryStorageChatStore(storage).get_keys()) == ["monday", "tuesday"]
        second = [one for one in storage.episodes.iterate() if one.task_description.startswith("Find")]
        assert [len(one.steps) for one in second] == [1]


@pytest.mark.slow
def test_without_the_extra_it_is_named():
    code = "import sys; sys.modules['llama_index'] = None\nimport memory_storage.integrations.llama_index"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "ConfigurationError: the chat store and the memory block need LlamaIndex" in done.stderr
    assert "pip install 'memory-storage[llama-index]'" in done.stderr


@pytest.mark.slow
def test_nothing_is_downloaded():
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('a connection')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "import memory_storage as ms\n"
        "from memory_storage.integrations.llama_index import RecallMemoryBlock\n"
        "with ms.MemoryStorage.open(':memory:') as storage: print(len(RecallMemoryBlock(storage)._tokenizer_fn('a b')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("2\n", "")
