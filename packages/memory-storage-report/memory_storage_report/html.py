"""The report as one self-contained page of HTML, without script, network or fonts.

All content of episodes is untrusted. The template escapes it, the chart library escapes it in SVG, and the page's
Content-Security-Policy blocks scripts and requests.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic_core import to_json

from memory_storage import ConfigurationError
from memory_storage.dbapi import is_open_here
from memory_storage.models import Episode, Step, StepError, StepOk

from .charts import charts
from .collection import Report
from .formatting import between, counted, number, percent, seconds
from .section import Section, sections
from .svg import Spec, clean, render_svg

WIDE, NARROW = 646, 326
_MAX_TEXT_LENGTH = 2_000
_MAX_STEPS = 200
_MARKS = {"ok": "ok", "error": "error", "timeout": "timeout", "": "no result"}


@dataclass(frozen=True, slots=True)
class _Picture:
    wide: str
    narrow: str


@dataclass(frozen=True, slots=True)
class _StepView:
    number: int
    tool: str
    action: str
    status: str
    mark: str
    took: str
    share: float
    parameters: str
    output: str


@dataclass(frozen=True, slots=True)
class _EpisodeView:
    id: str
    task: str
    outcome: str
    verdict: str
    facts: Sequence[str]
    steps: Sequence[_StepView]
    more: int


def page(report: Report) -> str:
    """Return the HTML of the page."""
    pictures = {key: _picture(chart, _description(report, key)) for key, chart in charts(report).items()}
    text: str = (
        _environment()
        .get_template("page.html")
        .render(
            report=report,
            style=_asset("page.css"),
            sections=sections(report),
            pictures=pictures,
            cards=_cards(report),
            episodes=[_episode(one) for one in report.episodes],
            sequences=[_SequenceView.of(row) for row in report.sequences],
            all_rate=report.all.success.rate,
        )
    )
    return text


def write_page(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write the page to a file atomically: an existing file is replaced, or unchanged if writing fails.

    A new file has the permissions 0600; an existing one keeps its permissions.

    Args:
        report: the report to show.
        path: the file, in an existing directory.

    Returns:
        The path of the file.

    Raises:
        ConfigurationError: the file cannot be written, or is a database that this process has open.
    """
    target = Path(path)
    if is_open_here(target):
        raise ConfigurationError(
            f"{target}: this process has it open as a database; nothing was changed; choose another file for the report"
        )
    text = page(report)
    try:
        _replace(target, text.encode("utf-8", errors="replace"))
    except OSError as error:
        reason = error.strerror or error
        raise ConfigurationError(
            f"{target}: cannot be written: {reason}; nothing was changed; choose a directory that can be written to"
        ) from error
    return target


def _replace(path: Path, content: bytes) -> None:
    """Write to a temporary file next to `path`, and rename it: readers see the old page or the new one."""
    # mkstemp opens a random name with O_EXCL, mode 0600, and follows no link that was planted in the directory.
    descriptor, name = tempfile.mkstemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent)
    scratch = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                scratch.chmod(path.stat().st_mode & 0o666)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    except BaseException:
        scratch.unlink(missing_ok=True)
        raise


@dataclass(frozen=True, slots=True)
class _SequenceView:
    tools: Sequence[str]
    episodes: int
    success: str
    between: str
    lift: str
    low: float
    rate: float
    high: float

    @classmethod
    def of(cls, row: Any) -> _SequenceView:
        success = row.success
        lift = "-" if row.lift is None else f"{row.lift:.2f}"
        bounds = (success.low or 0.0, success.rate or 0.0, success.high or 0.0)
        return cls(
            row.tools, row.episodes, percent(success.rate), between(success), lift, *(100 * bound for bound in bounds)
        )


def _cards(report: Report) -> list[tuple[str, str, str]]:
    success, reward = report.all.success, report.all.reward
    errors = sum(row.error.count for row in report.tools)
    steps = sum(row.steps for row in report.tools)
    ended = sum(row.error.of for row in report.tools)
    return [
        ("episodes", f"{report.all.episodes:,}", _span(report)),
        ("succeeded", percent(success.rate), f"{between(success)} (95 %), {success.count:,} of {success.of:,}"),
        ("mean reward", number(reward.mean), f"of {reward.of:,} with a reward"),
        ("mean duration", seconds(report.all.duration_s.mean), f"of {report.all.duration_s.of:,} that ended"),
        ("steps", f"{steps:,}", f"with {counted(len(report.tools), 'tool')}"),
        ("failed steps", percent(errors / ended if ended else None), f"{errors:,} of {ended:,} with a result"),
    ]


def _span(report: Report) -> str:
    first, last = report.span.first, report.span.last
    if first is None or last is None:
        return "none yet"
    return f"{first.date()}" if first.date() == last.date() else f"{first.date()} to {last.date()}"


def _description(report: Report, key: str) -> str:
    section: Section = next(one for one in sections(report) if one.key == key)
    return f"{section.title}. {section.summary} The numbers are in the table below."


def _picture(chart: Callable[[int], Spec], description: str) -> _Picture:
    return _Picture(render_svg(chart(WIDE), description), render_svg(chart(NARROW), description))


def _episode(episode: Episode) -> _EpisodeView:
    longest = max((step.latency_ms for step in episode.steps), default=0)
    outcome, reward = episode.outcome, episode.reward
    parts = outcome.model_dump(exclude={"kind"}, exclude_defaults=True).values() if outcome else ()
    facts = [
        episode.started_at.isoformat(sep=" ", timespec="seconds"),
        str(episode.task_type),
        episode.context.domain,
        f"reward {number(reward.total)}" if reward else "",
        ", ".join(episode.tags),
    ]
    return _EpisodeView(
        str(episode.id),
        _clean(episode.task_description, 600),
        outcome.kind if outcome else "open",
        _clean("; ".join(map(str, parts)), 600),
        [fact for fact in facts if fact],
        [_step(step, longest) for step in episode.steps[:_MAX_STEPS]],
        max(0, len(episode.steps) - _MAX_STEPS),
    )


def _step(step: Step, longest: int) -> _StepView:
    result = step.result
    output = result.output if isinstance(result, StepOk) else result.message if isinstance(result, StepError) else ""
    status = result.status if result else ""
    return _StepView(
        step.step_number or 0,
        step.tool,
        _clean(step.action, 300),
        status or "none",
        _MARKS[status],
        f"{step.latency_ms:,} ms" if step.latency_ms else "",
        100 * step.latency_ms / longest if longest else 0.0,
        _clean(to_json(step.parameters, indent=2).decode(), _MAX_TEXT_LENGTH) if step.parameters else "",
        _clean(output, _MAX_TEXT_LENGTH),
    )


def _clean(text: str, length: int) -> str:
    shown = clean(text[:length])
    return shown if len(text) <= length else f"{shown}… ({counted(len(text) - length, 'more character')})"


def _environment() -> Any:
    import jinja2  # only the page needs it

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["counted"] = counted
    environment.filters["clean"] = lambda value: clean(str(value))
    return environment


def _asset(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")
