"""Builds a handoff of an episode, from what one round trip reads of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from memory_storage._formatting import counted, in_one_line
from memory_storage.errors import NotFoundError
from memory_storage.models import Abstained, Checkpoint, Episode, Failure, Handoff, PartialSuccess
from memory_storage.models.display import shortened
from memory_storage.repositories.episodes import sql as episodes_sql
from memory_storage.repositories.episodes.rows import episode_from_rows
from memory_storage.repositories.patterns import sql as patterns_sql
from memory_storage.repositories.patterns.rows import pattern_from_row
from memory_storage.sql.session import Row, SessionProtocol
from memory_storage.sql.statement import SqlTemplate

from . import sql
from .rows import checkpoint_from_row

_STEPS = 40  # the latest steps, and as many of the latest that failed
_TEXT = 300  # characters of an action and of an error
_PATTERNS = 5
_LAST = 2**31

# Only the beginnings of texts are read: 80 outputs could be more than a server puts into one response.
_LATEST_STEPS = SqlTemplate(f"""
SELECT step_number, tool, substr(document ->> '$.action', 1, {_TEXT}), status, substr(output, 1, {_TEXT})
FROM steps WHERE namespace = :namespace AND episode_id = :episode_id AND step_number IN (
    SELECT * FROM (
        SELECT step_number FROM steps
        WHERE namespace = :namespace AND episode_id = :episode_id AND step_number <= :last
        ORDER BY step_number DESC LIMIT {_STEPS})
    UNION SELECT * FROM (
        SELECT step_number FROM steps
        WHERE namespace = :namespace AND episode_id = :episode_id AND step_number <= :last
            AND status IN ('error', 'timeout')
        ORDER BY step_number DESC LIMIT {_STEPS}))
ORDER BY step_number
""")
# An open status counts neither as a success nor as a failure.
_TOOLS = SqlTemplate("""
SELECT tool, count(*), sum(status IS 'ok') FROM steps
WHERE namespace = :namespace AND episode_id = :episode_id AND step_number <= :last
GROUP BY tool ORDER BY min(step_number)
""")
# Those that were recalled for the episode, those that it is evidence of, then the best of its domain.
_RELATED_PATTERNS = SqlTemplate(f"""
WITH e AS MATERIALIZED (
    SELECT id, domain, document FROM episodes WHERE namespace = :namespace AND id = :episode_id),
related (id, place) AS (
    SELECT recalled.value ->> 1, 0 FROM e CROSS JOIN json_each(e.document, '$.recalled.items') AS recalled
        WHERE recalled.value ->> 0 = 'pattern'
    UNION ALL SELECT p.id, 1 FROM e CROSS JOIN facets AS f ON f.namespace = :namespace AND f.owner_type = 'pattern'
        AND f.name = 'evidence' AND f.value = e.id CROSS JOIN patterns AS p ON p.seq = f.owner_seq
    UNION ALL SELECT * FROM (SELECT p.id, 2 FROM e CROSS JOIN patterns AS p
        ON p.namespace = :namespace AND p.domain = e.domain ORDER BY p.success_rate DESC LIMIT {_PATTERNS}))
SELECT {patterns_sql.ROW} FROM patterns CROSS JOIN (SELECT id AS key, min(place) AS place FROM related GROUP BY id)
    ON patterns.namespace = :namespace AND patterns.id = key
ORDER BY place, success_rate DESC, id LIMIT {_PATTERNS}
""")


class _StepLine(NamedTuple):
    number: int
    tool: str
    action: str | None
    status: str | None
    output: str | None

    @property
    def has_failed(self) -> bool:
        return self.status in ("error", "timeout")

    @property
    def name(self) -> str:
        return in_one_line(f"{self.tool} {self.action or ''}")


def build_handoff(session: SessionProtocol, episode_id: str, checkpoint: Checkpoint | None) -> Handoff:
    """Return the handoff of an episode, from its latest checkpoint or from the given one.

    Raises:
        NotFoundError: The episode does not exist.
    """
    key = {"namespace": session.namespace, "episode_id": episode_id}
    last = _LAST if checkpoint is None else checkpoint.step_number
    heads, checkpoints, latest, tools, patterns = session.read_all(
        [
            episodes_sql.GET_HEAD.bind(namespace=session.namespace, id=episode_id),
            sql.LATEST.bind(**key),
            _LATEST_STEPS.bind(last=last, **key),
            _TOOLS.bind(last=last, **key),
            _RELATED_PATTERNS.bind(**key),
        ]
    )
    if not heads:
        raise NotFoundError("episode", episode_id)
    episode = episode_from_rows(heads)
    if checkpoint is None and checkpoints:
        checkpoint = checkpoint_from_row(checkpoints[0])
    lines = [_StepLine(*row) for row in latest]
    return Handoff(
        episode_id=episode.id,
        goal=episode.task_description,
        status=episode.outcome.kind if episode.outcome else "open",
        checkpoint=checkpoint,
        steps=sum(row[1] for row in tools),
        done=list(_done(lines, tools)),
        worked=_distinct(_worked(episode, tools)),
        failed=_distinct(_failed(episode, lines)),
        next=_distinct(_next(episode, checkpoint, lines)),
        patterns=[pattern_from_row(row) for row in patterns],
        state=checkpoint.state if checkpoint else {},
    )


def _done(lines: Sequence[_StepLine], tools: Sequence[Row]) -> Iterator[str]:
    """Yield the latest steps that did not fail, and before them how many there were."""
    shown = lines[-_STEPS:]
    if before := sum(row[1] for row in tools) - len(shown):
        used = ", ".join(f"{in_one_line(tool)} {count:,}" for tool, count, _ in tools[:_PATTERNS])
        yield f"{counted(before, 'earlier step')}; of all steps: {used}"
    for name, group in groupby((line for line in shown if not line.has_failed), key=lambda line: line.name):
        run = list(group)
        numbers = f"{run[0].number}" if len(run) == 1 else f"{run[0].number} to {run[-1].number}"
        yield f"{numbers}: {name}{f' ({len(run)} times)' if len(run) > 1 else ''}"


def _worked(episode: Episode, tools: Sequence[Row]) -> Iterator[str]:
    outcome, reflection = episode.outcome, episode.reflection
    if verdict := getattr(outcome, "verdict", ""):
        yield verdict
    if isinstance(outcome, PartialSuccess):
        yield from outcome.completed
    if reflection is not None:
        yield from (*reflection.successes, *reflection.insights)
    elif outcome is None:
        for tool, count, succeeded in tools:
            if succeeded:
                yield f"{in_one_line(tool)}: {succeeded:,} of {counted(count, 'call')} succeeded"


def _failed(episode: Episode, lines: Sequence[_StepLine]) -> Iterator[str]:
    outcome = episode.outcome
    for line in lines:
        if line.has_failed:
            said = "timeout" if line.status == "timeout" else shortened(line.output or "error", _TEXT)
            yield f"{line.number}: {line.name}: {said}"
    if isinstance(outcome, Failure | Abstained):
        yield outcome.reason
    if isinstance(outcome, PartialSuccess):
        yield from outcome.failed
    if isinstance(outcome, Abstained):
        yield from outcome.infeasibility_signals


def _next(episode: Episode, checkpoint: Checkpoint | None, lines: Sequence[_StepLine]) -> Iterator[str]:
    planned = checkpoint.state.get("next") if checkpoint else None
    for text in planned if isinstance(planned, list) else [planned]:
        if isinstance(text, str):
            yield text
    if isinstance(episode.outcome, PartialSuccess):
        yield from episode.outcome.failed
    if episode.reflection is not None:
        yield from episode.reflection.improvements
    if lines and lines[-1].has_failed:
        yield f"resolve what failed in step {lines[-1].number}: {lines[-1].name}"


def _distinct(texts: Iterator[str]) -> list[str]:
    return list(dict.fromkeys(text for text in texts if text.strip()))
