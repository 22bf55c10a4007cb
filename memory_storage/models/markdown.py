"""Markdown of episodes and patterns, for a prompt.

What is stored comes from outside: each text is one line, without control characters, behind a label or in a code span,
and what would open a tag, a link or a code span is escaped. So no text adds a heading, a list item or a block, or
closes a tag that the prompt has around it. That the reader of a prompt obeys a text cannot be prevented here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from memory_storage._formatting import counted
from memory_storage.errors import ValidationError

from .display import shortened
from .proportion import wilson

if TYPE_CHECKING:  # these modules import this one
    from .composition import PlaybookStep
    from .episode import Episode, Step
    from .pattern import AnyPattern
    from .summary import EpisodeSummary

_UNLIMITED = 2**31
_CONFIDENCE = 0.95
_ERROR_LENGTH = 60  # characters: an error is shown where outputs are not

_TAG = re.compile("<(?=[A-Za-z/!?])")
# What begins a code span, a link or an image, and a backslash that would undo an escape.
_ESCAPED = re.compile(r"`|\](?=\()|(?<=!)\[|\\(?=[!-/:-@\[-`{-~]|$)")
# Tags of Unicode, which no reader sees and a language model reads, and white space without a width.
_INVISIBLE = re.compile("[\u200b\u2060\ufeff\U000e0000-\U000e007f]")


@dataclass(frozen=True)
class Detail:
    """How much of a record its Markdown has.

    Attributes:
        text: characters of a description, a verdict or a reason.
        output: characters of the parameters and the output of a step; 0 leaves them out.
        steps: steps; 0 leaves only the tools, in one line.
        notes: insights and suggested improvements.
    """

    text: int
    output: int
    steps: int
    notes: int


COMPLETE = Detail(_UNLIMITED, _UNLIMITED, _UNLIMITED, _UNLIMITED)
DETAILS = (
    Detail(1_000, 400, 40, 5),
    Detail(600, 200, 20, 4),
    Detail(400, 100, 12, 3),
    Detail(300, 50, 8, 2),
    Detail(200, 0, 6, 1),
    Detail(120, 0, 0, 0),
)
"""The levels from the most detailed to the leanest."""


def inline(text: str, most: int = _UNLIMITED) -> str:
    """Return the beginning of a text in one line, without what would have a meaning in Markdown.

    Args:
        text: The text.
        most: The greatest number of its characters; escapes come on top.
    """
    return _TAG.sub("&lt;", _ESCAPED.sub(r"\\\g<0>", shortened(_INVISIBLE.sub("", text), most)))


def code(text: str, most: int = _UNLIMITED) -> str:
    """Return the beginning of a text in one line as a code span, whose fence is longer than any in the text.

    Args:
        text: The text.
        most: The greatest number of its characters.
    """
    # A code span has no escapes; a tag is taken for one by a reader that does not know Markdown.
    line = _TAG.sub("\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}", shortened(_INVISIBLE.sub("", text), most))
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", line)), default=0))
    space = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{space}{line}{space}{fence}" if line else ""


def check_max_chars(max_chars: int | None) -> None:
    """ValidationError if a length is neither None nor a whole number from 1."""
    if max_chars is not None and (type(max_chars) is not int or max_chars < 1):
        raise ValidationError("max_chars", "a whole number from 1, or None", max_chars)


def within(render: Callable[[Detail], str], max_chars: int | None) -> str:
    """Return the most detailed rendering that fits.

    Args:
        render: Returns the Markdown of a level; the first line of the leanest is cut if nothing else fits.
        max_chars: The greatest number of characters; None for all of it.
    """
    check_max_chars(max_chars)
    if max_chars is None:
        return render(COMPLETE)
    for detail in (COMPLETE, *DETAILS):
        if len(text := render(detail)) <= max_chars:
            return text
    first = text.partition("\n")[0]
    return first if len(first) <= max_chars else f"{first[: max_chars - 1].rstrip(_CUT)}…"


_CUT = "\\`& \t"  # not to end within an escape


def episode_markdown(
    episode: Episode, detail: Detail, *, heading: str = "### ", facts: Sequence[str] = (), failed: bool = False
) -> str:
    """Return an episode as a heading and a list.

    Args:
        episode: The episode.
        detail: How much of it.
        heading: What goes before the task.
        facts: Further items of the list, after the outcome.
        failed: Of the steps, only the one that failed.
    """
    items = [*_ending(episode, detail), *facts, *_notes(episode, detail)]
    if failed:
        items += _failed_step(episode, detail)
    lines = [heading + (inline(episode.task_description, detail.text) or "(no description)")]
    lines += [f"- {item}" for item in items]
    if episode.summary is not None:
        lines += _summary(episode.summary, detail)
    # Where not all steps fit, a summary says more than some of them.
    if episode.steps and not failed and (episode.summary is None or len(episode.steps) <= detail.steps):
        lines += _steps(episode.steps, detail)
    return "\n".join(lines)


def pattern_markdown(pattern: AnyPattern, detail: Detail, *, facts: Sequence[str] = ()) -> str:
    """Return a pattern as an item of a list, with its success rate and the evidence for it.

    The numbered steps of a playbook follow, whole, as many as the detail allows; the last line counts the others.

    Args:
        pattern: The pattern.
        detail: How much of its text.
        facts: What follows the rate.
    """
    content = _content(pattern)
    said = inline(pattern.title or content, detail.text)
    has_steps = pattern.kind == "playbook" and detail.steps > 0
    if pattern.title and detail.notes and content not in pattern.title and not has_steps:
        said += f" ({inline(content, detail.text)})"
    known = _observations(pattern)
    label = pattern.kind.replace("_", " ").capitalize()  # without it, a text could begin a heading or a list
    lines = [f"- {label}: {said or '(no description)'} ({', '.join([*known, *facts])})"]
    if pattern.kind == "playbook" and detail.steps:
        lines += _playbook_steps(pattern.steps, detail)
    return "\n".join(lines)


def _observations(pattern: AnyPattern) -> list[str]:
    """Return the success rate with its interval, and the use of a pattern.

    A playbook that was written by hand has no evidence, and the rate of its applications.
    """
    used, rate, count = pattern.effectiveness, pattern.success_rate, pattern.occurrence_count
    if pattern.kind == "playbook" and not pattern.evidence and (rate, count) == (0, 1):
        if not used.times_applied:
            return ["not applied yet"]
        rate, count = min(1.0, used.success_when_applied / used.times_applied), used.times_applied
    interval = wilson(round(rate * count), count, _CONFIDENCE)
    known = [f"success rate {rate:.0%} of {count:,}"]
    if interval.low is not None and interval.high is not None:
        known.append(f"{_CONFIDENCE:.0%} interval {interval.low:.0%} to {interval.high:.0%}")
    if used.times_applied:
        known.append(f"applied {counted(used.times_applied, 'time')}, {used.success_when_applied:,} with success")
    return known


def _playbook_steps(steps: Sequence[PlaybookStep], detail: Detail) -> Iterator[str]:
    for number, step in enumerate(steps[: detail.steps], 1):
        yield f"  {number}. {playbook_step_markdown(step, detail)}"
    if len(steps) > detail.steps:
        yield f"  - and {counted(len(steps) - detail.steps, 'step')} that are not shown"


def playbook_step_markdown(step: PlaybookStep, detail: Detail) -> str:
    """Return a step of a playbook in one line.

    It begins with a word of this package, since a text could begin a heading or a list.

    Args:
        step: The step.
        detail: How much of its texts.
    """
    action = inline(step.action, detail.text)
    tool = code(step.tool or "", detail.text)
    does = f"use {tool}{': ' if action else ''}{action}" if tool else f"do: {action or '(no action)'}"
    if step.condition:
        does = f"if {inline(step.condition, detail.text)}, {does}"
    parts = [does[0].upper() + does[1:]]
    if step.parameters and detail.output:
        parts[0] += f" with {code(_arguments(step.parameters), detail.output)}"
    for label, text in (("Expect", step.expected_result), ("On error", step.on_error)):
        if text:
            parts.append(f"{label}: {inline(text, detail.text)}")
    return ". ".join(parts)


def _arguments(parameters: Mapping[str, Any]) -> str:
    return ", ".join(
        f"{key}={value if isinstance(value, str) else to_json(value, inf_nan_mode='null').decode()}"
        for key, value in parameters.items()
    )


def _ending(episode: Episode, detail: Detail) -> Iterator[str]:
    outcome = episode.outcome
    known = [outcome.kind.replace("_", " ") if outcome else "not complete"]
    if episode.reward is not None:
        known.append(f"reward {episode.reward.total:.4g}")
    known.append(episode.started_at.date().isoformat())
    text = getattr(outcome, "verdict", getattr(outcome, "reason", ""))
    yield f"Outcome: {', '.join(known)}{': ' if text else ''}{inline(text, detail.text)}"
    if (error := getattr(outcome, "error_details", None)) and detail.steps:
        yield f"Error: {code(error, max(detail.output, _ERROR_LENGTH))}"


def _summary(summary: EpisodeSummary, detail: Detail) -> Iterator[str]:
    """Yield the text of a summary and its key steps; the concepts only where everything is shown."""
    yield f"- Summary: {inline(summary.text, detail.text)}"
    if shown := [inline(step, detail.text) for step in summary.key_steps[: detail.steps // 2]]:
        yield "- Key steps:"
        yield from (f"  - {step}" for step in shown)
    if detail is COMPLETE and summary.key_concepts:
        yield f"- Key concepts: {', '.join(map(inline, summary.key_concepts))}"


def _notes(episode: Episode, detail: Detail) -> Iterator[str]:
    reflection = episode.reflection
    if reflection is None:
        return
    for label, notes in (("Learned", reflection.insights), ("To improve", reflection.improvements)):
        if shown := [inline(note, detail.text) for note in notes[: detail.notes]]:
            yield f"{label}: {'; '.join(shown)}"


def _failed_step(episode: Episode, detail: Detail) -> Iterator[str]:
    """Yield the last step that failed; the last of all, if none did."""
    failed = [step for step in episode.steps if _has_failed(step)]
    if failed:
        yield f"Failed step: {_step(failed[-1], detail)}"
    elif episode.steps:
        yield f"Last step: {_step(episode.steps[-1], detail)}"


def _steps(steps: Sequence[Step], detail: Detail) -> Iterator[str]:
    if not detail.steps:
        tools = _runs([inline(step.tool, detail.text) for step in steps])
        yield f"- Tools: {' → '.join(tool for tool, _ in tools[:12])}{' → …' if len(tools) > 12 else ''}"
        return
    yield "- Steps:"
    chosen = _important(steps, detail.steps)
    runs = _runs([_step(steps[at], detail, numbered=False) for at in chosen])
    place = 0
    for text, count in runs:
        first, last = steps[chosen[place]], steps[chosen[place + count - 1]]
        numbers = f"{first.step_number}" if count == 1 else f"{first.step_number} to {last.step_number}"
        yield f"  - {numbers}: {text}{f' ({count} times)' if count > 1 else ''}"
        place += count
    if left := len(steps) - len(chosen):
        yield f"  - and {counted(left, 'step')} that are not shown"


def _runs(texts: Sequence[str]) -> list[tuple[str, int]]:
    """Return the texts without repetitions of the one before, with the number of each."""
    runs: list[tuple[str, int]] = []
    for text in texts:
        if runs and runs[-1][0] == text:
            runs[-1] = text, runs[-1][1] + 1
        else:
            runs.append((text, 1))
    return runs


def _important(steps: Sequence[Step], most: int) -> list[int]:
    """Return the places of the steps that matter most, in order.

    Errors and what resolved them come first, then the last two steps, then the first use of each tool.
    """
    if len(steps) <= most:
        return list(range(len(steps)))
    weights = [0] * len(steps)
    seen: set[str] = set()
    for at, step in enumerate(steps):
        if step.tool not in seen:
            weights[at] = 1
            seen.add(step.tool)
    for at in range(max(0, len(steps) - 2), len(steps)):
        weights[at] = 2
    for at, step in enumerate(steps):
        if _has_failed(step):
            weights[at : at + 2] = [3] * len(weights[at : at + 2])
    return sorted(sorted(range(len(steps)), key=lambda at: (-weights[at], -at))[:most])


def _step(step: Step, detail: Detail, *, numbered: bool = True) -> str:
    name = " ".join(filter(None, [inline(step.tool, detail.text), inline(step.action, detail.text)]))
    texts = [f"{step.step_number}: {name}" if numbered else name]
    if step.parameters and detail.output:
        texts.append(code(_arguments(step.parameters), detail.output))
    result = step.result
    if result is not None and result.status == "error":
        texts.append(f"→ error {code(result.message, max(detail.output, _ERROR_LENGTH))}".rstrip())
    elif result is not None and result.status == "timeout":
        texts.append("→ timeout")
    elif result is not None and result.output and detail.output:
        texts.append(f"→ {code(result.output, detail.output)}")
    return " ".join(filter(None, texts))


def _has_failed(step: Step) -> bool:
    return step.result is not None and step.result.status != "ok"


def _content(pattern: AnyPattern) -> str:
    """Return what a pattern of each kind says, in one line."""
    if pattern.kind == "tool_sequence":
        return " → ".join(pattern.tools)
    if pattern.kind == "error_recovery":
        return f"after {pattern.error_type}: {' → '.join(pattern.recovery_steps)}"
    if pattern.kind == "context_pattern":
        return f"{', '.join(pattern.context_features)}: {pattern.recommended_approach}"
    if pattern.kind == "playbook":
        return " → ".join(step.tool or step.action for step in pattern.steps)
    return f"{pattern.condition}: {pattern.action}"
