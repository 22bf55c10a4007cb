"""A Markdown document with a section per episode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, BinaryIO

from memory_storage._formatting import in_one_line, printable
from memory_storage.models import Episode, Step

from .notes import Notes
from .turns import output_of, verdict_of


class Markdown:
    """Writes episodes as sections of a document."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._separator = b""

    def write(self, episode: Episode, notes: Notes) -> None:  # noqa: ARG002 - it has all of an episode
        """Write an episode as a section."""
        self._stream.write(self._separator)
        for line in _lines_of(episode):  # one by one: an output may be large
            self._stream.write(line.encode())
            self._stream.write(b"\n")
        self._separator = b"\n"

    def finish(self) -> None:
        """Write nothing: the format has no footer."""


def _lines_of(episode: Episode) -> Iterator[str]:
    """Yield the task, facts, the steps with complete results, outcome and reflection."""
    title, _, rest = episode.task_description.partition("\n")
    yield from (f"## {_escaped(title)}", "")
    if rest.strip():
        yield from (*_fenced(rest), "")
    yield from (f"- {name}: {_escaped(str(value))}" for name, value in _facts(episode) if value)
    for step in episode.steps:
        yield from _lines_of_step(step)
    if episode.outcome is not None:
        details = episode.outcome.model_dump(exclude={"kind", "verdict", "reason"}, exclude_defaults=True)
        yield from ("", f"### Outcome: {episode.outcome.kind}", "", _escaped(verdict_of(episode)), "")
        yield from (f"- {name}: {_escaped(value)}" for name, value in _flat(details))
    if episode.reflection is not None:
        yield from ("", "### Reflection", "")
        said = episode.reflection.model_dump(mode="json")
        yield from (f"- {name}: {_escaped(value)}" for name, value in _flat(said))
    if episode.summary is not None:
        yield from ("", "### Summary", "", _escaped(episode.summary.text), "")
        said = episode.summary.model_dump(mode="json", exclude={"text"})
        yield from (f"- {name}: {_escaped(value)}" for name, value in _flat(said))
    if episode.metadata:
        yield from ("", "### Metadata", "", *_fenced(_json(episode.metadata), "json"))


def _facts(episode: Episode) -> Iterator[tuple[str, object]]:
    context = episode.context
    yield "id", episode.id
    yield "type", episode.task_type
    yield from ((name, getattr(context, name)) for name in ("domain", "language", "framework", "complexity"))
    yield "started", episode.started_at.isoformat()
    yield "completed", episode.completed_at and episode.completed_at.isoformat()
    yield "archived", episode.archived_at and episode.archived_at.isoformat()
    reward = episode.reward
    if reward is not None:
        parts = reward.model_dump(exclude={"total"}, exclude_defaults=True)
        yield "reward", f"{reward.total:g}{f' ({_json(parts)})' if parts else ''}"
    yield "tags", ", ".join(episode.tags)
    yield "tags of the context", ", ".join(context.tags)
    yield "artifacts", ", ".join(episode.artifacts)
    if episode.recalled is not None:
        yield "recalled", ", ".join(f"{kind} {identifier}" for kind, identifier in episode.recalled.items)


def _lines_of_step(step: Step) -> Iterator[str]:
    status = step.result.status if step.result else "no result"
    yield from ("", f"### Step {step.step_number}: {_escaped(step.tool)}, {status}")
    if step.action:
        yield from ("", _escaped(step.action))
    facts = {"latency": step.latency_ms and f"{step.latency_ms:,} ms", "tokens": step.tokens_used}
    facts["started"] = step.started_at.isoformat()
    yield from ("", ", ".join(f"{name} {value}" for name, value in facts.items() if value))
    for name, value in (("Parameters", step.parameters), ("Metadata", step.metadata)):
        if value:
            yield from ("", f"{name}:", "", *_fenced(_json(value), "json"))
    if text := output_of(step):
        yield from ("", "Result:", "", *_fenced(text))


def _flat(values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in values.items():
        for one in value if isinstance(value, list) else [value]:
            yield name.replace("_", " "), str(one)


def _fenced(text: str, language: str = "") -> list[str]:
    """Return a code block, whose fence is longer than any in the text."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return [fence + language, printable(text).rstrip("\n"), fence]


def _escaped(text: str) -> str:
    """Return a text in which Markdown and HTML see no markup, in one line."""
    line = re.sub(r"([\\`*_{}\[\]<>#|&])", r"\\\1", in_one_line(text))
    return re.sub(r"^(\d*)([-+=~.)])", r"\1\\\2", line)  # what would begin a list or underline a heading


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, indent=1)
