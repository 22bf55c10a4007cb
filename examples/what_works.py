"""What works? Success by tool, the sequences that lead to it, and patterns of them to go by next time.

    python examples/what_works.py runs.jsonl --html report.html

`runs.jsonl` are transcripts in the OpenAI chat format with a reward (tau-bench writes such). They are imported into a
file, and success is a reward of 1. To run it again imports and learns nothing twice. The page needs
`pip install 'memory-storage[report]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import memory_storage as ms
from memory_storage.importers import import_file
from memory_storage_report import collect, write_page


def main() -> None:
    """Read the arguments, import, show, learn, and write the page."""
    parser = argparse.ArgumentParser(description="What works in these runs, and what fails.")
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--database", type=Path, default=Path("what_works.db"))
    parser.add_argument("--html", type=Path, help="write a page that needs no network")
    asked = parser.parse_args()
    with ms.MemoryStorage.open(asked.database) as storage:
        import_file(storage, asked.transcripts)
        show_tools(storage)
        show_sequences(storage)
        for pattern in storage.patterns.learn(success_reward=1.0)[:3]:
            print("learned:", pattern.description)
        if asked.html:
            print(write_page(collect(storage, reward_at_least=1.0), asked.html))


def show_tools(storage: ms.MemoryStorage) -> None:
    """How often the episodes that use a tool go well, with the interval of 95 %."""
    for row in storage.analytics.by("tool", success_reward=1.0):
        success = row.success
        if success.rate is not None:
            print(f"{success.rate:4.0%} ({success.low:4.0%} to {success.high:4.0%}) of {success.of:3}  {row.group}")


def show_sequences(storage: ms.MemoryStorage) -> None:
    """The ten sequences with the highest lift: how many times more often episodes with them go well than all do."""
    for row in storage.analytics.sequences((2, 4), success_reward=1.0):
        print(f"{row.lift or 0:.2f} in {row.episodes:3} episodes  {' -> '.join(row.tools)}")


if __name__ == "__main__":
    main()
