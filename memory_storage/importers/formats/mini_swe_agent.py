"""Trajectories of mini-swe-agent: an object with `info` and `messages`, or the bare list of messages of its version 0.

An action is a tool call, or in older versions a code block of the message; its result is the next message, with
`<returncode>`. A message of the role `exit` has the submission, and stays in the conversation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError

from ..json_records import Record
from ..messages import Message, text_of
from ..run import Item, Run, task_without_prompt
from .exit_status import outcome_of_exit
from .records import converted, grouped
from .values import dict_of, kind_of, list_of, text_in

NAME = "mini-swe-agent"
TITLE = "mini-swe-agent trajectories"

_ACTION = re.compile(r"```(?:bash|sh|mswea_bash_command)\s*\n(.*?)\n?```", re.DOTALL)
_RESULT = re.compile(r"\s*<returncode>\s*(-?\d+)\s*</returncode>")
_INFO = ("exit_status", "submission", "model_stats", "mini_version")


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a trajectory, or a result that only this agent's environment writes."""
    if text_in(content.get("trajectory_format")).startswith("mini-swe-agent"):
        return True
    info = dict_of(content.get("info"))
    messages = [dict_of(message) for message in list_of(content.get("messages"))]
    is_ended = bool(messages) and "exit_status" in info and {"submission", "model_stats", "mini_version"} & info.keys()
    return bool(is_ended) or _is_result(content) or any(map(_is_result, messages))


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each trajectory."""
    for one in grouped(records, lambda content: "messages" not in content and isinstance(content.get("role"), str)):
        if isinstance(one, list):
            content = {"messages": [record.content for record in one]}
            one = Record(one[0].line, content, "", sum(record.size for record in one))
        yield from converted([one], _runs_of)


def _is_result(message: dict[str, Any]) -> bool:
    return message.get("role") == "user" and _RESULT.match(text_in(message.get("content"))) is not None


def _runs_of(record: Record) -> Iterator[Run]:
    values = record.content
    listed = values.get("messages")
    if not isinstance(listed, list) or not listed:
        raise ValidationError("messages", "a list of messages", listed)
    run = Run(NAME, record.line, record=values, size=record.size)
    waiting: list[Message] = []
    for index, message in enumerate(listed):
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise ValidationError(f"messages.{index}", "an object with a `role`", message)
        converted_message = _message(index, message, run)
        if waiting and message["role"] == "user":
            converted_message["content"] = [_result_part(waiting.pop(0), message)]
        run.messages.append(converted_message)
        if message["role"] == "assistant":
            parts = list_of(converted_message.get("content"))
            waiting = [part for part in parts if kind_of(part) == "tool_use"]
    info = dict_of(values.get("info"))
    config = dict_of(info.get("config"))
    run.task = "" if any(one["role"] == "user" for one in run.messages) else task_without_prompt(run.messages)
    run.outcome = outcome_of_exit(info.get("exit_status"))
    run.metadata = {name: info.get(name) for name in _INFO}
    run.metadata |= {"trajectory_format": values.get("trajectory_format"), "instance_id": values.get("instance_id")}
    run.metadata["model"] = dict_of(config.get("model")).get("model_name")
    run.metadata["cwd"] = dict_of(config.get("environment")).get("cwd")
    run.not_taken["info.config"] = int(bool(config))
    yield run


def _message(index: int, message: Message, run: Run) -> Message:
    """Return the message without the raw response of the API, and with its actions as calls."""
    extra = dict_of(message.get("extra"))
    response = dict_of(extra.get("response"))
    taken = {name: value for name, value in message.items() if name != "extra"}
    if extra:
        taken["extra"] = {name: value for name, value in extra.items() if name not in {"response", "raw_output"}}
        run.not_taken["raw responses"] += int(bool(response))
    if isinstance(response.get("usage"), dict):
        taken["usage"] = response["usage"]
    if message["role"] != "assistant" or message.get("tool_calls"):
        return taken
    text = text_of(message.get("content"))
    commands = _ACTION.findall(text)
    if len(commands) == 1:  # with another number of blocks, the environment runs none
        call = {"type": "tool_use", "id": f"message-{index}", "name": "bash", "input": {"command": commands[0]}}
        taken["content"] = [{"type": "text", "text": text}, call]
    return taken


def _result_part(call: Message, message: Message) -> Message:
    text = text_of(message.get("content"))
    code = dict_of(message.get("extra")).get("returncode")
    if code is None and (said := _RESULT.match(text)):
        code = int(said[1])
    part: Message = {"type": "tool_result", "tool_use_id": call["id"], "content": text}
    return part | ({"exit_code": code} if code is not None else {})
