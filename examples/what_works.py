"""Print success rates by tool and the tool sequences that lead to success, and learn patterns from them.

    python examples/what_works.py runs.jsonl --html report.html

`runs.jsonl` has transcripts in the OpenAI chat format with a reward, as tau-bench writes them. They are imported into a
file, and a reward of 1 counts as success. Running it again imports and learns nothing twice. The report needs
`pip install 'memory-storage[report]'`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import memory_storage as ms
from memory_storage.importers import import_file
from memory_storage_report import collect, write_page


def main() -> None:
    """Import the transcripts, print the statistics, learn patterns, and write the report."""
    parser = argparse.ArgumentParser(description="Success rates by tool and by tool sequence.")
    parser.add_argument("transcripts", type=Path)
    parser.add_argument("--database", type=Path, default=Path("what_works.db"))
    parser.add_argument("--html", type=Path, help="write an HTML report")
    arguments = parser.parse_args()
    with ms.MemoryStorage.open(arguments.database) as storage:
        import_file(storage, arguments.transcripts)
        show_tools(storage)
        show_sequences(storage)
        for pattern in storage.patterns.learn(success_reward=1.0)[:3]:
            print("learned:", pattern.description)
        if arguments.html:
            print(write_page(collect(storage, success_reward=1.0), arguments.html))


def show_tools(storage: ms.MemoryStorage) -> None:
    """Print the success rate of the episodes that use each tool, with its 95 % interval."""
    for row in storage.analytics.by("tool", success_reward=1.0):
        success = row.success
        if success.rate is not None:
            print(f"{success.rate:4.0%} ({success.low:4.0%} to {success.high:4.0%}) of {success.of:3}  {row.group}")


def show_sequences(storage: ms.MemoryStorage) -> None:
    """Print the ten sequences with the highest lift: their success rate relative to that of all episodes."""
    for row in storage.analytics.sequences((2, 4), success_reward=1.0):
        print(f"{row.lift or 0:.2f} in {row.episodes:3} episodes  {' -> '.join(row.tools)}")


if __name__ == "__main__":
    main()
