"""Trajectories in ATIF-v1.7 (Agent Trajectory Interchange Format): one JSON document per line and episode.

    the task                a step of the user; of an imported episode, all its messages are steps
    a step                  a step of the agent with its call and the result; what has no field is in `extra`
    the outcome             the last step of the agent, in the words of the verdict or reason
    the reward              extra["reward"]
    everything else         extra["memory_storage"], as `Episode.model_dump` has it

The status of a result is extra["status"]: ok, error or timeout.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any, BinaryIO

from memory_storage.models import Episode, Step

from .notes import Notes
from .turns import Call, Turn, conversation_of, ids_of, turns_of

VERSION = "ATIF-v1.7"

_SOURCES = {"system": "system", "user": "user", "assistant": "agent"}
_ELSEWHERE = {"id", "steps"}
"""Fields of an episode that the trajectory itself has."""


class Atif:
    """Writes episodes as JSON lines."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def write(self, episode: Episode, notes: Notes) -> None:
        """Write an episode as one line."""
        line = json.dumps(trajectory_of(episode, notes), ensure_ascii=False, separators=(",", ":"))
        self._stream.write(line.encode())
        self._stream.write(b"\n")

    def finish(self) -> None:
        """Write nothing: the format has no footer."""


def trajectory_of(episode: Episode, notes: Notes) -> dict[str, Any]:
    """Return an episode as a trajectory; note what it leaves out."""
    steps = [step for turn in turns_of(episode, notes) for step in _steps_of(turn)]
    stored = episode.model_dump(mode="json", exclude=_ELSEWHERE, exclude_none=True)
    if conversation_of(episode) is not None:
        del stored["metadata"]["conversation"]
    return {
        "schema_version": VERSION,
        "session_id": str(episode.id),
        "trajectory_id": str(episode.id),
        "agent": _agent_of(episode),
        "steps": [{"step_id": number, **step} for number, step in enumerate(steps, 1)],
        "extra": {**({"reward": episode.reward.total} if episode.reward else {}), "memory_storage": stored},
    }


def _agent_of(episode: Episode) -> dict[str, Any]:
    """Return the agent, whose name and version the format requires: from the metadata, or "unknown"."""
    given = episode.metadata.get("agent")
    values: dict[str, Any] = {"name": given, "version": episode.metadata.get("agent_version")}
    values |= given if isinstance(given, dict) else {}
    agent: dict[str, Any] = {
        name: values[name] if isinstance(values.get(name), str) else "unknown" for name in ("name", "version")
    }
    model, tools = values.get("model_name") or episode.metadata.get("model"), episode.metadata.get("tools")
    if isinstance(model, str):
        agent["model_name"] = model
    if isinstance(tools, list) and all(isinstance(tool, dict) for tool in tools):
        agent["tool_definitions"] = tools
    return agent


def _steps_of(turn: Turn) -> Iterator[dict[str, Any]]:
    step: dict[str, Any] = {"source": _SOURCES[turn.role], "message": turn.text}
    if turn.said_at is not None:
        step["timestamp"] = _iso(turn.said_at)
    extra: dict[str, Any] = {"parts": [dict(part) for part in turn.parts]} if turn.parts else {}
    if turn.reasoning:
        # The field is the agent's: reasoning of others has no place of its own.
        (step if turn.role == "assistant" else extra)["reasoning_content"] = turn.reasoning
    if turn.calls:
        calls = list(zip(ids_of(turn.calls), turn.calls, strict=True))
        step["tool_calls"] = [
            {
                "tool_call_id": call_id,
                "function_name": call.step.tool,
                "arguments": call.step.parameters,
                "extra": _details(call.step),
            }
            for call_id, call in calls
        ]
        results = [_result_of(*call) for call in calls if call[1].status is not None or call[1].output is not None]
        if results:
            step["observation"] = {"results": results}
    yield {**step, "extra": extra} if extra else step


def _details(step: Step) -> dict[str, Any]:
    """Return what a call has no field for."""
    details: dict[str, Any] = {"id": str(step.id), "started_at": _iso(step.started_at), "latency_ms": step.latency_ms}
    if step.tokens_used is not None:
        details["tokens_used"] = step.tokens_used
    if step.metadata:
        details["metadata"] = step.metadata
    return details


def _result_of(call_id: str, call: Call) -> dict[str, Any]:
    result: dict[str, Any] = {"source_call_id": call_id, "content": call.output}
    return {**result, "extra": {"status": call.status}} if call.status else result


def _iso(moment: datetime) -> str:
    return moment.isoformat()
