"""Markdown of a handoff, within the rules of `markdown.py`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic_core import to_json

from memory_storage._formatting import counted

from .markdown import COMPLETE, DETAILS, Detail, check_max_chars, code, inline, pattern_markdown, within

if TYPE_CHECKING:  # it imports this module
    from .checkpoint import Handoff

_LEAST_ITEMS = 2  # of a section in the leanest rendering
_LEAST_STATE = 200  # characters
_STATE_FACTOR = 4  # a state is worth as many characters as this many outputs


def handoff_markdown(handoff: Handoff, max_chars: int | None) -> str:
    """Return a handoff as a heading and sections: what is next comes first, what was done last.

    Args:
        handoff: The handoff.
        max_chars: The greatest number of characters; None for all of it.
    """
    check_max_chars(max_chars)
    for detail in (COMPLETE, *DETAILS):
        text = "\n".join(_lines(handoff, detail))
        if max_chars is None or len(text) <= max_chars:
            return text
    return _beginning(list(_lines(handoff, DETAILS[-1])), max_chars or 0)


def _beginning(lines: Sequence[str], max_chars: int) -> str:
    """Return the lines from the first on that fit, without a title that nothing follows."""
    shown: list[str] = []
    for line in lines:
        if len("\n".join([*shown, line])) > max_chars:
            break
        shown.append(line)
    while shown and (not shown[-1] or shown[-1].startswith("## ")):
        shown.pop()
    return "\n".join(shown) if shown else within(lambda _: lines[0], max_chars)


def _lines(handoff: Handoff, detail: Detail) -> Iterator[str]:
    checkpoint = handoff.checkpoint
    yield f"# Handoff: {inline(handoff.goal, detail.text) or '(no description)'}"
    yield from ("", f"- Episode: {handoff.episode_id}, {handoff.status}, {counted(handoff.steps, 'step')}")
    if checkpoint is not None:
        label = inline(checkpoint.label, detail.text)
        yield f"- Checkpoint: {label}, after step {checkpoint.step_number} ({checkpoint.id})"
    if handoff.state:
        yield f"- State: {code(to_json(handoff.state).decode(), max(_STATE_FACTOR * detail.output, _LEAST_STATE))}"
    most = max(detail.steps, _LEAST_ITEMS)
    yield from _section("Next", "To do", handoff.next, most, detail)
    yield from _section("Failed", "Failed", handoff.failed, most, detail, newest_last=True)
    yield from _section("Worked", "Worked", handoff.worked, most, detail)
    yield from _section("Done", "Done", handoff.done, most, detail, newest_last=True)
    if patterns := handoff.patterns[: detail.notes]:
        yield from ("", "## Patterns", "")
        yield from (pattern_markdown(one, detail) for one in patterns)


def _section(
    title: str, label: str, texts: Sequence[str], most: int, detail: Detail, *, newest_last: bool = False
) -> Iterator[str]:
    """Yield a section of a list, of whose texts the newest are shown. A text without a label could begin a heading."""
    if not texts:
        return
    yield from ("", f"## {title}", "")
    shown = texts[-most:] if newest_last else texts[:most]
    yield from (f"- {label}: {inline(text, detail.text)}" for text in shown)
    if left := len(texts) - len(shown):
        yield f"- and {counted(left, 'item')} that {'is' if left == 1 else 'are'} not shown"
