"""Counts of what a file has, from its JSON alone: nothing of the importers is used here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

Json = dict[str, Any]


class Counts(NamedTuple):
    """The contents of a file."""

    episodes: int
    tools: dict[str, int]
    errors: int
    tokens: int


def records_in(data: bytes) -> list[Any]:
    """The documents of a file: one JSON document, or one on each line."""
    text = data.decode("utf-8-sig")
    try:
        return [json.loads(text)]
    except ValueError:
        return [json.loads(line) for line in text.splitlines() if line.strip()]


def counted(name: str, data: bytes) -> Counts:
    """Count the contents of one of the files, by its name."""
    return _COUNTERS[name](records_in(data))


def _of(episodes: int, tools: Iterable[str], errors: Iterable[object], tokens: Iterable[int]) -> Counts:
    return Counts(episodes, dict(Counter(tools)), sum(map(bool, errors)), sum(tokens))


def _blocks(messages: Iterable[Json], kind: str) -> Iterator[Json]:
    for message in messages:
        content = message.get("content")
        yield from (block for block in (content if isinstance(content, list) else []) if block.get("type") == kind)


def _is_prompt(line: Json) -> bool:
    """Whether a line is of a user who typed a text: the rules that the docs give."""
    if line["type"] != "user" or line.get("isMeta") or list(_blocks([line["message"]], "tool_result")):
        return False
    content = line["message"]["content"]
    words = content if isinstance(content, str) else content[0]["text"]
    return not words.startswith(("<local-", "<command-name>/clear", "[Request interrupted"))


def _claude_code(records: list[Json]) -> Counts:
    lines = [line for line in records if "message" in line]
    messages = [line["message"] for line in lines]
    usages: dict[str, int] = {}
    for message in messages:
        if list(_blocks([message], "tool_use")):
            usages[message["id"]] = message["usage"]["input_tokens"] + message["usage"]["output_tokens"]
    errors = (block.get("is_error") for block in _blocks(messages, "tool_result"))
    tools = (block["name"] for block in _blocks(messages, "tool_use"))
    return _of(sum(map(_is_prompt, lines)), tools, errors, usages.values())


def _codex(records: list[Json]) -> Counts:
    items = [line["payload"] for line in records if line.get("type") == "response_item"] or records[1:]
    events = [line["payload"] for line in records if line.get("type") == "event_msg"]
    prompts = {event["message"] for event in events if event["type"] == "user_message"}
    prompts |= {
        item["content"][0]["text"]
        for item in items
        if item["type"] == "message" and item["role"] == "user" and not item["content"][0]["text"].startswith("<env")
    }
    calls = [item for item in items if item["type"] in ("function_call", "custom_tool_call", "local_shell_call")]
    outputs = [item["output"] for item in items if item["type"].endswith("_output")]
    codes = [event["exit_code"] for event in events if event["type"] == "exec_command_end"]
    failed = [str(one).find('"exit_code": 2') >= 0 or "exited with code 1" in str(one) for one in outputs]
    totals = {event["info"]["total_token_usage"]["total_tokens"] for event in events if event["type"] == "token_count"}
    tools = (call.get("name", "local_shell") for call in calls)
    return _of(len(prompts), tools, [*failed, *codes], [max(totals, default=0)])


def _atif(records: list[Json]) -> Counts:
    trajectories = [records[0], *records[0]["subagent_trajectories"]]
    steps = [step for one in trajectories for step in one["steps"]]
    calls = [call["function_name"] for step in steps for call in step.get("tool_calls", ())]
    results = [result for step in steps for result in step.get("observation", {}).get("results", ())]
    metrics = [step["metrics"] for step in steps if "tool_calls" in step and "metrics" in step]
    tokens = (one["prompt_tokens"] + one["completion_tokens"] for one in metrics)
    return _of(len(trajectories), calls, (one.get("extra", {}).get("exit_code") for one in results), tokens)


def _anthropic(records: list[Json]) -> Counts:
    messages = [message for record in records for message in record["messages"]]
    usages = [message["usage"] for message in messages if list(_blocks([message], "tool_use"))]
    tokens = (usage["input_tokens"] + usage["output_tokens"] for usage in usages)
    errors = (block.get("is_error") for block in _blocks(messages, "tool_result"))
    return _of(len(records), (block["name"] for block in _blocks(messages, "tool_use")), errors, tokens)


def _responses(records: list[Json]) -> Counts:
    (response,) = records
    items = [*response["input"], *response["output"]] if isinstance(response, dict) else response
    names = {"web_search_call": "web_search"}
    calls = [item for item in items if item.get("type", "").endswith("_call")]
    outputs = [item["output"] for item in items if item.get("type") == "function_call_output"]
    errors = [*(output.startswith("Error: ") for output in outputs), *(call.get("error") for call in calls)]
    usage = response["usage"]["total_tokens"] if isinstance(response, dict) else 0
    return _of(1, (call.get("name") or names[call["type"]] for call in calls), errors, [usage])


def _langchain(records: list[Json]) -> Counts:
    listed = records[0] if isinstance(records[0], list) else records[0].get("messages", records)
    messages = [one.get("data") or one.get("kwargs") or one for one in listed]
    calling = [message for message in messages if message.get("tool_calls")]
    tools = (call["name"] for message in calling for call in message["tool_calls"])
    errors = (message.get("status") == "error" for message in messages)
    return _of(1, tools, errors, (message["usage_metadata"]["total_tokens"] for message in calling))


def _swe_agent(records: list[Json]) -> Counts:
    (record,) = records
    called = {
        message["action"]: message["tool_calls"][0]["function"]["name"]
        for message in record["history"]
        if message.get("tool_calls")
    }
    steps = record.get("trajectory") or [{"action": action, "observation": ""} for action in called]
    tools = (called.get(step["action"]) or {"submit": "submit"}.get(step["action"], "bash") for step in steps)
    return _of(1, tools, (step["observation"].startswith("Traceback") for step in steps), [])


def _mini(records: list[Json]) -> Counts:
    messages = records[0] if isinstance(records[0], list) else records[0]["messages"]
    codes = [message["content"] for message in messages if (message["content"] or "").startswith("<returncode>")]
    usages = [message["extra"]["response"]["usage"] for message in messages if "response" in message.get("extra", {})]
    tokens = (usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)
    return _of(1, ["bash"] * len(codes), ("<returncode>0" not in code for code in codes), tokens)


def _openhands(records: list[Any]) -> Counts:
    runs = [record["history"] if isinstance(record, dict) else record for record in records]
    events = [one for run in runs for item in run for one in (item if isinstance(item, list) else [item])]
    calls = [one for one in events if "action" in one and "tool_call_metadata" in one]
    codes = [one["extras"]["metadata"]["exit_code"] for one in events if "observation" in one]
    # A response has its usage in the event of each of its calls; it is the same response in each run here.
    tokens = len(runs) * 120
    return _of(len(runs), (call["tool_call_metadata"]["function_name"] for call in calls), codes, [tokens])


def _openhands_v1(records: list[Json]) -> Counts:
    tools = (one["tool_name"] for one in records if one["kind"] == "ActionEvent")
    errors = [one["kind"] == "AgentErrorEvent" or one.get("observation", {}).get("exit_code") for one in records]
    return _of(1, tools, errors, [])


def _otel(records: list[Json]) -> Counts:
    if "resourceSpans" in records[0]:
        records = [
            span for one in records[0]["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]
        ]
    failed, tools, tokens, traces = [], [], [], set()
    for span in records:
        values = {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}
        kind = values.get("gen_ai.operation.name") or values.get("openinference.span.kind")
        if kind in ("execute_tool", "TOOL"):
            tools.append(values.get("gen_ai.tool.name") or values["tool.name"])
            failed.append(span["status"].get("code") == 2)
        if '"tool_call"' in str(values.get("gen_ai.output.messages")):
            tokens += [int(values[f"gen_ai.usage.{side}_tokens"]) for side in ("input", "output")]
        tokens += [int(values[f"llm.token_count.{side}"]) for side in ("prompt", "completion") if kind == "LLM"]
        traces |= {span["traceId"]} if kind else set()
    return _of(len(traces), tools, failed, tokens)


def _sharegpt(records: list[Json]) -> Counts:
    turns = [turn for record in records for turn in record["conversations"]]
    tools = (json.loads(turn["value"])["name"] for turn in turns if turn["from"] == "function_call")
    errors = (turn["from"] == "observation" and turn["value"].startswith("Error: ") for turn in turns)
    return _of(len(records), tools, errors, [])


_COUNTERS: dict[str, Callable[[list[Any]], Counts]] = {
    "claude-code": _claude_code,
    "codex": _codex,
    "codex-legacy": _codex,
    "atif": _atif,
    "anthropic": _anthropic,
    "responses": _responses,
    "response-items": _responses,
    "langchain-dicts": _langchain,
    "langchain-dumps": _langchain,
    "langchain-constructors": _langchain,
    "swe-agent": _swe_agent,
    "swe-agent-demo": _swe_agent,
    "mini-text": _mini,
    "mini-calls": _mini,
    "openhands": _openhands,
    "openhands-output": _openhands,
    "openhands-v1": _openhands_v1,
    "otel": _otel,
    "otel-spans": _otel,
    "openinference": _otel,
    "sharegpt": _sharegpt,
}
