"""Imported steps, tools, errors, starts and ends equal a plain count over the JSON."""

from __future__ import annotations

import gzip
import io
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, NamedTuple

import pytest

import memory_storage as ms
from memory_storage.importers import import_stream

from .transcripts import REAL, answer, call, run

Json = dict[str, Any]


class Counts(NamedTuple):
    """What a run has."""

    tools: dict[str, int]
    errors: int
    starts_at: datetime | None
    ends_at: datetime | None


def _parts(message: Json, *kinds: str) -> Iterator[Json]:
    content = message.get("content")
    yield from (part for part in (content if isinstance(content, list) else []) if part.get("type") in kinds)


def _tools(message: Json) -> Iterator[str]:
    yield from (listed["function"]["name"] for listed in message.get("tool_calls") or [])
    yield from (part["name"] for part in _parts(message, "tool_use"))
    yield from (json.loads(part["value"])["name"] for part in _parts(message, "tool_call"))


def _failed(result: Json) -> bool:
    code = (result.get("extra") or result).get("returncode")
    text = result.get("content")
    is_traceback = isinstance(text, str) and text.startswith(("Traceback ", "Error: "))
    return bool(result.get("is_error")) or code not in (None, 0) or is_traceback


def _results(message: Json) -> Iterator[Json]:
    yield from ([message] if message["role"] == "tool" else [])
    yield from _parts(message, "tool_result")


def _times(message: Json) -> Iterator[datetime]:
    text, number = message.get("timestamp"), message.get("extra", {}).get("timestamp")
    if text is not None:
        yield datetime.fromisoformat(text.replace("Z", "+00:00"))
    if number is not None:
        yield datetime.fromtimestamp(number, tz=timezone.utc)


def counted(messages: list[Json]) -> Counts:
    """Count the parts of a run, knowing nothing of the importer."""
    times = sorted(time for message in messages for time in _times(message))
    errors = sum(_failed(result) for message in messages for result in _results(message))
    tools = Counter(tool for message in messages for tool in _tools(message))
    ends_at = times[-1] if times and times[-1] > times[0] else None
    return Counts(dict(tools), errors, times[0] if times else None, ends_at)


def runs_in(data: bytes) -> list[list[Json]]:
    """The lists of messages in a file: one JSON document, or one on each line."""
    text = (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode()
    try:
        documents = [json.loads(text)]
    except ValueError:
        documents = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(documents[0], list) or "role" in documents[0]:
        return [documents[0] if isinstance(documents[0], list) else documents]
    return [document.get("messages") or document["traj"] for document in documents]


def stored(episode: ms.Episode, *, undated: bool, finished: bool) -> Counts:
    tools = Counter(step.tool for step in episode.steps)
    errors = sum(isinstance(step.result, ms.StepError) for step in episode.steps)
    return Counts(
        dict(tools), errors, None if undated else episode.started_at, episode.completed_at if finished else None
    )


def timed(message: Json, time: str) -> Json:
    return {**message, "timestamp": time}


def _lines(*records: Json) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


PLAIN = run({"role": "assistant", "content": "done"})["messages"]
FILES = {
    "parts": _lines(
        run(
            {
                "role": "assistant",
                "content": [
                    {"type": "text", "text": "Both."},
                    {"type": "tool_use", "id": "1", "name": "Bash", "input": {"command": "ls"}},
                    {"type": "tool_use", "id": "2", "name": "Read", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "2", "content": "no", "is_error": True},
                    {"type": "tool_result", "tool_use_id": "1", "content": "a.txt"},
                ],
            },
        )
    ),
    "values": _lines(
        run(
            {"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "ls", "arguments": {}}'}]},
            {"role": "tool", "content": [{"type": "text", "value": "a.txt"}]},
        )
    ),
    "codes": _lines(
        run(
            call("bash"), {**answer("x"), "extra": {"returncode": 1, "timestamp": 1780680357.5}},
            call("bash"), {**answer("x"), "extra": {"returncode": 0, "timestamp": 1780680399.25}},
        )
    ),
    "tracebacks": _lines(run(call("x"), answer("Traceback (most recent call last):\n  File x\nKeyError: 'a'"))),
    "words": _lines(run(call("report"), answer("Error rate: 0.0 % of 1,200 requests"))),
    "times": _lines(
        {
            "success": True,
            "messages": [
                timed({"role": "user", "content": "x"}, "2026-01-01T00:00:00Z"),
                timed(call("f"), "2026-01-01T01:00:09+01:00"),
                timed(answer("ok"), "2026-01-01T00:00:12Z"),
            ],
        }
    ),
    "pretty": json.dumps(run(call("look"), answer("Error: no")), indent=1).encode(),
    "array": json.dumps(PLAIN).encode(),
    "messages": _lines(*PLAIN),
    "gzip": gzip.compress(_lines(run(call("a"), answer("1"), trial=1), run(call("b"), trial=2))),
    "several": _lines(*(run(*[call("a"), answer("Error: x")] * number, trial=number) for number in range(4))),
}  # fmt: skip
REFUSED = {"nul.jsonl", "surrogate_result.jsonl", "dup_key_after_20000.jsonl"}  # a run that is named, not imported
OTHERS = {path.name: path.read_bytes() for path in sorted(REAL.with_name("transcripts").glob("*.json*"))}


def _assert_counts(data: bytes) -> None:
    expected = [counted(messages) for messages in runs_in(data)]
    with ms.MemoryStorage.open(":memory:") as storage:
        report = import_stream(storage, io.BytesIO(data))
        assert (report.imported, report.failed) == (len(expected), [])
        assert report.undated == sum(counts.starts_at is None for counts in expected)
        episodes = list(storage.episodes.iterate(direction="oldest_first"))
        pairs = list(zip(episodes, expected, strict=True))
        for episode, counts in pairs:
            finished = episode.outcome is not None
            assert stored(episode, undated=counts.starts_at is None, finished=finished) == counts._replace(
                ends_at=counts.ends_at if finished else None
            )
        figures = {use.tool: use.steps for use in storage.analytics.tools()}
        assert figures == dict(sum((Counter(counts.tools) for counts in expected), Counter()))


@pytest.mark.parametrize("name", [*FILES, *sorted(OTHERS.keys() - REFUSED)])
def test_the_counts_are_those_of_a_plain_reading(name):
    _assert_counts({**FILES, **OTHERS}[name])
