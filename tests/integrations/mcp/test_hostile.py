"""Hostile input: each is answered with an error that names the problem, changes nothing, and the server lives."""

from __future__ import annotations

import json
import subprocess
from typing import Any
from uuid import uuid4

import mcp
import pytest

import memory_storage as ms

from .clients import TOKEN, command, environment, error, fields, http_server, in_process, over_http, over_stdio, run

_DEEP: Any = 1
for _ in range(120):
    _DEEP = {"a": _DEEP}

OWN, FOREIGN = "{own}", "{foreign}"
OWN_PATTERN, FOREIGN_PATTERN = "{own pattern}", "{foreign pattern}"
STEP = {"episode_id": OWN, "tool": "x"}
DONE = {"episode_id": OWN, "outcome": "success", "verdict": "x"}
NEW = {"task": "x"}
PLAYBOOK = {"name": "x", "steps": [{"action": "x"}]}

HOSTILE: list[tuple[str, dict[str, Any], str]] = [
    # Types
    ("recall", {}, "task"),
    ("recall", {"task": 5}, "task"),
    ("recall", {"task": None}, "task"),
    ("recall", {"task": ["x"]}, "task"),
    ("recall", {"task": {"x": 1}}, "task"),
    ("recall", {"task": "x", "k": "5"}, "k"),
    ("recall", {"task": "x", "k": True}, "k"),
    ("recall", {"task": "x", "k": 1.5}, "k"),
    ("recall", {"task": "x", "k": [5]}, "k"),
    ("start_episode", {**NEW, "tags": {"a": 1}}, "tags"),
    ("start_episode", {**NEW, "tags": [1]}, "tags"),
    ("record_step", {**STEP, "parameters": [1]}, "parameters"),
    ("record_step", {**STEP, "parameters": "not JSON"}, "parameters"),
    ("record_step", {**STEP, "output": {"a": 1}}, "output"),
    ("record_step", {**STEP, "latency_ms": "5"}, "latency_ms"),
    ("complete_episode", {**DONE, "reward": "high"}, "reward"),
    ("complete_episode", {**DONE, "reward": True}, "reward"),
    ("complete_episode", {**DONE, "lessons": [None]}, "lessons"),
    ("get_episode", {"episode_id": 7}, "episode_id"),
    # Ranges
    ("recall", {"task": "x", "k": -1}, "k"),
    ("recall", {"task": "x", "k": 0}, "k"),
    ("recall", {"task": "x", "k": 10**30}, "k"),
    ("recall", {"task": "x", "budget_tokens": -5}, "budget_tokens"),
    ("recall", {"task": "x", "budget_tokens": 10**9}, "budget_tokens"),
    ("recall", {"task": ""}, "task"),
    ("recall", {"task": " \n"}, "task"),
    ("recall", {"task": "x" * 10_001}, "task"),
    ("search_episodes", {"k": 21}, "k"),
    ("get_episode", {"episode_id": OWN, "from_step": 0}, "from_step"),
    ("get_episode", {"episode_id": OWN, "step": -1}, "step"),
    ("get_episode", {"episode_id": OWN, "step": 999}, "step"),
    ("get_episode", {"episode_id": OWN, "offset": 5}, "offset"),
    ("get_episode", {"episode_id": OWN, "step": 2**63}, "step"),
    ("handoff", {"episode_id": OWN, "max_chars": 199}, "max_chars"),
    ("handoff", {"episode_id": "%"}, "prefix"),
    ("record_step", {**STEP, "latency_ms": -1}, "latency_ms"),
    ("record_step", {**STEP, "latency_ms": 2**64}, "latency_ms"),
    ("learn_patterns", {"min_episodes": 0}, "min_episodes"),
    ("complete_episode", {**DONE, "verdict": ""}, "verdict"),
    ("complete_episode", {**DONE, "reward": 10**400}, "reward"),
    # Sizes
    ("start_episode", {"task": "x" * 10_001}, "task"),
    ("start_episode", {**NEW, "tags": [f"tag-{number}" for number in range(101)]}, "tags"),
    ("start_episode", {**NEW, "tags": ["x"]}, "tags"),
    ("start_episode", {**NEW, "tags": ["same", "same"]}, "tags"),
    ("record_step", {**STEP, "output": "x" * 1_100_000}, "result"),
    ("record_step", {**STEP, "parameters": {"a": "x" * 1_100_000}}, "parameters"),
    ("record_step", {**STEP, "parameters": {"a": _DEEP, "b": {"c": float(10**300)}}, "latency_ms": -1}, "latency_ms"),
    ("complete_episode", {**DONE, "lessons": ["x"] * 51}, "lessons"),
    # Names and choices
    ("start_episode", {**NEW, "task_type": "hacking"}, "task_type"),
    ("complete_episode", {**DONE, "outcome": "great"}, "outcome"),
    ("search_episodes", {"outcome": "success' OR 1=1 --"}, "outcome"),
    ("record_step", {**STEP, "status": "fine"}, "status"),
    ("record_step", {**STEP, "status": "timeout", "output": "x"}, "output"),
    ("recall", {"task": "x", "namespace": "other"}, "namespace"),
    ("recall", {"task": "x", "self": 1}, "self"),
    ("search_episodes", {"__class__": "x"}, "__class__"),
    ("learn_patterns", {"database": "/etc/passwd"}, "database"),
    # Playbooks
    ("save_playbook", {**PLAYBOOK, "name": ""}, "name"),
    ("save_playbook", {**PLAYBOOK, "name": 5}, "name"),
    ("save_playbook", {**PLAYBOOK, "name": "x" * 201}, "name"),
    ("save_playbook", {**PLAYBOOK, "name": "a\0b"}, "NUL"),
    ("save_playbook", {"name": "x"}, "steps"),
    ("save_playbook", {**PLAYBOOK, "steps": "not JSON"}, "steps"),
    ("save_playbook", {**PLAYBOOK, "steps": ["edit"]}, "steps.0"),
    ("save_playbook", {**PLAYBOOK, "steps": [{}]}, "steps.0.action"),
    ("save_playbook", {**PLAYBOOK, "steps": [{"action": "a"}, {"action": ["b"]}]}, "steps.1.action"),
    ("save_playbook", {**PLAYBOOK, "steps": [{"action": "a", "run": "rm -rf /"}]}, "steps.0.run"),
    ("save_playbook", {**PLAYBOOK, "steps": [{"action": "a", "parameters": [1]}]}, "steps.0.parameters"),
    ("save_playbook", {**PLAYBOOK, "steps": [{"action": "a\0"}]}, "NUL"),
    ("save_playbook", {**PLAYBOOK, "steps": [{"action": "a"}] * 101}, "steps"),
    ("save_playbook", {**PLAYBOOK, "tags": ["x"]}, "tags"),
    ("save_playbook", {**PLAYBOOK, "pattern_ids": ["' OR 1=1 --"]}, "pattern_ids"),
    ("save_playbook", {**PLAYBOOK, "pattern_ids": [str(uuid4())]}, "in this namespace"),
    ("save_playbook", {**PLAYBOOK, "pattern_ids": [FOREIGN_PATTERN]}, "in this namespace"),
    ("save_playbook", {**PLAYBOOK, "playbook_id": FOREIGN_PATTERN}, "in this namespace"),
    ("save_playbook", {**PLAYBOOK, "playbook_id": OWN_PATTERN}, "playbook_id"),
    ("save_playbook", {**PLAYBOOK, "playbook_id": "%"}, "prefix"),
    ("get_pattern", {"pattern_id": FOREIGN_PATTERN}, "in this namespace"),
    ("get_pattern", {"pattern_id": "*"}, "prefix"),
    ("get_pattern", {"pattern_id": OWN_PATTERN, "offset": -1}, "offset"),
    # Text that the database cannot store, or that no reader should see
    ("start_episode", {"task": "a\0b"}, "NUL"),
    ("recall", {"task": "a\0b"}, "NUL"),
    ("record_step", {**STEP, "parameters": {"a\0": 1}}, "NUL"),
    ("record_step", {**STEP, "tool": "\0"}, "NUL"),
    ("complete_episode", {**DONE, "lessons": ["ok", "\0"]}, "NUL"),
    ("search_episodes", {"domain": "\0"}, "NUL"),
    # Ids
    ("get_episode", {"episode_id": ""}, "prefix"),
    ("get_episode", {"episode_id": "abc"}, "prefix"),
    ("get_episode", {"episode_id": "%"}, "prefix"),
    ("get_episode", {"episode_id": "____"}, "prefix"),
    ("get_episode", {"episode_id": "' OR '1'='1"}, "prefix"),
    ("get_episode", {"episode_id": "../../etc/passwd"}, "prefix"),
    ("get_episode", {"episode_id": "0" * 65}, "episode_id"),
    ("get_episode", {"episode_id": FOREIGN}, "in this namespace"),
    ("get_episode", {"episode_id": str(uuid4())}, "in this namespace"),
    ("record_step", {**STEP, "episode_id": FOREIGN}, "in this namespace"),
    ("complete_episode", {**DONE, "episode_id": FOREIGN}, "in this namespace"),
    ("forget_episode", {"episode_id": FOREIGN}, "in this namespace"),
    ("forget_episode", {"episode_id": "*"}, "prefix"),
    ("start_episode", {**NEW, "episode_id": "1; DROP TABLE episodes"}, "episode_id"),
    ("complete_episode", {**DONE, "recall_id": "x"}, "recall_id"),
    ("complete_episode", {**DONE, "recall_id": str(uuid4())}, "recall_id"),
    ("search_episodes", {"cursor": "x"}, "cursor"),
    ("search_episodes", {"query": "x", "cursor": "eyJhIjoxfQ=="}, "cursor"),
    # Tools
    ("delete_everything", {}, "Unknown tool"),
    ("_resolve", {"text": "abcd"}, "Unknown tool"),
    ("", {}, "Unknown tool"),
]


@pytest.fixture
def ids(database) -> dict[str, str]:
    with ms.MemoryStorage.open(database) as storage:
        own = storage.episodes.save(ms.Episode(task_description="own"))
        other = storage.in_namespace("other").episodes.save(ms.Episode(task_description="other"))
        own_pattern = storage.patterns.save(ms.Heuristic(condition="c", action="a"))
        foreign = storage.in_namespace("other").patterns.save(ms.Heuristic(condition="c", action="a"))
    return {
        OWN: str(own.id),
        FOREIGN: str(other.id),
        OWN_PATTERN: str(own_pattern.id),
        FOREIGN_PATTERN: str(foreign.id),
    }


def filled_in(value: Any, ids: dict[str, str]) -> Any:
    """Return an argument with the ids that its placeholders stand for."""
    if isinstance(value, list):
        return [filled_in(one, ids) for one in value]
    return ids.get(value, value) if isinstance(value, str) else value


def rows(database) -> list[dict[str, int]]:
    with ms.MemoryStorage.open(database) as storage:
        return [storage.in_namespace(name).analytics.summary().rows for name in ("default", "other")]


async def all_are_errors(client: mcp.Client, ids: dict[str, str]) -> None:
    for tool, arguments, part in HOSTILE:
        arguments = {name: filled_in(value, ids) for name, value in arguments.items()}
        message = await error(client, tool, **arguments)
        assert part in message, (tool, str(arguments)[:200], message)
        assert len(message) < 1_000
        assert not any(leak in message for leak in ("Traceback", "memory.db", "pydantic", ".py", "unexpectedly")), (
            message
        )
    assert (await fields(client, "get_episode", episode_id=ids[OWN]))["outcome"] == "open"


def test_each_input_is_an_error_and_changes_nothing(database, ids):
    assert len(HOSTILE) >= 50
    before = rows(database)
    run(in_process(database, allow_forget=True), lambda client: all_are_errors(client, ids))
    assert rows(database) == before


@pytest.mark.slow
def test_each_input_is_an_error_over_stdio(database, ids):
    before = rows(database)
    run(over_stdio(database, "--allow-forget"), lambda client: all_are_errors(client, ids))
    assert rows(database) == before


@pytest.mark.slow
def test_each_input_is_an_error_over_http(database, ids):
    before = rows(database)
    with http_server(database, "--allow-forget") as (url, process):
        run(over_http(url), lambda client: all_are_errors(client, ids))
        assert process.poll() is None
    assert rows(database) == before


HELLO = {
    "jsonrpc": "2.0",
    "id": 0,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}},
}


def call(number: int, **arguments: Any) -> dict[str, Any]:
    return {
        "jsonrpc": "2.0",
        "id": number,
        "method": "tools/call",
        "params": {"name": "recall", "arguments": arguments},
    }


RAW: list[tuple[bytes, object, int]] = [
    # What is sent, the id of the answer, and its code.
    (json.dumps(call(1, task="a\ud800")).encode(), 1, -32700),
    (
        b'{"method":"tools/call","params":{"name":"recall","arguments":{"task":"\\udfff"}},"jsonrpc":"2.0","id":"a"}',
        "a",
        -32700,
    ),
    (b"nonsense", None, -32700),
    (b"\xff\xfe{}", None, -32700),
    (b"\0" * 100, None, -32700),
    (b"[]", None, -32600),
    (b"5", None, -32600),
    (b'{"jsonrpc":"1.0","id":2,"method":"x"}', None, -32600),
    (b'{"jsonrpc":"2.0","id":3,"method":5}', 3, -32600),
    (b'{"jsonrpc":"2.0","id":4,"method":"no/such"}', 4, -32601),
    (b'{"jsonrpc":"2.0","id":5,"method":"tools/call","params":{"name":5}}', 5, -32602),
    (b'{"jsonrpc":"2.0","id":6,"method":"tools/call","params":{"name":"recall","arguments":[1]}}', 6, -32602),
    (
        b'{"jsonrpc":"2.0","id":7,"method":"tools/call","params":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001,
        7,
        -32700,
    ),
    (json.dumps(call(8, task="x" * 5_000_000)).encode(), 8, -32600),
    (b'{"x":"' + b"x" * 5_000_000 + b'","jsonrpc":"2.0","id":9}', 9, -32600),
    (b'{"jsonrpc":"2.0","method":"tools/call","params":{"id":10,"name":"recall"', None, -32700),
]


@pytest.mark.slow
def test_what_is_no_request_is_answered_over_stdio(database):
    process = subprocess.Popen(
        command("-d", database),
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )

    def send(line: bytes) -> dict[str, Any]:
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    assert send(json.dumps(HELLO).encode())["result"]["serverInfo"]["name"] == "memory-storage"
    for line, number, code in RAW:
        answer = send(line)
        assert (answer["id"], answer["error"]["code"]) == (number, code), line[:100]
    process.stdin.write(b"\n  \n")  # no message, and no answer
    assert "result" in send(json.dumps(call(11, task="x")).encode())
    # NaN is no JSON, and read as none: a number that is missing.
    nan = b'{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"name":"recall","arguments":{"task":"x","k":NaN}}}'
    answer = send(nan)
    assert "error" in answer or answer["result"]["isError"]
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, b"")
    assert b"Traceback" not in err


@pytest.mark.slow
def test_what_is_no_request_is_answered_over_http(database):
    import httpx2

    headers = {"authorization": f"Bearer {TOKEN}", "accept": "application/json, text/event-stream"}
    headers["content-type"] = "application/json"
    with http_server(database) as (url, process), httpx2.Client(headers=headers, timeout=30) as http:
        for line, _, _ in RAW:
            answer = http.post(url, content=line)
            assert 400 <= answer.status_code < 500 or "error" in answer.json(), (line[:100], answer.text[:200])
        assert http.post(url, content=b"x" * 5_000_000).status_code == 413
        assert process.poll() is None
