"""Small files in the shapes that programs write, made here after public examples of each."""

from __future__ import annotations

import json
from typing import Any

Json = dict[str, Any]

SESSION = "55550000-0000-4000-8000-000000000001"


def lines(*records: object) -> bytes:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records).encode()


def document(value: object) -> bytes:
    return json.dumps(value, indent=1, ensure_ascii=False).encode()


def claude(number: int, kind: str, content: Any, **fields: Any) -> Json:
    """A line of a session; `message_id` and `usage` are those of a response."""
    message: Json = {"role": kind, "content": content}
    if kind == "assistant":
        message |= {"id": fields.pop("message_id", f"msg_{number}"), "type": "message", "model": "claude-x"}
        message["usage"] = fields.pop("usage", {"input_tokens": 10, "output_tokens": number})
    return {
        "type": kind, "uuid": f"00000000-0000-4000-8000-{number:012}", "parentUuid": None, "isSidechain": False,
        "userType": "external", "cwd": "/srv/app", "gitBranch": "main", "sessionId": SESSION, "version": "2.1.0",
        "timestamp": f"2026-06-15T10:00:{number:02}.000Z", "message": message, **fields,
    }  # fmt: skip


def use(name: str, call_id: str, **arguments: Any) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def result(call_id: str, content: Any, **fields: Any) -> Json:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


def text(words: str) -> Json:
    return {"type": "text", "text": words}


USAGE = {"input_tokens": 3, "cache_creation_input_tokens": 900, "cache_read_input_tokens": 50, "output_tokens": 25}
CLAUDE_CODE = [
    {"type": "file-history-snapshot", "messageId": "x", "snapshot": {}},
    claude(1, "user", "Fix the login"),
    claude(2, "user", "<system-reminder>be kind</system-reminder>", isMeta=True),
    claude(3, "assistant", [{"type": "thinking", "thinking": "Hm.", "signature": "x"}], message_id="m1", usage=USAGE),
    claude(4, "assistant", [text("I look.")], message_id="m1", usage=USAGE),
    claude(5, "assistant", [use("Bash", "t1", command="pytest")], message_id="m1", usage=USAGE),
    claude(6, "assistant", [use("Read", "t2", path="a.py")], message_id="m1", usage=USAGE),
    claude(7, "user", [result("t1", "Exit code 1\nfailed", is_error=True)], toolUseResult="Error: failed"),
    claude(8, "user", [result("t2", "Error: is only what the file says")], toolUseResult={"type": "text", "file": {}}),
    claude(9, "assistant", [use("Task", "t3", prompt="Survey src", subagent_type="general-purpose")]),
    claude(10, "user", "Survey src", isSidechain=True, agentId="a1"),
    claude(11, "assistant", [use("Grep", "t4", pattern="x")], isSidechain=True, agentId="a1"),
    claude(12, "user", [result("t4", "3 files")], isSidechain=True, agentId="a1"),
    claude(13, "assistant", [text("Three files.")], isSidechain=True, agentId="a1"),
    claude(14, "user", [result("t3", [text("Three files.")])], toolUseResult={"agentId": "a1", "status": "completed"}),
    claude(15, "assistant", [text("It is fixed.")]),
    claude(16, "user", "<command-name>/clear</command-name>\n<command-args></command-args>"),
    claude(17, "user", "<local-command-stdout></local-command-stdout>"),
    claude(18, "user", [text("And the logout, please")]),
    claude(19, "assistant", [use("Edit", "t5", file_path="b.py")]),
    claude(20, "user", [text("[Request interrupted by user for tool use]")]),
    claude(21, "user", "<command-message>review is running</command-message>\n<command-name>/review</command-name>"
           "\n<command-args>12</command-args>"),
    claude(22, "user", [text("Review the pull request.")], isMeta=True),
    claude(23, "assistant", [text("Looks good.")]),
    {"type": "system", "subtype": "turn_duration", "uuid": "s1", "sessionId": SESSION, "content": "x"},
    {"type": "summary", "summary": "Login", "leafUuid": "x"},
]  # fmt: skip


def codex(number: int, kind: str, **payload: Any) -> Json:
    return {"timestamp": f"2026-01-02T03:04:{number:02}.000Z", "type": kind, "payload": payload}


def spoken(role: str, words: str) -> Json:
    part = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": part, "text": words}]}


def tokens(total: int, last: int) -> Json:
    usage = {"input_tokens": last - 5, "cached_input_tokens": 1, "output_tokens": 5, "total_tokens": last}
    whole = {"input_tokens": total - 5, "cached_input_tokens": 1, "output_tokens": 5, "total_tokens": total}
    return {"type": "token_count", "info": {"total_token_usage": whole, "last_token_usage": usage}}


CODEX = [
    codex(5, "session_meta", id="11111111-1111-4111-8111-111111111111", cwd="/srv/app", cli_version="0.9",
          originator="codex_cli_rs", git={"branch": "main", "commit_hash": "abc"}),
    codex(6, "turn_context", cwd="/srv/app", model="gpt-x", approval_policy="never"),
    codex(6, "response_item", **spoken("developer", "You are a coder.")),
    codex(6, "response_item", **spoken("user", "<environment_context>\n<cwd>/srv/app</cwd></environment_context>")),
    codex(7, "event_msg", type="user_message", message="List the files."),
    codex(7, "response_item", **spoken("user", "List the files.")),
    codex(8, "response_item", type="reasoning", summary=[], encrypted_content="x"),
    codex(9, "response_item", type="function_call", name="exec_command", arguments='{"cmd": "ls"}', call_id="c1"),
    codex(9, "event_msg", **tokens(105, 105)),
    codex(9, "event_msg", **tokens(105, 105)),
    codex(10, "response_item", type="function_call_output", call_id="c1",
          output='{"output": "no such file", "metadata": {"exit_code": 2, "duration_seconds": 0.1}}'),
    codex(11, "response_item", type="custom_tool_call", name="apply_patch", input="*** Begin Patch", call_id="c2"),
    codex(12, "response_item", type="custom_tool_call_output", call_id="c2",
          output=[{"type": "output_text", "text": "Done!"}]),
    codex(13, "event_msg", **tokens(300, 195)),
    codex(14, "event_msg", type="agent_message", message="There are two."),
    codex(14, "response_item", **spoken("assistant", "There are two.")),
    codex(15, "event_msg", type="user_message", message="Run the tests."),
    codex(16, "response_item", type="function_call", name="exec_command", arguments='{"cmd": "pytest"}', call_id="c3"),
    codex(17, "response_item", type="function_call_output", call_id="c3",
          output="Chunk ID: 1\nWall time: 0.1 seconds\nProcess exited with code 1\nOutput:\n1 failed"),
    codex(18, "response_item", type="local_shell_call", call_id="c4", status="completed",
          action={"type": "exec", "command": ["ls"]}),
    codex(18, "event_msg", type="exec_command_end", call_id="c4", exit_code=3),
    codex(19, "response_item", type="function_call_output", call_id="c4", output="gone"),
    codex(20, "event_msg", type="turn_aborted", reason="interrupted"),
    codex(21, "future_record", safe="ignored"),
]  # fmt: skip

CODEX_LEGACY = [
    {"id": "44444444-4444-4444-8444-444444444444", "timestamp": "2026-01-04T05:06:07.000Z"},
    spoken("user", "Open the session."),
    {"type": "function_call", "name": "shell", "arguments": '{"command": ["ls"]}', "call_id": "k1"},
    {"type": "function_call_output", "call_id": "k1", "output": '{"output": "x", "metadata": {"exit_code": 0}}'},
    spoken("assistant", "It is open."),
]

ATIF = {
    "schema_version": "ATIF-v1.7", "session_id": "025B810F", "trajectory_id": "t-1",
    "agent": {"name": "harbor-agent", "version": "1.0.0", "model_name": "gemini-x"},
    "extra": {"verifier_result": {"rewards": {"reward": 1.0}}},
    "final_metrics": {"total_prompt_tokens": 1120, "total_completion_tokens": 124},
    "steps": [
        {"step_id": 1, "timestamp": "2025-10-11T10:30:00Z", "source": "system", "message": "You trade."},
        {"step_id": 2, "timestamp": "2025-10-11T10:30:01Z", "source": "user", "message": "What is the price?"},
        {"step_id": 3, "timestamp": "2025-10-11T10:30:02Z", "source": "agent", "message": "I search.",
         "reasoning_content": "Two points.",
         "tool_calls": [{"tool_call_id": "p", "function_name": "search", "arguments": {"metric": "price"}},
                        {"tool_call_id": "v", "function_name": "search", "arguments": {"metric": "volume"}}],
         "observation": {"results": [{"source_call_id": "p", "content": "185"},
                                     {"source_call_id": "v", "content": "Error: no data", "extra": {"exit_code": 1}}]},
         "metrics": {"prompt_tokens": 520, "completion_tokens": 80, "cached_tokens": 200, "cost_usd": 0.1}},
        {"step_id": 4, "timestamp": "2025-10-11T10:30:05Z", "source": "agent", "message": "It is 185.",
         "metrics": {"prompt_tokens": 600, "completion_tokens": 44, "logprobs": [-0.1]}},
    ],
    "subagent_trajectories": [
        {"schema_version": "ATIF-v1.7", "session_id": "025B810F", "trajectory_id": "t-2", "agent": {"name": "sub"},
         "steps": [{"step_id": 1, "source": "user", "message": "Look it up"},
                   {"step_id": 2, "source": "agent", "message": "",
                    "tool_calls": [{"tool_call_id": "q", "function_name": "fetch", "arguments": {}}]}]},
    ],
}  # fmt: skip

ANTHROPIC = [
    {"model": "claude-x", "system": "Be brief.", "messages": [
        {"role": "user", "content": "List the files"},
        {"role": "assistant", "content": [text("Looking."), use("Bash", "u1", command="ls"), use("Read", "u2")],
         "usage": {"input_tokens": 40, "output_tokens": 2}},
        {"role": "user", "content": [result("u1", "denied", is_error=True), result("u2", [text("ok")])]},
        {"role": "assistant", "content": [text("I may not.")]}]},
]  # fmt: skip

RESPONSES = {
    "id": "resp_1", "object": "response", "model": "gpt-x", "status": "completed", "created_at": 1780000000,
    "input": [{"role": "user", "content": "Weather in Oslo?"},
              {"type": "function_call", "call_id": "w1", "name": "weather", "arguments": '{"city": "Oslo"}'},
              {"type": "function_call_output", "call_id": "w1", "output": "Error: no such city"}],
    "output": [{"type": "reasoning", "id": "rs_1", "summary": []},
               {"type": "web_search_call", "id": "ws_1", "action": {"type": "search", "query": "Oslo"}},
               {"type": "mcp_call", "id": "mcp_1", "name": "ask", "arguments": "{}", "server_label": "s",
                "output": None, "error": "refused"},
               {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Cold."}]}],
    "usage": {"input_tokens": 30, "output_tokens": 12, "total_tokens": 42},
}  # fmt: skip

RESPONSE_ITEMS = [
    {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Weather?"}]},
    {"type": "function_call", "call_id": "w1", "name": "weather", "arguments": "{}"},
    {"type": "function_call_output", "call_id": "w1", "output": "cold"},
]

LANGCHAIN_CALLS = [{"name": "look", "args": {"a": 1}, "id": "l1", "type": "tool_call"}]
LANGCHAIN_USAGE = {"input_tokens": 7, "output_tokens": 3, "total_tokens": 10}
LANGCHAIN_DICTS = [
    {"type": "human", "data": {"content": "Look at it", "type": "human"}},
    {"type": "ai", "data": {"content": [text("I look."), use("look", "l1", a=1)], "tool_calls": LANGCHAIN_CALLS,
                            "usage_metadata": LANGCHAIN_USAGE, "response_metadata": {"model_name": "m"}}},
    {"type": "tool", "data": {"content": "broken", "tool_call_id": "l1", "status": "error", "name": "look"}},
    {"type": "ai", "data": {"content": "It is broken.", "tool_calls": []}},
]  # fmt: skip
LANGCHAIN_DUMPS = {"messages": [{"type": one["type"], **one["data"]} for one in LANGCHAIN_DICTS]}
LANGCHAIN_CONSTRUCTORS = [
    {"lc": 1, "type": "constructor", "id": ["langchain", "schema", "messages", name], "kwargs": one["data"]}
    for name, one in zip(("HumanMessage", "AIMessage", "ToolMessage", "AIMessage"), LANGCHAIN_DICTS, strict=True)
]

SWE_HISTORY = [
    {"role": "system", "content": "SETTING", "agent": "main", "message_type": "system_prompt"},
    {"role": "user", "content": "A demonstration", "agent": "main", "is_demo": True, "message_type": "demonstration"},
    {"role": "user", "content": "ISSUE: SyntaxError", "agent": "main", "message_type": "observation"},
    {"role": "assistant", "content": "I search.", "thought": "I search.", "action": "find_file a.py", "agent": "main",
     "tool_calls": [{"function": {"arguments": '{"file_name":"a.py"}', "name": "find_file"}, "id": "s1",
                     "type": "function"}], "message_type": "action"},
    {"role": "tool", "content": "Found 1", "agent": "main", "tool_call_ids": ["s1"], "message_type": "observation"},
]  # fmt: skip
SWE_AGENT = {
    "environment": "main", "history": SWE_HISTORY,
    "trajectory": [
        {"action": "find_file a.py", "observation": "Found 1", "response": "I search.", "thought": "I search.",
         "execution_time": 0.28, "state": {"open_file": "n/a"}},
        {"action": "python a.py", "observation": "Traceback (most recent call last):\n  x\nKeyError: 1",
         "response": "Run it.", "thought": "Run it.", "execution_time": 0.5, "state": {}},
        {"action": "submit", "observation": "", "response": "", "thought": "", "state": {}},
    ],
    "info": {"submission": "diff", "exit_status": "submitted", "edited_files30": "x",
             "model_stats": {"tokens_sent": 7, "tokens_received": 2, "api_calls": 3}},
    "replay_config": json.dumps({"agent": {"model": {"name": "gpt-x"}},
                                 "problem_statement": {"text": "Fix the SyntaxError", "type": "text"}}),
}  # fmt: skip

MINI_TEXT = [
    {"role": "system", "content": "One action a message."},
    {"role": "user", "content": "Please solve this issue: hello"},
    {"role": "assistant", "content": "First:\n\n```bash\ncat a.py\n```"},
    {"role": "user", "content": "<returncode>1</returncode>\n<output>\ncat: a.py: No such file\n</output>"},
    {"role": "assistant", "content": "Two blocks:\n```bash\nls\n```\n```bash\npwd\n```"},
    {"role": "user", "content": "Please always provide EXACTLY ONE action"},
    {"role": "assistant", "content": "So:\n```mswea_bash_command\nls\n```"},
    {"role": "user", "content": "<returncode>0</returncode>\n<output>\nb.py\n</output>"},
]
MINI_CALLS = {
    "info": {"exit_status": "LimitsExceeded", "submission": "", "model_stats": {"api_calls": 1}, "mini_version": "2.0",
             "config": {"model": {"model_name": "gpt-x"}, "environment": {"cwd": "/testbed"}}},
    "messages": [
        {"role": "user", "content": "Fix it"},
        {"role": "assistant", "content": None,
         "tool_calls": [{"type": "function", "id": "b1",
                         "function": {"name": "bash", "arguments": '{"command": "false"}'}}],
         "extra": {"timestamp": 1780680350.0, "cost": 0.1, "actions": [{"command": "false", "tool_call_id": "b1"}],
                   "response": {"usage": {"prompt_tokens": 90, "completion_tokens": 9}}}},
        {"role": "tool", "tool_call_id": "b1", "content": "<returncode>1</returncode>\n<output>\n</output>",
         "extra": {"returncode": 1, "timestamp": 1780680357.9, "raw_output": ""}},
        {"role": "exit", "content": "", "extra": {"exit_status": "LimitsExceeded", "submission": ""}},
    ],
    "trajectory_format": "mini-swe-agent-1.1",
}  # fmt: skip

OH_RESPONSE = {
    "id": "chatcmpl-1", "model": "claude-x", "usage": {"prompt_tokens": 100, "completion_tokens": 20},
    "choices": [{"message": {"role": "assistant", "tool_calls": [
        {"id": "o1", "function": {"name": "execute_bash", "arguments": '{"command": "false"}'}},
        {"id": "o2", "function": {"name": "finish", "arguments": "{}"}}]}}],
}  # fmt: skip
OH_CALL = {"function_name": "execute_bash", "tool_call_id": "o1", "model_response": OH_RESPONSE}
OPENHANDS = [
    {"id": 0, "timestamp": "2025-01-27T22:44:56.900854", "source": "user", "message": "Run it", "action": "message",
     "args": {"content": "Run it"}},
    {"id": 1, "timestamp": "2025-01-27T22:44:57.900854", "source": "agent", "action": "recall", "args": {}},
    {"id": 2, "timestamp": "2025-01-27T22:45:13.764487", "source": "agent", "message": "", "action": "run",
     "tool_call_metadata": OH_CALL, "args": {"command": "false", "thought": "I run it."}},
    {"id": 3, "timestamp": "2025-01-27T22:45:13.801384", "source": "agent", "message": "", "cause": 2,
     "observation": "run", "tool_call_metadata": OH_CALL, "content": "", "extras": {"metadata": {"exit_code": 1}}},
    {"id": 4, "timestamp": "2025-01-27T22:45:18.405685", "source": "agent", "message": "Done.", "action": "finish",
     "tool_call_metadata": {**OH_CALL, "function_name": "finish", "tool_call_id": "o2"},
     "args": {"final_thought": "Done.", "task_completed": "true"}},
]  # fmt: skip
OPENHANDS_OUTPUT = [
    {"instance_id": "django__django-1", "instruction": "Fix the model", "metadata": {"agent_class": "CodeActAgent"},
     "history": OPENHANDS, "test_result": {"git_patch": "diff", "report": {"resolved": True}}, "error": None},
    {"instance_id": "django__django-2", "instruction": "Fix the view", "history": [[OPENHANDS[2], OPENHANDS[3]]],
     "error": "AgentStuckInLoopError: stuck\nmore"},
]  # fmt: skip


def openhands_event(number: int, kind: str, source: str = "agent", **fields: Any) -> Json:
    time = f"2026-02-26T09:53:{number:02}.650830"
    return {"id": f"11110000-0000-4000-8000-{number:012}", "timestamp": time, "source": source, "kind": kind, **fields}


OPENHANDS_V1 = [
    openhands_event(1, "SystemPromptEvent", tools=[]),
    openhands_event(2, "MessageEvent", "user", llm_message={"role": "user", "content": [text("Run it")]}),
    openhands_event(3, "ActionEvent", thought=[text("I run it.")], tool_name="terminal", tool_call_id="v1",
                    action={"command": "false", "kind": "TerminalAction"},
                    tool_call={"id": "v1", "name": "terminal", "arguments": '{"command": "false"}'}),
    openhands_event(4, "ObservationEvent", "environment", tool_name="terminal", tool_call_id="v1",
                    observation={"content": [text("no")], "is_error": False, "exit_code": 1,
                                 "kind": "TerminalObservation"}),
    openhands_event(5, "ActionEvent", thought=[], tool_name="finish", tool_call_id="v2", action={"message": "Done"}),
    openhands_event(6, "AgentErrorEvent", tool_name="finish", tool_call_id="v2", error="no such tool"),
]  # fmt: skip


def otlp(**values: Any) -> list[Json]:
    """Attributes as OTLP writes them."""
    kinds = {str: "stringValue", int: "intValue", bool: "boolValue", float: "doubleValue"}
    return [
        {"key": name, "value": {kinds[type(value)]: str(value) if type(value) is int else value}}
        for name, value in ((name.replace("__", "."), value) for name, value in values.items())
    ]


def span(number: int, name: str, seconds: int, attributes: list[Json], *, trace: str = "t" * 32, **more: Any) -> Json:
    start = 1_780_000_000_000_000_000 + number * 1_000_000_000
    return {"traceId": trace, "spanId": f"{number:016x}", "parentSpanId": f"{1:016x}" if number > 1 else "",
            "name": name, "kind": 1, "startTimeUnixNano": str(start), "status": {},
            "endTimeUnixNano": str(start + seconds * 1_000_000_000), "attributes": attributes, **more}  # fmt: skip


OTEL_CALL = {"type": "tool_call", "id": "g1", "name": "weather", "arguments": {"city": "Oslo"}}
OTEL_ASKED = {"role": "user", "parts": [{"type": "text", "content": "Weather in Oslo?"}]}
OTEL_CALLED = {"role": "assistant", "parts": [OTEL_CALL]}
OTEL_ANSWERED = {"role": "tool", "parts": [{"type": "tool_call_response", "id": "g1", "response": "cold"}]}
OTEL_SPANS = [
    span(1, "invoke_agent a", 9, otlp(gen_ai__operation__name="invoke_agent", gen_ai__agent__name="a",
                                      gen_ai__conversation__id="conv-1")),
    span(2, "chat gpt-x", 1, otlp(
        gen_ai__operation__name="chat", gen_ai__request__model="gpt-x", gen_ai__usage__input_tokens=50,
        gen_ai__usage__output_tokens=8, gen_ai__input__messages=json.dumps([OTEL_ASKED]),
        gen_ai__output__messages=json.dumps([{**OTEL_CALLED, "finish_reason": "tool_call"}]))),
    span(4, "execute_tool weather", 1, otlp(gen_ai__operation__name="execute_tool", gen_ai__tool__name="weather",
                                            gen_ai__tool__call__id="g1", error__type="TimeoutError"),
         status={"code": 2, "message": "no connection"}),
    span(6, "chat gpt-x", 1, otlp(
        gen_ai__operation__name="chat", gen_ai__request__model="gpt-x", gen_ai__usage__input_tokens=70,
        gen_ai__usage__output_tokens=9,
        gen_ai__input__messages=json.dumps([OTEL_ASKED, OTEL_CALLED, OTEL_ANSWERED]),
        gen_ai__output__messages=json.dumps([{"role": "assistant", "parts": [{"type": "text", "content": "Cold."}]}]))),
    span(20, "GET /", 1, otlp(http__method="GET"), trace="f" * 32),
]  # fmt: skip
OTEL = {
    "resourceSpans": [{"resource": {"attributes": otlp(service__name="agent")}, "scopeSpans": [{"spans": OTEL_SPANS}]}]
}

OPENINFERENCE_SPANS = [
    span(1, "agent", 9, otlp(openinference__span__kind="AGENT", input__value="Weather in Oslo?")),
    span(2, "llm", 1, [
        *otlp(openinference__span__kind="LLM", llm__model_name="gpt-x", llm__token_count__prompt=50,
              llm__token_count__completion=8),
        *[{"key": key, "value": {"stringValue": value}} for key, value in {
            "llm.input_messages.0.message.role": "user",
            "llm.input_messages.0.message.content": "Weather in Oslo?",
            "llm.output_messages.0.message.role": "assistant",
            "llm.output_messages.0.message.tool_calls.0.tool_call.id": "i1",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.name": "weather",
            "llm.output_messages.0.message.tool_calls.0.tool_call.function.arguments": '{"city": "Oslo"}'}.items()]]),
    span(4, "weather", 1, otlp(openinference__span__kind="TOOL", tool__name="weather", tool_call__id="i1",
                               input__value='{"city": "Oslo"}', output__value="cold")),
]  # fmt: skip
OPENINFERENCE = {"resourceSpans": [{"scopeSpans": [{"spans": OPENINFERENCE_SPANS}]}]}

SHAREGPT = [
    {"system": "Be brief.", "tools": "[]", "conversations": [
        {"from": "human", "value": "Look at it"},
        {"from": "function_call", "value": '{"name": "look", "arguments": {"a": 1}}'},
        {"from": "observation", "value": "Error: too dark"},
        {"from": "gpt", "value": "It is dark."}]},
]  # fmt: skip

FILES: dict[str, tuple[str, bytes]] = {
    "claude-code": ("claude-code", lines(*CLAUDE_CODE)),
    "codex": ("codex", lines(*CODEX)),
    "codex-legacy": ("codex", lines(*CODEX_LEGACY)),
    "atif": ("atif", document(ATIF)),
    "anthropic": ("anthropic", lines(*ANTHROPIC)),
    "responses": ("openai-responses", document(RESPONSES)),
    "response-items": ("openai-responses", document(RESPONSE_ITEMS)),
    "langchain-dicts": ("langchain", document(LANGCHAIN_DICTS)),
    "langchain-dumps": ("langchain", lines(LANGCHAIN_DUMPS)),
    "langchain-constructors": ("langchain", lines(*LANGCHAIN_CONSTRUCTORS)),
    "swe-agent": ("swe-agent", document(SWE_AGENT)),
    "swe-agent-demo": ("swe-agent", document({"history": SWE_HISTORY})),
    "mini-text": ("mini-swe-agent", document(MINI_TEXT)),
    "mini-calls": ("mini-swe-agent", document(MINI_CALLS)),
    "openhands": ("openhands", document(OPENHANDS)),
    "openhands-output": ("openhands", lines(*OPENHANDS_OUTPUT)),
    "openhands-v1": ("openhands", lines(*OPENHANDS_V1)),
    "otel": ("otel", document(OTEL)),
    "otel-spans": ("otel", lines(*OTEL_SPANS)),
    "openinference": ("otel", document(OPENINFERENCE)),
    "sharegpt": ("sharegpt", lines(*SHAREGPT)),
}
"""Each file with the format that it is of."""
