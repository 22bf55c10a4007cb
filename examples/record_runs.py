"""Record an agent's runs, with its tools as steps, and print what failed.

    python examples/record_runs.py --database runs.db

The tools are decorated functions; the runs are blocks. A run that raises is a failure, and the program continues.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import memory_storage as ms

STOCK = {"apples": 3, "pears": 0}


def shop(storage: ms.MemoryStorage) -> Callable[[str, int], str]:
    """Return an agent that sells fruit. Its two tools are recorded."""

    @storage.recorded
    def count(fruit: str) -> int:
        return STOCK[fruit]

    @storage.recorded(tool="sell")
    def sell(fruit: str, number: int) -> str:
        if number > STOCK[fruit]:
            raise ValueError(f"only {STOCK[fruit]} {fruit} are left")
        return f"{number} {fruit} sold"

    def agent(fruit: str, number: int) -> str:
        with storage.record(f"Sell {number} {fruit}", tags=["shop"]) as run:
            if count(fruit) == 0:
                run.complete(ms.Abstained(reason=f"no {fruit}", stopped_at_step=0))
                return "sorry"
            answer = sell(fruit, number)
            run.complete(answer, reward=1.0)
            return answer

    return agent


def record_and_report(storage: ms.MemoryStorage) -> Iterator[str]:
    """Run the agent three times, and yield a line about each run as it is stored."""
    agent = shop(storage)
    for fruit, number in (("apples", 2), ("apples", 5), ("pears", 1)):
        with suppress(ValueError):  # recorded as a failure
            agent(fruit, number)
    for episode in storage.episodes.iterate(direction="oldest_first", tags_any=["shop"]):
        steps = ", ".join(f"{step.tool} {step.result.status if step.result else ''}" for step in episode.steps)
        outcome = episode.outcome
        why = outcome.reason if isinstance(outcome, ms.Failure | ms.Abstained) else ""
        yield f"{episode.task_description}: {outcome.kind if outcome else ''} ({steps}) {why}".rstrip()


def main() -> None:
    """Record the runs in a file, and print them."""
    parser = argparse.ArgumentParser(description="Record an agent's runs.")
    parser.add_argument("--database", type=Path, default=Path("record_runs.db"))
    with ms.MemoryStorage.open(parser.parse_args().database) as storage:
        print("\n".join(record_and_report(storage)))


if __name__ == "__main__":
    main()
