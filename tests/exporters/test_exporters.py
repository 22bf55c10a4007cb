"""Exports of episodes: each format holds the steps, and the report names what it does not hold."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import memory_storage as ms
from memory_storage.exporters import FORMATS, ExportReport, export_episodes
from memory_storage.importers import import_stream
from memory_storage.importers.openai_chat import episode_from
from tests import strategies
from tests.importers.transcripts import answer, call, run
from tests.raising import raises

from . import trajectories

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.org/a.png"}}


def exported(format_: str, *episodes: ms.Episode) -> tuple[bytes, ExportReport]:
    stream = io.BytesIO()
    report = export_episodes(episodes, stream, format=format_)
    return stream.getvalue(), report


def reimported(*episodes: ms.Episode) -> list[ms.Episode]:
    data, _ = exported("openai-chat", *episodes)
    with ms.MemoryStorage.open(":memory:") as storage:
        report = import_stream(storage, io.BytesIO(data))
        assert (report.imported, report.failed) == (len(episodes), [])
        return list(storage.episodes.iterate(direction="oldest_first"))


def essence(episode: ms.Episode) -> list[tuple[Any, ...]]:
    """What a chat can hold of steps."""
    return [(step.step_number, step.tool, step.action, step.parameters, step.result) for step in episode.steps]


@pytest.fixture
def episode() -> ms.Episode:
    return ms.Episode(
        task_description="Fix the login\nand the logout",
        task_type="debugging",
        context=ms.TaskContext(domain="web", language="python", tags=["ci"]),
        outcome=ms.PartialSuccess(verdict="half of it works", completed=["login"], failed=["logout"]),
        reward=ms.RewardScore(total=0.5, quality_multiplier=2.0),
        reflection=ms.Reflection(insights=["read the log"]),
        tags=["auth"],
        artifacts=["patch.diff"],
        metadata={"trial": 3},
        steps=[
            ms.Step(tool="pytest", action="run them", parameters={"k": ["a"], "n": 1}, result=ms.StepOk(output="fine")),
            ms.Step(tool="sh", result=ms.StepError(message="ValueError: no such file"), latency_ms=7, tokens_used=9),
            ms.Step(tool="http", parameters={"n": 1.5}, result=ms.StepTimeout()),
            ms.Step(tool="edit", metadata={"a": 1}),
        ],
    )


def test_chat_messages_are_what_fine_tuning_takes(episode):
    data, report = exported("openai-chat", episode)
    record = json.loads(data)
    assert record.keys() == {"messages", "tools"}
    roles = [message["role"] for message in record["messages"]]
    assert roles == ["user", *["assistant", "tool"] * 4, "assistant"]
    assert all(message.keys() <= {"role", "content", "tool_calls", "tool_call_id"} for message in record["messages"])
    assert record["messages"][0]["content"] == episode.task_description
    assert record["messages"][-1] == {"role": "assistant", "content": "half of it works"}
    assert record["tools"][0]["function"] == {
        "name": "pytest",
        "parameters": {"type": "object", "properties": {"k": {"type": "array"}, "n": {"type": "integer"}}},
    }
    assert report.episodes == 1


def test_an_episode_comes_back_from_chat_messages_with_its_steps(episode):
    (found,) = reimported(episode)
    assert found.task_description == episode.task_description
    assert essence(found) == essence(episode)


def test_an_error_without_a_sign_begins_with_error():
    failed = ms.Step(tool="sh", result=ms.StepError(message="no such file"))
    (found,) = reimported(ms.Episode(task_description="t", steps=[failed]))
    assert found.steps[0].result == ms.StepError(message="Error: no such file")


def test_the_report_names_what_a_chat_does_not_hold(episode):
    _, report = exported("openai-chat", episode, episode)
    names = [
        *("the kind of the outcome, except in words", "times", "task_type", "context", "reward", "reflection"),
        *("artifacts", "tags", "metadata", "latency_ms of steps", "tokens_used of steps", "metadata of steps"),
    ]
    assert report.omitted == dict.fromkeys(names, 2)
    assert report.remarks == {
        'a step without a result has the content {"returncode": null}': 2,
        "the schemas of tools are inferred from their calls": 2,
    }
    assert report.summary()[0].startswith("not in this format: the kind of the outcome, except in words (2), times (2)")
    assert str(report).startswith("2 episodes\n")


def test_an_open_episode_has_no_last_message_and_a_remark():
    data, report = exported("openai-chat", ms.Episode(task_description="t"))
    assert json.loads(data) == {"messages": [{"role": "user", "content": "t"}]}
    assert "the last message is not the assistant's, which fine-tuning requires" in report.remarks


def test_remarks_name_what_a_reader_may_refuse_or_misread():
    step = ms.Step(tool="a tool", result=ms.StepOk(output="Error: 0 of them"))
    _, report = exported("openai-chat", ms.Episode(task_description="t", steps=[step]))
    assert "the result of a step that succeeded reads like an error" in report.remarks
    assert any(remark.startswith("a tool's name is one that OpenAI refuses") for remark in report.remarks)


TRANSCRIPT = [
    {"role": "system", "content": "You book flights."},
    {"role": "user", "content": "Book one"},
    call("look", '{"at": "home"}', call_id="c1", content="Let me look"),
    answer("[HAT136]", call_id="c1"),
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": one, "type": "function", "function": {"name": "book", "arguments": f'{{"seat": "{one}"}}'}}
            for one in ("c2", "c3")
        ],
    },
    answer("Error: taken", call_id="c3", name="book"),
    answer("booked", call_id="c2", name="book"),
    {"role": "assistant", "content": "Done."},
    {"role": "user", "content": [{"type": "text", "text": "Thanks, see"}, IMAGE]},
    {"role": "assistant", "content": "You are welcome."},
]


def test_an_imported_conversation_is_exported_as_it_was():
    original = episode_from({"messages": TRANSCRIPT, "tools": [{"type": "function", "function": {"name": "look"}}]})
    data, report = exported("openai-chat", original)
    record = json.loads(data)
    expected = [{name: value for name, value in one.items() if name != "name"} for one in TRANSCRIPT]
    expected[5], expected[6] = expected[6], expected[5]  # results follow in the order of their calls
    found = [
        one if "tool_calls" not in one else {**one, "content": one["content"] or None} for one in record["messages"]
    ]
    assert found == expected
    assert record["tools"] == [{"type": "function", "function": {"name": "look"}}]
    assert report.omitted == {"times": 1}
    assert essence(episode_from(record)) == essence(original)


def test_a_task_that_is_no_message_is_named():
    original = episode_from({**run(call("look"), answer("home")), "info": {"task": {"instruction": "Look around"}}})
    _, report = exported("openai-chat", original)
    assert "task_description, which is not a message of the conversation" in report.omitted


def test_parts_of_anthropic_messages_become_calls_and_results():
    messages = [
        {"role": "user", "content": "Look"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm"},
                {"type": "text", "text": "I look"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": 1}},
            ],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "nothing"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "Nothing there."}]},
    ]
    original = episode_from({"messages": messages})
    data, report = exported("openai-chat", original)
    assert [one["role"] for one in json.loads(data)["messages"]] == ["user", "assistant", "tool", "assistant"]
    assert essence(episode_from(json.loads(data))) == essence(original)
    assert report.omitted["reasoning"] == 1
    trajectory = json.loads(exported("atif", original)[0])
    assert trajectory["steps"][1]["reasoning_content"] == "hm"


def test_steps_that_were_added_since_the_import_follow_the_conversation():
    imported = episode_from(run(call("look"), answer("home")))
    grown = imported.model_copy(update={"steps": [*imported.steps, ms.Step(step_number=2, tool="late")]})
    (line, _) = exported("openai-chat", grown)
    assert [one["function"]["name"] for m in json.loads(line)["messages"] for one in m.get("tool_calls", [])] == [
        "look",
        "late",
    ]


@settings(max_examples=30, deadline=None)
@given(
    results=st.lists(
        st.one_of(
            st.none(),
            st.just(ms.StepTimeout()),
            st.builds(ms.StepError, message=st.text(strategies.characters, max_size=20)),
        ),
        max_size=4,
    ),
    parameters=st.dictionaries(st.text("abc", min_size=1), st.integers(-9, 9) | strategies.texts, max_size=3),
)
def test_the_status_of_a_step_survives_chat_messages(results, parameters):
    steps = [ms.Step(tool="t", action="a", parameters=parameters, result=one) for one in results]
    data, _ = exported("openai-chat", ms.Episode(task_description="t", steps=steps))
    found = episode_from(json.loads(data))
    assert [one.parameters for one in found.steps] == [parameters] * len(results)
    assert [one.result and one.result.status for one in found.steps] == [one and one.status for one in results]


def test_trajectories_are_valid_and_hold_everything(episode):
    imported = episode_from({"messages": TRANSCRIPT})
    data, report = exported("atif", episode, imported, ms.Episode(task_description="open"))
    assert trajectories.problems(data) == []
    assert report == ExportReport(3)
    first = json.loads(data.splitlines()[0])
    stored = first["extra"]["memory_storage"]
    calls = [one for step in first["steps"] for one in step.get("tool_calls", [])]
    results = {
        one["source_call_id"]: one for step in first["steps"] for one in step.get("observation", {}).get("results", [])
    }
    steps = [_step(one, results.get(one["tool_call_id"]), first["steps"]) for one in calls]
    assert ms.Episode.model_validate({**stored, "id": first["trajectory_id"], "steps": steps}) == episode


def _step(of: dict[str, Any], result: dict[str, Any] | None, steps: list[dict[str, Any]]) -> dict[str, Any]:
    names = {"ok": "output", "error": "message"}
    status = result and result["extra"]["status"]
    action = next(step["message"] for step in steps if of in step.get("tool_calls", []))
    stored = {"status": status, **({names[status]: result["content"]} if status in names else {})}
    return {
        **of["extra"],
        "tool": of["function_name"],
        "action": action,
        "parameters": of["arguments"],
        "result": stored if status else None,
    }


@settings(max_examples=20, deadline=None, phases=[Phase.generate])
@given(episodes=st.lists(strategies.stored_episodes(), max_size=2))
def test_any_episode_is_exported_in_each_format(episodes):
    for format_ in FORMATS:
        data, report = exported(format_, *episodes)
        assert report.episodes == len(episodes)
        if format_ == "atif":
            assert trajectories.problems(data) == []
        elif format_ == "openai-chat":
            assert [len(json.loads(line)["messages"]) > 0 for line in data.splitlines()] == [True] * len(episodes)


def test_a_parquet_file_has_a_row_per_episode_with_nested_steps(episode):
    data, report = exported("parquet", episode, ms.Episode(task_description="open"))
    assert report == ExportReport(2)
    first, second = pq.read_table(io.BytesIO(data)).to_pylist()
    assert (first["id"], first["reward"]["quality_multiplier"], first["tags"]) == (str(episode.id), 2.0, ["auth"])
    assert (first["outcome"]["kind"], first["outcome"]["failed"]) == ("partial_success", ["logout"])
    assert first["started_at"] == episode.started_at
    assert json.loads(first["metadata"]) == {"trial": 3}
    assert [(one["tool"], one["status"], one["output"]) for one in first["steps"]] == [
        ("pytest", "ok", "fine"),
        ("sh", "error", "ValueError: no such file"),
        ("http", "timeout", None),
        ("edit", None, None),
    ]
    assert json.loads(first["steps"][0]["parameters"]) == {"k": ["a"], "n": 1}
    assert (second["outcome"], second["reward"], second["steps"]) == (None, None, [])


def test_every_field_of_the_models_has_a_column():
    from memory_storage.exporters.parquet import SCHEMA

    assert set(SCHEMA.names) == set(ms.Episode.model_fields)
    columns: dict[str, Any] = {"context": ms.TaskContext, "reward": ms.RewardScore, "reflection": ms.Reflection}
    for name, model in columns.items():
        assert {field.name for field in SCHEMA.field(name).type} == set(model.model_fields)
    outcomes = {
        name for kind in (ms.Success, ms.PartialSuccess, ms.Failure, ms.Abstained) for name in kind.model_fields
    }
    assert {field.name for field in SCHEMA.field("outcome").type} == outcomes
    steps = {field.name for field in SCHEMA.field("steps").type.value_type}
    assert steps == set(ms.Step.model_fields) - {"result"} | {"status", "output"}


def test_a_parquet_file_is_written_in_groups():
    with_output = ms.Step(tool="t", result=ms.StepOk(output="x" * 900_000))
    episodes = [ms.Episode(task_description="t", steps=[with_output.model_copy()]) for _ in range(40)]
    data, _ = exported("parquet", *episodes)
    assert pq.ParquetFile(io.BytesIO(data)).num_row_groups == 3


def test_markdown_has_everything_and_no_markup_of_the_texts(episode):
    hostile = episode.model_copy(update={"task_description": "# <b>`x` [a](b)\n```\nend"})
    text = exported("markdown", hostile, episode)[0].decode()
    assert text.startswith("## \\# \\<b\\>\\`x\\` \\[a\\](b)\n\n````\n```\nend\n````\n")
    for said in ("- tags: auth", "### Step 2: sh, error", "ValueError: no such file", "latency 7 ms", "patch.diff"):
        assert said in text
    for said in ("### Outcome: partial\\_success", "- failed: logout", "- insights: read the log", '"trial": 3'):
        assert said.replace("\\_", "_") in text.replace("\\_", "_")
    assert text.count("\n## ") == 1


def test_an_unknown_format_is_refused():
    with raises(ms.ValidationError, match="openai-chat, atif, markdown, parquet"):
        export_episodes([], io.BytesIO(), format="xml")


def test_without_pyarrow_the_error_names_the_extra(monkeypatch):
    monkeypatch.delitem(sys.modules, "memory_storage.exporters.parquet", raising=False)
    monkeypatch.delattr("memory_storage.exporters.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with raises(ms.ConfigurationError, match="pip install 'memory-storage"):
        export_episodes([], io.BytesIO(), format="parquet")


def test_episodes_are_written_one_by_one(episode):
    stream, sizes = io.BytesIO(), []

    def stored() -> Iterator[ms.Episode]:
        for _ in range(3):
            sizes.append(len(stream.getvalue()))
            yield episode

    progress: list[int] = []
    export_episodes(stored(), stream, format="atif", on_progress=progress.append)
    assert sizes[0] == 0 < sizes[1] < sizes[2]
    assert progress == [1, 2, 3]
