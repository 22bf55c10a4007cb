"""A memory of CrewAI that outlives its process. The language model is a script; nothing is called.

    python examples/crewai_memory.py --database memory.db

Needs the extra `crewai`. The first run learns how the tests are fixed; a second run with the same file recalls it.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

for name, value in {"CREWAI_DISABLE_TELEMETRY": "true", "CREWAI_TRACING_ENABLED": "false"}.items():
    os.environ.setdefault(name, value)  # before CrewAI is imported

from crewai import BaseLLM, Memory  # noqa: E402

import memory_storage as ms  # noqa: E402
from memory_storage.embedders import HashingEmbedder  # noqa: E402
from memory_storage.integrations.crewai import MemoryStorageBackend  # noqa: E402

TASK = "How is the flaky test of the login token fixed?"
LESSONS = (
    "The flaky test of the login token is fixed by a frozen clock.",
    "Customers pay invoices within 30 days.",
)


class ScriptedLLM(BaseLLM):
    """Files what is remembered, as a language model would."""

    def call(self, messages: Any, *_: Any, **__: Any) -> str:
        """Return the scope, the categories and the importance of the text in the messages."""
        is_about_tests = "flaky test" in messages[-1]["content"]
        scope, category = ("/team/tests", "lesson") if is_about_tests else ("/company/invoices", "fact")
        return json.dumps({"suggested_scope": scope, "categories": [category], "importance": 0.8})


def run(database: Path) -> list[str]:
    """Recall what is known of the task; if that is nothing, remember the lessons."""
    with ms.MemoryStorage.open(database) as storage:
        backend = MemoryStorageBackend(storage)
        memory = Memory(storage=backend, llm=ScriptedLLM(model="script"), embedder=HashingEmbedder().embed)
        matches = memory.recall(TASK, scope="/team", limit=1)
        if matches:
            record = matches[0].record
            return [f"recalled from {record.scope} {record.categories}: {record.content}"]
        records = [memory.remember(lesson) for lesson in LESSONS]
        return [f"remembered in {record.scope}: {record.content}" for record in records if record is not None]


def main() -> None:
    """Run it once on a file, or twice on a temporary one."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database", type=Path, help="a file that is kept; default: a temporary one, for two runs")
    database = parser.parse_args().database
    if database is not None:
        print("\n".join(run(database)))
        return
    with tempfile.TemporaryDirectory() as directory:
        for _ in range(2):
            print("\n".join(run(Path(directory, "memory.db"))))


if __name__ == "__main__":
    main()
