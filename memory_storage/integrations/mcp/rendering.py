"""Markdown of episodes and steps, within a number of characters; what is cut is said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pydantic_core import to_json

from memory_storage._formatting import printable
from memory_storage.models import Episode, Outcome, Step, StepError, StepOk, StepTimeout
from memory_storage.models.markdown import inline

_FENCE = re.compile("`{3,}")


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
    context, reward = episode.context, episode.reward
    facts: dict[str, object] = {
        "id": episode.id,
        "type": episode.task_type,
        "domain": context.domain,
        "language": context.language,
        "framework": context.framework,
        "started": episode.started_at.isoformat(),
        "completed": episode.completed_at and episode.completed_at.isoformat(),
        "outcome": outcome_of(episode),
        "reward": reward and f"{reward.total:.4g}",
        "tags": ", ".join([*episode.tags, *context.tags]),
        "artifacts": ", ".join(episode.artifacts),
        "metadata": _json(episode.metadata) if episode.metadata else None,
    }
    lines = [f"# {inline(episode.task_description)}", ""]
    lines += [f"- {name}: {inline(str(value))}" for name, value in facts.items() if value]
    if episode.outcome is not None:
        lines += ["", "## Outcome", "", fenced(_outcome_text(episode.outcome))]
    if (summary := episode.summary) is not None:
        lines += ["", "## Summary", "", fenced(printable(summary.text))]
        lists = {"Key steps": summary.key_steps, "Key concepts": summary.key_concepts}
        for title, texts in lists.items():
            if texts:
                lines += ["", f"### {title}", "", *[f"- {inline(text)}" for text in texts]]
    if (notes := episode.reflection) is not None:
        sections = {"Successes": notes.successes, "To improve": notes.improvements, "Learned": notes.insights}
        for title, texts in sections.items():
            if texts:
                lines += ["", f"## {title}", "", *[f"- {inline(text)}" for text in texts]]
    return "\n".join(lines)


def step_of(step: Step, most: int | None = None) -> str:
    """Return the Markdown of a step.

    Args:
        step: The step.
        most: The maximum number of characters of its action, its parameters and its output, each; None for all.
    """
    advice = f"get_episode with step={step.step_number}"
    status, output = _result_of(step)
    latency = f", {step.latency_ms:,} ms" if step.latency_ms else ""
    short = len(step.tool) if most is None else most // 4
    parts = [f"### Step {step.step_number}: {inline(step.tool, short)} ({status}{latency})"]
    texts = [step.action, _json(step.parameters) if step.parameters else "", output]
    parts += [fenced(text if most is None else cut(text, most, advice)) for text in map(printable, texts) if text]
    return "\n\n".join(parts)


def bulleted(title: str, lines: Sequence[str], nothing: str) -> str:
    """Return a list in Markdown with its title, or what to say if there is nothing in it."""
    return "\n".join([title, "", *lines]) if lines else nothing


def _outcome_text(outcome: Outcome) -> str:
    fields = outcome.model_dump(exclude={"kind"}, exclude_defaults=True)
    lines = [
        str(value) if name in ("verdict", "reason") else f"{name}: {_json(value)}" for name, value in fields.items()
    ]
    return printable("\n".join(lines))


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
    return to_json(value, inf_nan_mode="null").decode()
