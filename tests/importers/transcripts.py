"""Transcripts that look like tau-bench's, made here: a user's clone does not have the real ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "tau_airline.jsonl"
"""The real ones, where they are."""

POLICY = "You book flights. " * 300


def call(name: str, arguments: object = "{}", *, call_id: str = "call_1", content: str | None = None) -> dict[str, Any]:
    calls = [{"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}]
    return {"role": "assistant", "content": content, "tool_calls": calls}


def answer(content: object, *, call_id: str = "call_1", name: str = "look") -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call_id, "name": name, "content": content}


def run(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "Please book a flight"}, *messages], **fields}


def airline_run(task_id: int, trial: int, *, calls: int, reward: float) -> dict[str, Any]:
    """As tau-bench writes them; call ids come back within a run, as they do there."""
    traj: list[dict[str, Any]] = [{"role": "system", "content": POLICY}, {"role": "user", "content": "Hello"}]
    for number in range(calls):
        error = "Error: no such flight" if number % 7 == 3 else json.dumps({"flight": number, "gate": "é"})
        traj += [call("search", json.dumps({"task": task_id, "number": number}), call_id=f"call_{number % 3}")]
        traj += [answer(error, call_id=f"call_{number % 3}", name="search")]
    traj.append({"role": "assistant", "content": "Done."})
    info = {"task": {"user_id": f"user_{task_id}", "instruction": f"Do task {task_id}"}, "user_cost": 0.0035475}
    return {"task_id": task_id, "reward": reward, "info": info, "traj": traj, "trial": trial}


def write_airline(path: Path) -> Path:
    """As many runs, calls and rewards as the real file has: 200, 1,164 and 84."""
    counts = [5 + (number < 164) + (number == 0) * 27 - (number in range(1, 28)) for number in range(200)]
    runs = [
        airline_run(number // 4, number % 4, calls=count, reward=float(number % 50 < 21))
        for number, count in enumerate(counts)
    ]
    return write_lines(path, runs)


def write_lines(path: Path, records: list[Any]) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path
