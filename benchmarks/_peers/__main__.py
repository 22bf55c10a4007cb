"""A process of one peer that a benchmark traces or slows down: `python -m benchmarks._peers PEER DIRECTORY`.

Reads commands from standard input, and answers each by a line: `prepare FIRST COUNT` makes new records, `save` stores
them, `get` reads the episodes that were saved last.
"""

from __future__ import annotations

import sys
from pathlib import Path

from .. import _workload
from . import PEERS, Record, Store


def main() -> None:
    """Answer commands until the end of the input."""
    name, directory = sys.argv[1:]
    peer = next(peer for peer in PEERS if peer.name == name)
    store = peer.open_store(Path(directory))
    records: dict[str, Record] = {}
    for line in sys.stdin:
        command, *numbers = line.split()
        if command == "prepare":
            first, count = map(int, numbers)
            records = _records(store, first, count)
        for key, record in records.items():
            if command == "save":
                store.save(record)
            elif command == "get":
                store.get(key)
        print("done", flush=True)
    store.close()


def _records(store: Store, first: int, count: int) -> dict[str, Record]:
    episodes = [_workload.trajectory(number) for number in range(first, first + count)]
    return {str(episode.id): store.record(episode) for episode in episodes}


if __name__ == "__main__":
    main()
