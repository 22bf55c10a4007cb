"""The rules of ATIF-v1.7, and the validator of harbor, the reference implementation, where there is one.

MEMORY_STORAGE_HARBOR names a Python, of 3.12 or later, in which harbor is installed.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from datetime import datetime
from typing import Any

HARBOR = os.environ.get("MEMORY_STORAGE_HARBOR", "")

_ROOT = {
    *("schema_version", "session_id", "trajectory_id", "agent", "steps", "notes", "final_metrics", "extra"),
    *("continued_trajectory_ref", "subagent_trajectories"),
}
_STEP = {
    *("step_id", "timestamp", "source", "message", "observation", "is_copied_context", "llm_call_count", "extra"),
    *("model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics"),
}
_OF_AGENTS = {"model_name", "reasoning_effort", "reasoning_content", "tool_calls", "metrics"}

_VALIDATE = """
import json, sys
from harbor.utils.trajectory_validator import TrajectoryValidator
problems = []
for line in sys.stdin.buffer:
    validator = TrajectoryValidator()
    validator.validate(json.loads(line))
    problems += validator.get_errors()
print(json.dumps(problems))
"""


def problems(lines: bytes) -> list[str]:
    """Return what is wrong with the trajectories, one per line."""
    found = [problem for line in lines.splitlines() for problem in _problems(json.loads(line))]
    if HARBOR:
        answer = subprocess.run([HARBOR, "-c", _VALIDATE], input=lines, capture_output=True, check=True)
        found += json.loads(answer.stdout)
    return found


def _problems(trajectory: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown field {name}" for name in trajectory.keys() - _ROOT)
    if trajectory["schema_version"] != "ATIF-v1.7":
        yield "schema_version"
    agent = trajectory["agent"]
    if not isinstance(agent["name"], str) or not isinstance(agent["version"], str):
        yield "agent"
    if [step["step_id"] for step in trajectory["steps"]] != list(range(1, len(trajectory["steps"]) + 1)):
        yield "step_id"
    if not trajectory["steps"]:
        yield "steps"
    for step in trajectory["steps"]:
        yield from _problems_of_step(step)


def _problems_of_step(step: dict[str, Any]) -> Iterator[str]:
    yield from (f"unknown field {name}" for name in step.keys() - _STEP)
    if step["source"] != "agent":
        yield from (f"{name} of {step['source']}" for name in step.keys() & _OF_AGENTS)
    if step["source"] not in {"system", "user", "agent"} or not isinstance(step["message"], str):
        yield "source or message"
    if "timestamp" in step:
        datetime.fromisoformat(step["timestamp"])
    yield from _problems_of_calls(step.get("tool_calls", []), step.get("observation", {}).get("results", []))


def _problems_of_calls(calls: list[dict[str, Any]], results: list[dict[str, Any]]) -> Iterator[str]:
    ids = [call["tool_call_id"] for call in calls]
    for call in calls:
        if call.keys() - {"tool_call_id", "function_name", "arguments", "extra"} or ids.count(call["tool_call_id"]) > 1:
            yield "tool_calls"
        if not isinstance(call["arguments"], dict):
            yield "arguments"
    for result in results:
        if result.keys() - {"source_call_id", "content", "extra", "subagent_trajectory_ref"}:
            yield "results"
        if result["source_call_id"] not in ids:
            yield "source_call_id"
