"""Trajectories in the Agent Trajectory Interchange Format (ATIF), versions 1.0 to 1.7, an episode each.

The reward is where verifiers leave it: `reward`, `verifier_result.reward` or `verifier_result.rewards.reward`, at the
top or in `extra`; the outcome follows from it. Subagents' trajectories are episodes of their own, with a reference.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record
from ..messages import Message
from ..openai_chat import outcome_of, reward_of
from ..run import Item, Run, task_without_prompt
from .records import converted
from .values import dict_of, list_of, text_in

NAME = "atif"
TITLE = "ATIF trajectories"

_ROLES = {"user": "user", "agent": "assistant", "system": "system"}
_NOT_TAKEN = {
    "reasoning_content": "reasoning texts",
    "prompt_token_ids": "lists of token IDs",
    "completion_token_ids": "lists of token IDs",
    "logprobs": "lists of logprobs",
}
_TAKEN_METRICS = {"prompt_tokens", "completion_tokens", "cached_tokens"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a trajectory."""
    return text_in(content.get("schema_version")).startswith("ATIF") and "steps" in content


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each trajectory, and for each one that is inside of it."""
    return converted(records, _runs_of)


def _runs_of(record: Record, parent: str = "", trajectory: Mapping[str, Any] | None = None) -> Iterator[Run]:
    values = record.content if trajectory is None else trajectory
    steps = values.get("steps")
    if not isinstance(steps, list) or not steps:
        raise ValidationError("steps", "a list of steps", steps)
    session = text_in(values.get("session_id"))
    key = text_in(values.get("trajectory_id")) or session
    run = Run(NAME, record.line, key=key, record=values, size=record.size)
    for index, step in enumerate(steps):
        run.messages += _messages_of(step, f"steps.{index}", run.not_taken)
    run.reward = reward_of(_reward_in(values))
    run.outcome = outcome_of(None, run.reward)
    agent = dict_of(values.get("agent"))
    run.metadata = {
        "session_id": session,
        "trajectory_id": values.get("trajectory_id"),
        "parent_trajectory": parent,
        "agent": agent.get("name"),
        "agent_version": agent.get("version"),
        "model": agent.get("model_name"),
        "schema_version": values.get("schema_version"),
        "notes": values.get("notes"),
        "final_metrics": values.get("final_metrics"),
        "extra": values.get("extra"),
        "continued_trajectory_ref": values.get("continued_trajectory_ref"),
    }
    if not any(message["role"] == "user" for message in run.messages):
        run.task = task_without_prompt(run.messages)
    yield run
    for inner in list_of(values.get("subagent_trajectories")):
        yield from _runs_of(record, key, dict_of(inner))


def _messages_of(step: object, where: str, not_taken: Counter[str]) -> Iterator[Message]:
    values = dict_of(step)
    role = _ROLES.get(text_in(values.get("source")))
    if role is None:
        raise ValidationError(f"{where}.source", f"one of {', '.join(_ROLES)}", values.get("source"))
    metrics = dict_of(values.get("metrics"))
    not_taken.update(name for key, name in _NOT_TAKEN.items() if values.get(key) or metrics.get(key))
    not_taken.update(f"metrics.{key}" for key in metrics if key not in _TAKEN_METRICS and key not in _NOT_TAKEN)
    time = {"timestamp": values["timestamp"]} if values.get("timestamp") is not None else {}
    text = values.get("message")
    content: list[Any] = [{"type": "text", "text": text}] if isinstance(text, str) and text else list_of(text)
    content += [
        _call_part(call, f"{where}.tool_calls.{index}") for index, call in enumerate(_list(values, "tool_calls"))
    ]
    usage = {"usage": {key: metrics[key] for key in _TAKEN_METRICS & metrics.keys()}} if metrics else {}
    yield {"role": role, **time, "content": content, **usage}
    results = [dict_of(one) for one in _list(dict_of(values.get("observation")), "results")]
    if results:
        yield {"role": "user", "content": [_result_part(one) for one in results]}


def _list(values: Mapping[str, Any], name: str) -> list[Any]:
    found = values.get(name)
    if found is not None and not isinstance(found, list):
        raise ValidationError(name, "a list", found)
    return found or []


def _call_part(call: object, where: str) -> Message:
    values = dict_of(call)
    name = values.get("function_name")
    if not isinstance(name, str):
        raise ValidationError(f"{where}.function_name", "the name of a function", name)
    rest = {"extra": values["extra"]} if values.get("extra") else {}
    return {
        "type": "tool_use",
        "id": values.get("tool_call_id"),
        "name": name,
        "input": values.get("arguments"),
        **rest,
    }


def _result_part(result: dict[str, Any]) -> Message:
    """Return the part of a result. One without a call is a text: the feedback to an action that is not a tool's."""
    content = result.get("content")
    references = result.get("subagent_trajectory_ref")
    if result.get("source_call_id") is None:
        return {"type": "text", "text": content if isinstance(content, str) else str(content or references or "")}
    part: Message = {"type": "tool_result", "tool_use_id": result["source_call_id"], "content": content}
    part |= {name: result[name] for name in ("is_error", "error", "exit_code", "status") if name in result}
    part |= {"metadata": result["extra"]} if isinstance(result.get("extra"), dict) else {}
    return part | ({"subagent_trajectory_ref": references} if references else {})


def _reward_in(values: Mapping[str, Any]) -> object:
    for place in (values, dict_of(values.get("extra"))):
        verified = dict_of(place.get("verifier_result"))
        rewards = dict_of(verified.get("rewards"))
        sole = list(rewards.values()) if len(rewards) == 1 else []
        candidates = (place.get("reward"), verified.get("reward"), rewards.get("reward"), *sole)
        if (found := next((one for one in candidates if isinstance(one, int | float)), None)) is not None:
            return found
    return None
