"""Trajectories of SWE-agent (`.traj`), an episode each.

The steps are those of `trajectory`; a demonstration has only its `history`. The name and the arguments of a function
are those of the history's tool call with the same action. An action that is a text is a call of one of SWE-agent's
commands (`open`, `edit`, ...), or else of `bash`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record
from ..messages import Message, text_of
from ..run import Item, Run, task_without_prompt
from .exit_status import outcome_of_exit
from .records import converted
from .values import dict_of, list_of, text_in

NAME = "swe-agent"
TITLE = "SWE-agent trajectories"

_COMMANDS = {
    "open", "goto", "scroll_up", "scroll_down", "create", "edit", "insert", "undo_edit", "search_dir", "search_file",
    "find_file", "submit", "exit_forfeit", "str_replace_editor", "view_image", "filemap", "state", "connect_start",
    "connect_sendline", "decompile", "disassemble", "debug_start", "debug_continue", "debug_step", "debug_exec",
}  # fmt: skip
_INFO = ("exit_status", "submission", "model_stats", "swe_agent_version", "swe_agent_hash", "summarizer")


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a trajectory or a demonstration."""
    steps, history = list_of(content.get("trajectory")), list_of(content.get("history"))
    has_steps = bool(steps) and {"action", "observation"} <= dict_of(steps[0]).keys()
    is_traj = "trajectory" in content and {"history", "info", "environment"} & content.keys() != set()
    return has_steps or is_traj or (bool(history) and "role" in dict_of(history[0]))


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each trajectory."""
    return converted(records, _runs_of)


def _runs_of(record: Record) -> Iterator[Run]:
    values = record.content
    history = [dict_of(one) for one in list_of(values.get("history"))]
    steps = values.get("trajectory")
    if steps is not None and not isinstance(steps, list):
        raise ValidationError("trajectory", "a list of steps", steps)
    info = dict_of(values.get("info"))
    config = _config(values.get("replay_config"))
    run = Run(NAME, record.line, record=values, size=record.size)
    run.not_taken["messages of demonstrations"] = sum(bool(one.get("is_demo")) for one in history)
    history = [one for one in history if not one.get("is_demo")]
    run.messages = [
        {"role": text_in(one.get("role")) or "user", "content": one.get("content")} for one in _opening(history)
    ]
    if steps:
        run.messages += _messages_of_steps(steps, history)
        run.not_taken["states"] = sum(bool(dict_of(step).get("state")) for step in steps)
    else:
        run.messages += _messages_of_history(history)
    problem = text_in(dict_of(config.get("problem_statement")).get("text"))
    prompts = [text_of(one.get("content")) for one in run.messages if one["role"] == "user"]
    run.task = problem or ("" if any(map(str.strip, prompts)) else task_without_prompt(run.messages))
    run.outcome = outcome_of_exit(info.get("exit_status"))
    run.metadata = {name: info.get(name) for name in _INFO}
    run.metadata |= {
        "environment": values.get("environment"),
        "model": dict_of(dict_of(config.get("agent")).get("model")).get("name"),
    }
    run.not_taken.update(f"info.{name}" for name in info if name not in _INFO)
    run.not_taken["replay_config"] = int("replay_config" in values)
    yield run


def _config(value: object) -> dict[str, Any]:
    """Return the configuration of the run, which newer versions write as a JSON text."""
    try:
        return dict_of(json.loads(value) if isinstance(value, str) else value)
    except (ValueError, RecursionError):
        return {}


def _opening(history: list[Message]) -> list[Message]:
    """Return the messages before the first one of the agent."""
    first = next((index for index, one in enumerate(history) if one.get("role") == "assistant"), len(history))
    return history[:first]


def _messages_of_steps(steps: list[Any], history: list[Message]) -> Iterator[Message]:
    responses = [one for one in history if one.get("role") == "assistant"]
    for index, step in enumerate(steps):
        if not isinstance(step, dict) or not isinstance(step.get("action"), str):
            raise ValidationError(f"trajectory.{index}.action", "a text", dict_of(step).get("action"))
        same = next((position for position, one in enumerate(responses) if one.get("action") == step["action"]), None)
        response = responses[same] if same is not None else {}
        responses = responses[same + 1 :] if same is not None else responses
        text = text_in(step.get("thought")) or text_in(step.get("response"))
        yield from _pair(index, text, step["action"], response, step.get("observation"), step.get("execution_time"))


def _messages_of_history(history: list[Message]) -> Iterator[Message]:
    rest = history[len(_opening(history)) :]
    for index, message in enumerate(rest):
        if message.get("role") != "assistant":
            continue
        following = rest[index + 1] if index + 1 < len(rest) else {}
        observation = text_of(following.get("content")) if following.get("role") in {"user", "tool"} else None
        text = text_in(message.get("thought")) or text_of(message.get("content"))
        yield from _pair(index, text, text_in(message.get("action")), message, observation, None)


def _pair(
    index: int, text: str, action: str, response: Message, observation: object, seconds: object
) -> Iterator[Message]:
    """Yield the message with the calls of a step, and the one with their result."""
    calls = [dict_of(call) for call in list_of(response.get("tool_calls"))]
    parts = [part for call in calls if (part := _call_part(call))] or ([_command_part(index, action)] if action else [])
    content: list[Message] = [{"type": "text", "text": text}] if text else []
    if parts and isinstance(seconds, int | float):
        parts[0]["execution_time"] = seconds
    yield {"role": "assistant", "content": [*content, *parts]}
    if observation is None:
        return
    results = [{"type": "tool_result", "tool_use_id": part["id"], "content": observation} for part in parts[:1]]
    yield {"role": "user", "content": results or observation}


def _call_part(call: Message) -> Message | None:
    function = dict_of(call.get("function"))
    if not isinstance(function.get("name"), str):
        return None
    return {"type": "tool_use", "id": call.get("id"), "name": function["name"], "input": function.get("arguments")}


def _command_part(index: int, action: str) -> Message:
    words = action.split()
    name = words[0] if words and words[0] in _COMMANDS else "bash"
    return {"type": "tool_use", "id": f"step-{index}", "name": name, "input": {"command": action}}
