"""Messages in the shapes of different programs: their calls, results, images and errors."""

from __future__ import annotations

import json
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.importers import RunOptions, episode_from

from .test_openai_chat import only_step
from .transcripts import answer, call, run

IMAGE = "data:image/png;base64," + "iVBORw0KGgo" * 2000


def anthropic(*contents: Any, **fields: Any) -> dict[str, Any]:
    roles = ["user", "assistant"] * len(contents)
    return {
        "messages": [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)],
        **fields,
    }


def tool_use(name: str, call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}


def tool_result(call_id: str, content: Any, **fields: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": content, **fields}


TEXT = {"type": "text", "text": "Looking."}


def test_tool_use_parts_are_steps_with_their_results():
    thinking = {"type": "thinking", "thinking": "ls", "signature": "x"}
    lines = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    record = anthropic(
        [{"type": "text", "text": "List the files"}],
        [thinking, TEXT, tool_use("Bash", "a", command="ls"), tool_use("Read", "b", path="x")],
        [tool_result("b", lines), tool_result("a", "permission denied", is_error=True)],
        "I may not.",
    )
    episode = episode_from(record)
    assert episode.task_description == "List the files"
    assert [(step.tool, step.action, step.parameters, step.result) for step in episode.steps] == [
        ("Bash", "Looking.", {"command": "ls"}, ms.StepError(message="permission denied")),
        ("Read", "Looking.", {"path": "x"}, ms.StepOk(output="one\ntwo")),
    ]
    assert [step.metadata for step in episode.steps] == [{"tool_call_id": "a"}, {"tool_call_id": "b"}]
    conversation = episode.metadata["conversation"]
    assert conversation[1]["content"][1:] == [
        TEXT,
        {"type": "tool_use", "step_number": 1},
        {"type": "tool_use", "step_number": 2},
    ]
    assert [part["step_number"] for part in conversation[2]["content"]] == [2, 1]


CALL = '{"name": "ls", "arguments": {"all": true}}'


def test_llama_factory_calls_are_steps():
    record = {
        "messages": [
            {"role": "user", "content": [{"type": "text", "value": "List the files"}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_call", "value": '{"name": "ls", "arguments": {"all": true}}'}],
            },
            {"role": "tool", "content": [{"type": "text", "value": "a.txt"}]},
        ]
    }
    (step,) = episode_from(record).steps
    assert (step.tool, step.parameters, step.result) == ("ls", {"all": True}, ms.StepOk(output="a.txt"))


@pytest.mark.parametrize(
    "listed",
    [
        {"name": "look", "args": {"a": 1}, "id": "call_1", "type": "tool_call"},
        {"type": "custom", "id": "call_1", "custom": {"name": "look", "input": '{"a": 1}'}},
        {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"a": 1}'},
    ],
)
def test_calls_in_other_shapes_are_steps(listed):
    step = only_step({"role": "assistant", "tool_calls": [listed]}, answer("A chair."))
    assert (step.tool, step.parameters, step.result) == ("look", {"a": 1}, ms.StepOk(output="A chair."))


@pytest.mark.parametrize("unknown", [{"id": "1"}, {"function": {}}, {"type": "magic", "spell": "x"}, "text", None, 1])
def test_a_call_of_an_unknown_kind_is_named_and_kept(unknown):
    message = {"role": "assistant", "tool_calls": [unknown, *call("look")["tool_calls"]]}
    episode = episode_from(run(message, answer("A chair.")))
    assert [step.tool for step in episode.steps] == ["look"]
    assert episode.metadata["conversation"][1]["tool_calls"] == [unknown]
    assert "a tool call of an unknown kind is kept in the conversation alone" in episode.metadata["import_notes"]


def test_content_of_an_unknown_type_is_named_and_kept():
    part = {"type": "hologram", "data": "x"}
    episode = episode_from(run({"role": "assistant", "content": [part, TEXT]}))
    assert episode.metadata["conversation"][1]["content"] == [part, TEXT]
    assert "content of type 'hologram' is kept in the conversation alone" in episode.metadata["import_notes"]


def test_a_result_to_no_call_is_named_and_kept():
    record = anthropic("Go", "Yes", [tool_result("unknown", "A chair.")])
    episode = episode_from(record)
    assert episode.metadata["conversation"][2]["content"][0]["content"] == "A chair."
    assert "a tool result answers no call, and is kept in the conversation alone" in episode.metadata["import_notes"]


def test_an_image_is_stored_once_and_is_not_text(storage):
    first = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    shot = [{"type": "text", "text": "Here."}, {"type": "image", "source": {"type": "base64", "data": IMAGE[22:]}}]
    record = anthropic(first, [tool_use("shot", "a")], [tool_result("a", shot)])
    episode = storage.episodes.save(episode_from(record))
    assert episode.task_description == "What is this?"
    assert episode.steps[0].result == ms.StepOk(output="Here.\n[image]")
    document = episode.model_dump_json()
    assert document.count(IMAGE) == document.count(IMAGE[22:]) == 1
    (shown,) = episode.metadata["conversation"][2]["content"]
    assert shown["content"][1]["source"]["data"].startswith("the same data as in message 1 (22,000 characters, SHA")
    assert storage.episodes.count(text="iVBORw0KGgo*") == 0


@pytest.mark.parametrize("size", [3, 2000])
def test_a_repeated_image_is_stored_once(size):
    payload = "qVBORw0K" * size
    shown = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{payload}"}}
    other = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,AAAA{payload[:8]}"}}
    record = anthropic(
        [TEXT, shown, shown], [tool_use("shot", "a")], [tool_result("a", [shown])], [{**shown, "detail": "low"}, other]
    )
    before = json.dumps(record)
    conversation = episode_from(record).metadata["conversation"]
    assert json.dumps(conversation).count(payload) == 1
    assert conversation[0]["content"][1] == shown
    again = [conversation[0]["content"][2], conversation[2]["content"][0]["content"][0], conversation[3]["content"][0]]
    assert {part["image_url"]["url"][:31] for part in again} == {"the same data as in message 1 ("}
    assert again[2]["detail"] == "low"
    assert conversation[3]["content"][1] == other
    assert json.dumps(record) == before


@pytest.mark.parametrize("text", ["data: 1\n\n", "data:image/png;base64, is how it begins", "data:,x"])
def test_repeated_text_is_stored_each_time(text):
    said = [{"role": "assistant", "content": text}] * 2
    assert episode_from(run(*said)).metadata["conversation"][1:] == said


def test_images_that_do_not_fit_are_left_out_and_named():
    parts = [{"type": "text", "text": "What is this?"}, {"type": "image_url", "image_url": {"url": IMAGE}}]
    limits = ms.Limits(document_bytes=120_000)
    episode = episode_from({"messages": [{"role": "user", "content": parts}]}, RunOptions(limits))
    assert len(episode.model_dump_json()) < 120_000
    assert episode.metadata["conversation"][0]["content"][1]["image_url"]["url"].startswith("data:image/png;base64,")
    assert any("the data of an image" in note for note in episode.metadata["import_notes"])


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"is_error": True}, "No."),
        ({"isError": True}, "No."),
        ({"extra": {"returncode": 1}}, "No."),
        ({"exit_code": 127}, ""),
        ({"metadata": {"exit_code": "2"}}, ""),
        ({"error": True}, "No."),
        ({"error": {"type": "NotFound"}}, "No."),
        ({"status": "failed"}, "No."),
        ({"status": "ERROR"}, "No."),
        ({"success": False}, "No."),
        ({}, '{"error": "no such user"}'),
        ({}, '{"ok": false}'),
        ({}, '{"metadata": {"exit_code": 1}, "output": "x"}'),
        ({}, "<returncode>1</returncode>\n<output></output>"),
        ({}, "make: *** [all] Error 2\nexit code 2"),
        ({}, "Process exited with code 1"),
        ({}, "[Command finished with exit code 1]"),
        ({}, "Error: no such flight"),
        ({}, "ValueError: bad"),
        ({}, "java.lang.IllegalStateException: bad"),
        ({}, "error: pathspec 'x' did not match"),
        ({}, "error[E0308]: mismatched types"),
        ({}, "fatal: not a git repository"),
        ({}, "Traceback (most recent call last):\n  File x\nKeyError: 'a'"),
        ({}, "collected 3 items\nTraceback (most recent call last):\n  File x\nKeyError: 'a'"),
        ({}, "bash: foo: command not found"),
        ({}, "Error executing tool: no"),
    ],
)
def test_a_result_that_failed_is_an_error(message, text):
    assert only_step(call("x"), {**answer(text), **message}).result == ms.StepError(message=text)


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({}, "Error rate: 0.0 % of 1,200 requests"),
        ({}, "Errors: 0"),
        ({}, "Error handling is described in chapter 3"),
        ({}, "ErrorBoundary.tsx"),
        ({}, "<returncode>0</returncode>\n<output>error: none</output>"),
        ({}, "exit code 0"),
        ({}, '{"error": null, "data": 1}'),
        ({}, '{"status": "cancelled", "order": 7}'),
        ({}, "2026-01-01 Traceback (most recent call last): was seen in the log"),
        ({}, "Traceback (most recent call last):\n  File x\nKeyError: 1\n" and "log of yesterday\nall is well"),
        ({"is_error": False}, "Error: quoted from the log"),
        ({"extra": {"returncode": 0}}, "fatal: quoted"),
        ({"status": "success"}, "Error: quoted"),
        ({"error": None}, "done"),
        ({"error": ""}, "done"),
    ],
)
def test_a_result_that_did_not_fail_is_ok(message, text):
    assert only_step(call("x"), {**answer(text), **message}).result == ms.StepOk(output=text)


@pytest.mark.parametrize("message", [{"timed_out": True}, {"extra": {"timeout": True}}, {"status": "timeout"}])
def test_a_result_that_came_too_late_is_a_timeout(message):
    assert only_step(call("x"), {**answer("..."), **message}).result == ms.StepTimeout()


@pytest.mark.parametrize("message", [{"extra": {"returncode": None}}, {"status": "in_progress"}, {"exit_code": "?"}])
def test_a_result_that_does_not_say_is_unknown(message):
    episode = episode_from(run(call("x"), {**answer("half"), **message}))
    assert episode.steps[0].result is None
    assert episode.metadata["conversation"][-1]["content"] == "half"
    assert any("does not say whether it is an error" in note for note in episode.metadata["import_notes"])


def test_a_long_task_is_an_excerpt_and_stored_completely():
    task = "x" * 10_048
    episode = episode_from({"messages": [{"role": "user", "content": task}]})
    assert episode.task_description == "x" * 9_999 + "…"
    assert episode.metadata["conversation"][0]["content"] == task
    assert "the task description is an excerpt of 10,048 characters" in episode.metadata["import_notes"]


@pytest.mark.parametrize("character", ["x", "é", '"', "\n"])
def test_a_large_result_is_an_excerpt_and_stored_completely(storage, character):
    text = character * 1_100_000
    episode = storage.episodes.save(episode_from(run(call("look"), answer(text), call("look"), answer("A chair."))))
    first, second = episode.steps
    assert text.startswith(first.result.output)
    assert len(first.result.model_dump_json().encode()) > 990_000
    assert first.metadata["result_excerpt"].startswith("1,100,000 characters (SHA-256 ")
    assert second.result == ms.StepOk(output="A chair.")
    assert episode.metadata["conversation"][2]["content"] == text


def test_large_arguments_are_an_excerpt(storage):
    text = json.dumps({"content": "x" * 1_100_000})
    (step,) = storage.episodes.save(episode_from(run(call("write", text)))).steps
    assert text.startswith(step.parameters["arguments"])
    assert "arguments_excerpt" in step.metadata


@pytest.mark.parametrize("depth", [90, 150, 300, 900])
def test_arguments_that_are_nested_deep_are_kept(storage, depth):
    arguments = '{"a":' * depth + "1" + "}" * depth
    (step,) = storage.episodes.save(episode_from(run(call("look", arguments)))).steps
    assert step.parameters == (json.loads(arguments) if depth < 100 else {"arguments": arguments})


def test_fields_that_are_nested_deep_are_kept_as_text(storage):
    deep = json.loads("[" * 400 + "]" * 400)
    episode = storage.episodes.save(episode_from(run(deep=deep)))
    assert json.loads(episode.metadata["deep"]) == deep
    assert "`deep` is nested too deep, and is kept as JSON text" in episode.metadata["import_notes"]


def test_arguments_with_a_nul_are_kept_raw_or_replaced():
    record = run(call("look", '{"x": "\\u0000"}'))
    assert episode_from(record).steps[0].parameters == {"arguments": '{"x": "\\u0000"}'}
    assert episode_from(record, RunOptions(replace_invalid=True)).steps[0].parameters == {"x": "\ufffd"}
