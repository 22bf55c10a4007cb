"""Irregular files and runs: imported correctly, or the omitted parts are reported."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest

import memory_storage as ms
from memory_storage.importers import ImportReport, episode_from, import_stream

from .transcripts import answer, call, run

A = json.dumps(run(call("look"), answer("A chair.")))
B = json.dumps(run(trial=2))
MESSAGES = [run()["messages"], run(trial=1)["messages"]]


@pytest.fixture
def here() -> Iterator[ms.MemoryStorage]:
    with ms.MemoryStorage.open(":memory:") as storage:
        yield storage


def imported(storage: ms.MemoryStorage, data: bytes | str, **options: Any) -> ImportReport:
    return import_stream(storage, io.BytesIO(data if isinstance(data, bytes) else data.encode()), **options)


@pytest.mark.parametrize(
    "text",
    [
        f"\ufeff{A}\r\n{B}\r\n",
        f"{A}\r{B}\r",
        f"{A}{B}",
        f"{A},\n{B},\n",
        f"{A}\n{B},\n",
        f"{A}, \r\n\r\n{B}",
        f"[{A},\r\n{B},]",
        f"[[{A}], [{B}]]",
        f"[[[{A}, {B}]]]",
        json.dumps(MESSAGES),
        json.dumps([[messages] for messages in MESSAGES]),
    ],
)
def test_two_runs_are_read_however_they_are_separated(here, text):
    report = imported(here, text)
    assert (report.imported, report.failed) == (2, [])


@pytest.mark.parametrize(
    "data", [b"", b" \n\t\r\n ", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n", gzip.compress(b"", mtime=0), b"[]"]
)
def test_a_file_of_nothing_imports_nothing(here, data):
    assert imported(here, data) == ImportReport(0, 0)


def _zip() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("runs.jsonl", A)
    return file.getvalue()


@pytest.mark.parametrize("replace_invalid", [False, True])
@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"\x28\xb5\x2f\xfd\x04\x00\x41\x00\x00abc", "Zstandard data"),
        (bz2.compress(A.encode()), "bzip2 data"),
        (lzma.compress(A.encode()), "xz data"),
        (_zip(), "a zip archive"),
        (gzip.compress(gzip.compress(A.encode(), mtime=0), mtime=0), "gzip inside of gzip"),
        (b"SQLite format 3\0" + bytes(84), "a SQLite database"),
        (A.encode("utf-16"), "must be UTF-8"),
        (A.encode("utf-16-le"), "must be UTF-8"),
        (A.encode("utf-16-be"), "must be UTF-8"),
        (gzip.compress(A.encode("utf-16"), mtime=0), "must be UTF-8"),
    ],
)
def test_binary_data_is_refused(here, data, what, replace_invalid):
    with pytest.raises(ms.ValidationError) as caught:
        imported(here, data, replace_invalid=replace_invalid)
    assert caught.value.field == "file"
    assert what in str(caught.value.limit)


GZIP = gzip.compress(f"{A}\n{B}\n".encode(), mtime=0)


@pytest.mark.parametrize(
    ("data", "count", "problem"),
    [
        (GZIP + b"garbage", 2, "Not a gzipped file"),
        (GZIP[:-4], 2, "ended before"),
        (GZIP[:-8] + b"\0\0\0\0" + GZIP[-4:], 2, "CRC check failed"),
        (GZIP[:10], 0, "ended before"),
        (GZIP[:2], 0, "ended before"),
    ],
)
def test_gzip_that_ends_wrongly_is_named_after_what_it_has(here, data, count, problem):
    report = imported(here, data)
    assert (report.imported, len(report.failed)) == (count, 1)
    assert report.failed[0].message.startswith("the gzip data is damaged: ")
    assert problem in report.failed[0].message


@pytest.mark.parametrize(
    "data", [GZIP + b"\0" * 512, gzip.compress(A.encode(), mtime=0) + gzip.compress(f"\n{B}".encode(), mtime=0)]
)
def test_gzip_with_padding_or_of_several_members_is_read(here, data):
    report = imported(here, data)
    assert (report.imported, report.failed) == (2, [])


@pytest.mark.parametrize("text", ['["a", "b"]', "5\n6", "null\ntrue", '"a"\n"b"'])
def test_values_that_are_no_objects_are_named_one_by_one(here, text):
    report = imported(here, text)
    assert (report.imported, [problem.message for problem in report.failed]) == (0, ["not a JSON object"] * 2)


def test_an_option_that_is_not_one_is_refused_by_its_name(here):
    with pytest.raises(ms.ValidationError) as caught:
        import_stream(here, io.BytesIO(A.encode()), stict=True)  # type: ignore[call-arg] # that is the point
    assert caught.value.field == "stict"
    assert here.episodes.count() == 0


def test_keys_that_become_equal_by_replacement_keep_both_values(here):
    text = json.dumps(run(extra={})).replace("{}", r'{"a\u0000": 1, "a\ufffd": 2, "a\ud800": 3}')
    assert imported(here, text, replace_invalid=True).imported == 1
    (episode,) = here.episodes.query()
    assert sorted(episode.metadata["extra"].values()) == [1, 2, 3]


def calls(*pairs: tuple[str, str]) -> dict[str, Any]:
    listed = [{"id": one, "type": "function", "function": {"name": name, "arguments": "{}"}} for one, name in pairs]
    return {"role": "assistant", "content": None, "tool_calls": listed}


def outputs(*messages: dict[str, Any]) -> list[str | None]:
    """What came of each call; the step's results are those of `run`, in the order of the calls."""
    steps = episode_from(run(*messages)).steps
    return [step.result.output if isinstance(step.result, ms.StepOk) else None for step in steps]


PARALLEL = calls(("1", "a"), ("2", "b"), ("3", "a"))


def test_results_in_another_order_than_their_calls_find_them():
    results = [answer(f"r{one}", call_id=one, name=name) for one, name in (("3", "a"), ("1", "a"), ("2", "b"))]
    assert outputs(PARALLEL, *results) == ["r1", "r2", "r3"]


def test_results_without_ids_are_those_of_the_calls_in_order():
    assert outputs(PARALLEL, *({"role": "tool", "content": f"r{n}"} for n in (1, 2, 3))) == ["r1", "r2", "r3"]


@pytest.mark.parametrize("order", [["a", "b"], ["b", "a"]])
def test_of_calls_with_the_same_id_the_name_decides(order):
    results = [answer(f"r{name}", call_id="x", name=name) for name in order]
    assert outputs(calls(("x", "a"), ("x", "b")), *results) == ["ra", "rb"]


def test_an_id_is_the_same_as_a_number_and_as_a_text():
    message = calls(("7", "look"))
    message["tool_calls"][0]["id"] = 7
    assert outputs(message, answer("A chair.", call_id="7")) == ["A chair."]


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([call("look"), answer("one"), answer("two")], ["one"]),
        ([answer("early"), call("look")], [None]),
        ([call("look"), answer("?", call_id="99")], [None]),
    ],
)
def test_a_result_without_a_call_is_reported_and_kept(messages, expected):
    assert outputs(*messages) == expected
    episode = episode_from(run(*messages))
    assert "a tool result answers no call, and is kept in the conversation alone" in episode.metadata["import_notes"]
    kept = [message.get("content") for message in episode.metadata["conversation"] if message["role"] == "tool"]
    assert {"two", "early", "?"} & set(kept)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"a": 1}, {"a": 1}),
        ([1, 2], {"arguments": [1, 2]}),
        ("{not json", {"arguments": "{not json"}),
        ('{"a": 1, "a": 2}', {"arguments": '{"a": 1, "a": 2}'}),
        ('"text"', {"arguments": '"text"'}),
        ("null", {"arguments": "null"}),
        (5, {"arguments": 5}),
        (None, {}),
        ("", {}),
    ],
)
def test_arguments_that_are_not_an_object_are_stored_unchanged(arguments, parameters):
    (step,) = episode_from(run(call("look", arguments), answer("ok"))).steps
    assert step.parameters == parameters


def test_messages_without_content_are_kept():
    nothing = [{"role": "assistant", "content": None}, {"role": "user"}, {"role": "assistant", "content": []}]
    episode = episode_from({"messages": [{"role": "user", "content": None}, *run()["messages"], *nothing]})
    assert episode.task_description == "Please book a flight"
    assert episode.metadata["conversation"][2:] == nothing


def test_a_run_without_any_task_is_named(here):
    report = imported(here, json.dumps({"messages": [{"role": "user", "content": None}]}))
    assert report.failed[0].message.startswith("task_description: info.task.instruction or a user message")


def test_a_time_in_the_future_is_named():
    episode = episode_from(run(created="2500-01-01T00:00:00Z"))
    assert episode.started_at.year == 2500
    assert "it is dated in the future: 2500-01-01T00:00:00+00:00" in episode.metadata["import_notes"]


def test_a_run_of_which_only_the_end_is_known_has_no_duration():
    episode = episode_from(run(completed_at="2026-01-01T00:00:00Z", success=True))
    assert (episode.started_at.year, episode.completed_at) == (2026, None)
    assert "only its end is known: it starts there, and no duration is counted" in episode.metadata["import_notes"]
