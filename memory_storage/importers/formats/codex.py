"""Session files of Codex (rollouts): JSON lines, with an episode for each message of the user.

Lines are `response_item`s, as the model's API has them, and `event_msg`s, which repeat them for a user interface: of
these, the exit codes, the usage, and the user's messages that no item has are used. What the program writes as the user
(`<environment_context>`, AGENTS.md) is no task. The tokens of a response (`token_count`) belong to its first call.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ..json_records import Record
from ..messages import Message, spoken_text
from ..run import ImportProblem, Item, NotTaken, Run, parts_of, task_without_prompt
from .response_items import ITEMS, messages_of, name_of_untaken
from .values import dict_of, kind_of, list_of, only, text_in

NAME = "codex"
TITLE = "Codex sessions"

_LINES = {"session_meta", "turn_context", "response_item", "event_msg", "compacted"}
_LEGACY_HEADER = {"id", "timestamp", "instructions", "git"}
_SESSION_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_WRITTEN = re.compile(
    r"\s*(<(environment_context|user_instructions|permissions|turn_aborted|skill|subagent_notification|collaboration)"
    r"|# AGENTS\.md instructions)"
)
_EXIT_CODE = re.compile(r"^(?:Exit code:|Process exited with code) (-?\d+)$", re.MULTILINE)
_REPEATED = {"agent_message", "agent_reasoning", "task_started", "turn_started", "item_completed", "item_started"}
_ENDS = {"exec_command_end": "exit_code", "patch_apply_end": "success"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is a line of a session, or the first line of an old one."""
    return _is_header(content) or (kind_of(content) in _LINES and "payload" in content)


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield the turns of a session, and what the file has in addition."""
    session = _Session()
    for record in records:
        if problem := record.problem or session.add(record):
            yield ImportProblem(record.line, problem)
    yield from (run for turn in session.turns if (run := session.run_of(turn)))
    yield NotTaken(session.not_taken)


def _is_header(content: dict[str, Any]) -> bool:
    has_names = {"id", "timestamp"} <= content.keys() <= _LEGACY_HEADER
    return has_names and _SESSION_ID.fullmatch(text_in(content["id"])) is not None


@dataclass
class _Turn:
    """A message of the user, and what follows it. Turn 0 is what precedes the first one."""

    number: int
    line: int
    context: dict[str, Any]
    text: str = ""
    messages: list[Message] = field(default_factory=list)
    uncounted: list[Message] = field(default_factory=list)
    """The model's messages since the last count of tokens."""
    models: list[str] = field(default_factory=list)
    is_aborted: bool = False
    size: int = 0


class _Session:
    """The turns read so far."""

    def __init__(self) -> None:
        self.turns: list[_Turn] = []
        self.not_taken: Counter[str] = Counter()
        self._meta: dict[str, Any] = {}
        self._context: dict[str, Any] = {}
        self._signs: dict[str, dict[str, Any]] = {}
        self._total: object = None

    def add(self, record: Record) -> str:
        """Add a line; return why it cannot be read, or an empty string."""
        line = record.content
        kind = kind_of(line)
        payload: object
        if kind in ITEMS or _is_header(line):  # an old file has no payloads
            kind, payload = ("response_item", line) if kind in ITEMS else ("session_meta", line)
        else:
            payload = line.get("payload")
        if not kind or (kind in _LINES and not isinstance(payload, dict)):
            return "not a line of a Codex session: its `type` or `payload` is missing"
        payload = dict_of(payload)
        if kind == "session_meta":
            self._meta = self._meta or payload
        elif kind == "turn_context":
            self._context = payload
        elif kind == "response_item":
            self._add_item(record, payload)
        elif kind == "event_msg":
            self._add_event(record, payload)
        else:
            self.not_taken[f"{kind} lines"] += 1
        return ""

    def run_of(self, turn: _Turn) -> Run | None:
        """Return the run of a turn; None if there is only what precedes the first message."""
        text = turn.text or task_without_prompt(turn.messages)
        if not text:
            return None
        session = text_in(self._meta.get("id")) or text_in(self._meta.get("session_id"))
        git = dict_of(self._meta.get("git"))
        return Run(
            NAME,
            turn.line,
            turn.messages,
            key=f"{session}/{turn.number}" if session else "",
            record={"meta": self._meta, "turn": turn.number, "text": turn.text},
            times=self._times_of(turn),
            task=text,
            metadata={
                "session_id": session,
                "turn": turn.number,
                "turn_id": turn.context.get("turn_id"),
                "cwd": turn.context.get("cwd") or self._meta.get("cwd"),
                "git_branch": git.get("branch"),
                "git_commit": git.get("commit_hash"),
                "agent_version": self._meta.get("cli_version"),
                "originator": self._meta.get("originator"),
                "model": only(turn.models) or turn.context.get("model"),
                "parent_session_id": self._meta.get("forked_from_id") or _parent(self._meta.get("source")),
                "is_interrupted": turn.is_aborted or None,
            },
            size=turn.size,
        )

    def _times_of(self, turn: _Turn) -> dict[str, Any]:
        """Return when the session started, for the first turn of an old file: its lines have no times."""
        is_dated = any("timestamp" in message for message in turn.messages)
        return {} if is_dated or turn is not self.turns[0] else {"started_at": self._meta.get("timestamp")}

    def _turn(self, record: Record) -> _Turn:
        if not self.turns:
            self.turns.append(_Turn(0, record.line, self._context))
        return self.turns[-1]

    def _add_item(self, record: Record, item: dict[str, Any]) -> None:
        messages = messages_of(item)
        if not messages:
            self.not_taken[name_of_untaken(item)] += 1
            return
        role, text = messages[0]["role"], spoken_text(messages[0].get("content"))
        if (kind_of(item) or "message") == "message" and role not in {"user", "assistant"}:
            self.not_taken[f"{role} messages"] += 1
        elif (kind_of(item) or "message") == "message" and role == "user":
            self._add_prompt(record, text, messages[0])
        else:
            turn = self._turn(record)
            self._add_signs(messages)
            timed = [{**_time(record.content), **message} for message in messages]
            turn.messages += timed
            turn.uncounted += [message for message in timed if message["role"] == "assistant"]
            turn.size += record.size

    def _add_prompt(self, record: Record, text: str, message: Message) -> None:
        """Start a turn, unless the text is the program's, or the message was given as an event already."""
        if _WRITTEN.match(text):
            self.not_taken["messages that the program wrote for the user"] += 1
            return
        if all(kind_of(part) == "input_text" for part in list_of(message["content"])):
            message = {**message, "content": text}
        latest = self.turns[-1] if self.turns else None
        if latest is not None and latest.number and len(latest.messages) == 1 and latest.text == text.strip():
            latest.messages = [{**_time(record.content), **message}]
            return
        number = latest.number + 1 if latest is not None else 1
        self.turns.append(_Turn(number, record.line, self._context, text.strip(), size=record.size))
        self.turns[-1].messages.append({**_time(record.content), **message})

    def _add_event(self, record: Record, event: dict[str, Any]) -> None:
        kind = kind_of(event)
        if kind == "user_message" and isinstance(event.get("message"), str):
            self._add_prompt_event(record, event["message"])
        elif kind == "token_count":
            self._count_tokens(dict_of(event.get("info")))
        elif kind in _ENDS and event.get(_ENDS[kind]) is not None:
            self._signs[text_in(event.get("call_id"))] = {_ENDS[kind]: event[_ENDS[kind]]}
        elif kind == "turn_aborted":
            self._turn(record).is_aborted = True
        elif kind not in _REPEATED:
            self.not_taken[f"{kind} events"] += 1

    def _add_prompt_event(self, record: Record, text: str) -> None:
        """Start a turn with the message of an event, unless an item has it."""
        latest = self.turns[-1] if self.turns else None
        if latest is None or not latest.text or text.strip() not in latest.text or len(latest.messages) > 1:
            self._add_prompt(record, text, {"role": "user", "content": text})

    def _count_tokens(self, info: dict[str, Any]) -> None:
        """Set the usage of the latest response, in its first message with a call.

        A count that is written again has the same total.
        """
        total, usage = info.get("total_token_usage"), info.get("last_token_usage")
        if not isinstance(usage, dict) or (total is not None and total == self._total):
            return
        self._total = total
        waiting = self.turns[-1].uncounted if self.turns else []
        if not waiting:
            self.not_taken["counts of tokens without a response"] += 1
            return
        next((message for message in waiting if list(parts_of(message, "tool_use"))), waiting[0])["usage"] = usage
        waiting.clear()

    def _add_signs(self, messages: list[Message]) -> None:
        """Set the exit codes of results: from events, from a JSON object, or from the lines before the output."""
        for part in (part for message in messages for part in parts_of(message, "tool_result")):
            text = part.get("content")
            part |= self._signs.pop(text_in(part.get("tool_use_id")), {})
            if isinstance(text, str) and text.startswith('{"output":'):
                part |= _unwrapped(text)
            elif isinstance(text, str) and (found := _EXIT_CODE.search(text.partition("\nOutput:")[0])):
                part["exit_code"] = int(found[1])


def _unwrapped(text: str) -> Message:
    """Return the output and the exit code of a result that is a JSON object."""
    try:
        values = dict_of(json.loads(text))
    except (ValueError, RecursionError):
        return {}
    code = dict_of(values.get("metadata")).get("exit_code")
    exit_code = {"exit_code": code} if isinstance(code, int) else {}
    return {"content": values["output"], **exit_code} if isinstance(values.get("output"), str) else exit_code


def _parent(source: object) -> object:
    """Return the ID of the session that started this one as a subagent."""
    spawn = dict_of(dict_of(dict_of(source).get("subagent")).get("thread_spawn"))
    return spawn.get("parent_thread_id")


def _time(line: dict[str, Any]) -> Message:
    return {"timestamp": line["timestamp"]} if line.get("timestamp") is not None else {}
