"""Events of OpenHands: an array, lines, or the `history` of a line of `output.jsonl`; an episode each.

An action of the agent that calls a tool is a step, `finish` too. Events of version 1 have a `kind`, those of version 0
an `action` or an `observation`. The outcome is that of an evaluation (`resolved`) or an `error` of the run; what the
agent says when it finishes is no outcome.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.models import Failure, Outcome, Success

from ..json_records import Record
from ..messages import Message, text_of
from ..run import Item, NotTaken, Run, task_without_prompt
from .records import converted, grouped
from .values import dict_of, kind_of, list_of, text_in

NAME = "openhands"
TITLE = "OpenHands events"

_KINDS = {
    "ActionEvent", "ObservationEvent", "MessageEvent", "SystemPromptEvent", "AgentErrorEvent", "UserRejectObservation",
    "ConversationStateUpdateEvent",
}  # fmt: skip
_NO_TOOLS = {"system", "recall", "change_agent_state", "null", "start", "condensation", "condensation_request"}
_NO_RESULTS = {"agent_state_changed", "null", "recall", "agent_condensation", "agent_think"}
_DETAILS = {"thought", "impl_source", "confirmation_state", "security_risk", "translated_ipython_code"}


def matches(content: dict[str, Any]) -> bool:
    """Return whether the object is an event, or has a history of them."""
    events = [dict_of(event) for pair in list_of(content.get("history"))[:2] for event in _flat(pair)]
    return _is_event(content) or (bool(events) and any(map(_is_event, events)))


def runs(records: Iterable[Record]) -> Iterator[Item]:
    """Yield a run for each history, and for each list of events."""
    for one in grouped(records, _is_event):
        if isinstance(one, list):
            content = {"history": [record.content for record in one]}
            one = Record(one[0].line, content, "", sum(record.size for record in one))
        yield from converted([one], _runs_of)


def _flat(item: object) -> list[Any]:
    """Return the events of an item of a history: old versions write pairs of an action and its observation."""
    return item if isinstance(item, list) else [item]


def _is_event(content: dict[str, Any]) -> bool:
    is_old = "source" in content and ("action" in content or "observation" in content)
    return text_in(content.get("kind")) in _KINDS or (is_old and ("id" in content or "timestamp" in content))


def _runs_of(record: Record) -> Iterator[Item]:
    values = record.content
    events = [event for item in list_of(values.get("history")) for event in _flat(item)]
    if not events:
        raise ValidationError("history", "a list of events", values.get("history"))
    run = Run(NAME, record.line, record=values, size=record.size)
    first = dict_of(events[0])
    run.key = text_in(first.get("id")) if "kind" in first and "instance_id" not in values else ""
    reader = _Reader(run)
    for index, event in enumerate(events):
        if not isinstance(event, dict):
            raise ValidationError(f"history.{index}", "an event, which is an object", event)
        reader.add(event)
    if not run.messages:
        yield NotTaken(run.not_taken)
        return
    has_prompt = any(message["role"] == "user" and isinstance(message["content"], str) for message in run.messages)
    run.task = text_in(values.get("instruction")) or ("" if has_prompt else task_without_prompt(run.messages))
    run.outcome = _outcome(values)
    metrics, details = dict_of(values.get("metrics")), dict_of(values.get("metadata"))
    run.metadata = {
        "instance_id": values.get("instance_id"),
        "model": dict_of(details.get("llm_config")).get("model") or reader.model,
        "agent": details.get("agent_class"),
        "agent_version": details.get("agent_version"),
        "git_patch": dict_of(values.get("test_result")).get("git_patch") or values.get("git_patch"),
        "error": values.get("error"),
        "task_completed": reader.task_completed,
        "accumulated_cost": metrics.get("accumulated_cost"),
        "accumulated_token_usage": metrics.get("accumulated_token_usage"),
    }
    yield run


def _outcome(values: dict[str, Any]) -> Outcome | None:
    tested = dict_of(values.get("test_result"))
    reports = (dict_of(values.get("report")), dict_of(tested.get("report")), tested, values)
    resolved = next((report["resolved"] for report in reports if isinstance(report.get("resolved"), bool)), None)
    if resolved is not None:
        words = f"resolved: {str(resolved).lower()}"
        return Success(verdict=words) if resolved else Failure(reason=words)
    error = text_in(values.get("error")).strip()
    return Failure(reason=error.splitlines()[0], error_details=error) if error else None


class _Reader:
    """Converts events into the messages of a run."""

    def __init__(self, run: Run) -> None:
        self.model: object = None
        self.task_completed: object = None
        self._run = run
        self._call_ids: dict[str, object] = {}
        self._responses: set[str] = set()

    def add(self, event: dict[str, Any]) -> None:
        """Add one event."""
        if "kind" in event:
            self._add_new(event)
        elif "action" in event:
            self._add_action(event)
        elif "observation" in event:
            self._add_observation(event)
        else:
            self._run.not_taken["events without an action or observation"] += 1

    def _append(self, event: dict[str, Any], role: str, content: object, **fields: object) -> None:
        time = {"timestamp": event["timestamp"]} if event.get("timestamp") is not None else {}
        self._run.messages.append({"role": role, **time, "content": content, **fields})

    def _add_action(self, event: dict[str, Any]) -> None:
        action, arguments = text_in(event.get("action")), dict_of(event.get("args"))
        source = event.get("source")
        if action == "message":
            text = text_in(arguments.get("content")) or text_in(event.get("message"))
            self._append(event, "user" if source == "user" else "assistant", text)
        elif action in _NO_TOOLS or (source != "agent" and not event.get("tool_call_metadata")):
            self._run.not_taken[f"{action!r} actions"] += 1
        else:
            self._add_call(event, action, arguments)

    def _add_call(self, event: dict[str, Any], action: str, arguments: dict[str, Any]) -> None:
        details = dict_of(event.get("tool_call_metadata"))
        response = dict_of(details.get("model_response"))
        call_id = details.get("tool_call_id") or f"event-{event.get('id')}"
        self._call_ids[str(event.get("id"))] = call_id
        given = _arguments_in(response, call_id)
        if given is None:
            given = {name: value for name, value in arguments.items() if name not in _DETAILS}
        text = text_in(arguments.get("thought")) or text_in(arguments.get("final_thought"))
        name = text_in(details.get("function_name")) or action
        call = {"type": "tool_use", "id": call_id, "name": name, "input": given}
        content = [{"type": "text", "text": text}, call] if text else [call]
        self._append(event, "assistant", content, **self._usage_of(response))
        if action == "finish":
            self.task_completed = arguments.get("task_completed")

    def _usage_of(self, response: dict[str, Any]) -> dict[str, Any]:
        """Return the usage of a response the first time: each of its calls is an event that repeats it."""
        self.model = self.model or response.get("model")
        response_id, usage = text_in(response.get("id")), response.get("usage")
        if not isinstance(usage, dict) or (response_id and response_id in self._responses):
            return {}
        self._responses.add(response_id)
        return {"usage": usage}

    def _add_observation(self, event: dict[str, Any]) -> None:
        kind = text_in(event.get("observation"))
        call_id = dict_of(event.get("tool_call_metadata")).get("tool_call_id") or self._call_ids.get(
            str(event.get("cause"))
        )
        if call_id is None or kind in _NO_RESULTS:
            self._run.not_taken[f"{kind!r} observations"] += 1
            return
        extras = dict_of(event.get("extras"))
        part: Message = {"type": "tool_result", "tool_use_id": call_id, "content": event.get("content")}
        code = extras.get("exit_code", dict_of(extras.get("metadata")).get("exit_code"))
        if kind in {"error", "user_rejected"}:
            part["is_error"] = True
        elif code is not None:
            part["exit_code"] = code
        self._append(event, "user", [part])

    def _add_new(self, event: dict[str, Any]) -> None:
        """Add an event of version 1."""
        kind = text_in(event.get("kind"))
        if kind == "MessageEvent":
            message = dict_of(event.get("llm_message"))
            role = "user" if event.get("source") == "user" else "assistant"
            content = message.get("content")
            is_text = all(kind_of(part) == "text" for part in list_of(content))
            self._append(event, role, text_of(content) if is_text else content)
        elif kind == "ActionEvent":
            self._add_new_call(event)
        elif kind == "ObservationEvent":
            seen = dict_of(event.get("observation"))
            self._add_new_result(event, _content_of(seen), seen)
        elif kind == "AgentErrorEvent":
            self._add_new_result(event, event.get("error"), {"is_error": True})
        elif kind == "UserRejectObservation":
            self._add_new_result(event, event.get("rejection_reason"), {"is_error": True})
        else:
            self._run.not_taken[f"{kind} events"] += 1

    def _add_new_call(self, event: dict[str, Any]) -> None:
        call = dict_of(event.get("tool_call"))
        function = dict_of(call.get("function")) or call
        call_id = event.get("tool_call_id") or call.get("id") or event.get("id")
        self._call_ids[str(event.get("id"))] = call_id
        arguments = function.get("arguments")
        if arguments is None:
            arguments = {name: value for name, value in dict_of(event.get("action")).items() if name != "kind"}
        name = text_in(event.get("tool_name")) or text_in(function.get("name")) or "unknown"
        text = text_of(event.get("thought"))
        self._run.not_taken["reasoning texts"] += bool(event.get("reasoning_content") or event.get("thinking_blocks"))
        part = {"type": "tool_use", "id": call_id, "name": name, "input": arguments}
        self._append(event, "assistant", [{"type": "text", "text": text}, part] if text else [part])

    def _add_new_result(self, event: dict[str, Any], content: object, signs: dict[str, Any]) -> None:
        call_id = event.get("tool_call_id") or self._call_ids.get(str(event.get("action_id")))
        part: Message = {"type": "tool_result", "tool_use_id": call_id, "content": content}
        part |= {name: signs[name] for name in ("is_error", "exit_code", "timeout") if signs.get(name) is not None}
        if part.get("is_error") is False and part.get("exit_code") not in (None, 0):
            del part["is_error"]  # it is about the tool; the code is about the command
        self._append(event, "user", [part])


def _arguments_in(response: dict[str, Any], call_id: object) -> object:
    """Return the arguments that the model gave; None if the response does not have the call."""
    for choice in list_of(response.get("choices")):
        for call in list_of(dict_of(dict_of(choice).get("message")).get("tool_calls")):
            if dict_of(call).get("id") == call_id:
                return dict_of(dict_of(call).get("function")).get("arguments")
    return None


def _content_of(observation: dict[str, Any]) -> object:
    names = ("content", "output", "message", "error")
    return next((observation[name] for name in names if observation.get(name)), observation.get("content"))
