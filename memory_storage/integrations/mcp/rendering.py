"""Markdown of episodes, steps and patterns, within a number of characters; what is cut is said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic_core import to_json

from memory_storage._formatting import in_one_line, printable
from memory_storage.models import AnyPattern, Episode, Step, StepError, StepOk, StepTimeout

_FENCE = re.compile("`{3,}")


def in_line(text: str, most: int) -> str:
    """Return a text in one line of at most `most` characters, with an ellipsis if it was cut."""
    line = in_one_line(text)
    return line if len(line) <= most else f"{line[: max(most - 1, 0)]}…"


def cut(text: str, most: int, advice: str) -> str:
    """Return at most `most` characters of a text, and a line that says how many were cut and where they are.

    Args:
        text: The text.
        most: The maximum number of characters, without the line.
        advice: How to get the rest.
    """
    return text if len(text) <= most else f"{text[:most]}\n[{len(text) - most:,} characters cut: {advice}]"


def fenced(text: str) -> str:
    """Return a code block that contains the text, whatever backticks it has."""
    fence = "`" * max(3, 1 + max((len(one) for one in _FENCE.findall(text)), default=0))
    return f"{fence}\n{text}\n{fence}"


def outcome_of(episode: Episode) -> str:
    """Return the kind of outcome, or "open"."""
    return episode.outcome.kind if episode.outcome else "open"


def head_of(episode: Episode) -> str:
    """Return the Markdown of an episode without its steps."""
    facts: dict[str, object] = {
        "id": episode.id,
        "type": episode.task_type,
        "domain": episode.context.domain,
        "language": episode.context.language,
        "framework": episode.context.framework,
        "started": episode.started_at.isoformat(),
        "completed": episode.completed_at and episode.completed_at.isoformat(),
        "outcome": outcome_of(episode),
        "reward": None if episode.reward is None else f"{episode.reward.total:.4g}",
        "tags": ", ".join([*episode.tags, *episode.context.tags]) or None,
        "artifacts": ", ".join(episode.artifacts) or None,
    }
    lines = [f"# {in_one_line(episode.task_description)}", ""]
    lines += [f"- {name}: {in_one_line(str(value))}" for name, value in facts.items() if value is not None]
    if episode.metadata:
        lines.append(f"- metadata: {_json(episode.metadata)}")
    if episode.outcome is not None:
        lines += ["", "## Outcome", "", printable(_outcome_text(episode))]
    if episode.reflection is not None:
        reflection = episode.reflection
        sections = {
            "What succeeded": reflection.successes,
            "What to improve": reflection.improvements,
            "Lessons": reflection.insights,
        }
        for title, texts in sections.items():
            if texts:
                lines += ["", f"## {title}", "", *[f"- {in_one_line(text)}" for text in texts]]
    return "\n".join(lines)


def step_of(step: Step, most: int | None = None) -> str:
    """Return the Markdown of a step.

    Args:
        step: The step.
        most: The maximum number of characters of its parameters, and of its output; None for all.
    """
    advice = f"get_episode with step={step.step_number}"
    status, output = _result_of(step)
    latency = f", {step.latency_ms:,} ms" if step.latency_ms else ""
    title = f"### Step {step.step_number}: {in_one_line(step.tool)} ({status}{latency})"
    parts = [title if most is None else in_line(title, most)]
    if step.action:
        parts.append(printable(step.action) if most is None else in_line(step.action, most))
    texts = ["" if not step.parameters else _json(step.parameters), printable(output)]
    parts += [fenced(text if most is None else cut(text, most, advice)) for text in texts if text]
    return "\n\n".join(parts)


def pattern_text(pattern: AnyPattern, most: int) -> str:
    """Return a pattern in one line of Markdown."""
    facts = f"success rate {pattern.success_rate:.0%}, seen {pattern.occurrence_count:,} times"
    return f"- {pattern.kind}: {in_line(pattern.description, most)} ({facts})"


def bulleted(title: str, lines: Sequence[str], nothing: str) -> str:
    """Return a list in Markdown with its title, or what to say if there is nothing in it."""
    return "\n".join([title, "", *lines]) if lines else nothing


def _outcome_text(episode: Episode) -> str:
    outcome = episode.outcome
    parts = outcome.model_dump(exclude={"kind"}, exclude_defaults=True) if outcome else {}
    lines = [value if name in ("verdict", "reason") else f"{name}: {_json(value)}" for name, value in parts.items()]
    return "\n\n".join(str(line) for line in lines)


def _result_of(step: Step) -> tuple[str, str]:
    match step.result:
        case StepOk(output=output):
            return "ok", output
        case StepError(message=message):
            return "error", message
        case StepTimeout():
            return "timeout", ""
    return "running", ""


def _json(value: object) -> str:
    return printable(value if isinstance(value, str) else to_json(value).decode())
