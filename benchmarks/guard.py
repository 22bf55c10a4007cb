"""The cost of the guard and the metrics: a local `get` with and without them, in the same run.

Guarded: `storage.episodes.get` as users call it: circuit breaker, repeats, counting and timing. Bare: the same method
of the same class, in a session that takes a connection of the same pool, runs the statement, and translates
errors. The sides take turns, and a ratio is the guarded time by the bare one: 1.0 costs nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from memory_storage import dbapi
from memory_storage._exception_mapping import map_exceptions
from memory_storage._execution import Executor, Response, execute_raw, has_listeners
from memory_storage.repositories import EpisodeRepository
from memory_storage.session import Session

from . import _workload
from ._measure import Times, Work, interleaved
from ._report import Line, Report, milliseconds
from .local import Files, facade

ALLOWED = 1.06
_CALLS = 25  # few, so that a disturbance affects few rounds
_NOTES = (
    "ratio: the guarded time by the bare one, each of the fastest tenth of its rounds, because other load only makes "
    "rounds longer. min - max: of the 5th to 25th percentile. The bound is 0.01 above the documented 5 %, because the "
    "measurement varies by that much.",
)
_QUANTILES = (0.05, 0.1, 0.25)


class Bare(Executor):
    """Runs batches without guard and metrics."""

    def _run(self, batch: dbapi.Batch, *, deadline: float | None = None) -> Response:
        with map_exceptions(self.engine):
            assert not has_listeners(self.engine)
            return execute_raw(self.engine, batch, deadline=deadline)


def run(*, short: bool) -> Report:
    """Measure with an episode of 20 steps."""
    with tempfile.TemporaryDirectory() as directory:
        files = Files(Path(directory), count=100)
        line = measured(files, rounds=600 if short else 1500)
    return Report("Cost of the guard and the metrics, on a local file", [line], [files.description, *_NOTES])


def measured(files: Files, *, rounds: int) -> Line:
    """Return the ratio of many rounds."""
    with facade(files.stored) as storage:
        context = storage._context
        executor = Bare(context.engine, context.guard, context.meter, storage.settings.request_timeout)
        bare = EpisodeRepository(Session(context, storage.namespace, executor=executor))
        get: Any = EpisodeRepository.get.__wrapped__  # type: ignore[attr-defined]  # past the metrics
        assert get(bare, _workload.episode_id(0)) == storage.episodes.get(_workload.episode_id(0))

        def prepare(number: int) -> Mapping[str, Work]:
            ids = [_workload.episode_id((number * _CALLS + call) % files.count) for call in range(_CALLS)]
            return {
                "guarded": lambda: [storage.episodes.get(one) for one in ids],
                "bare": lambda: [get(bare, one) for one in ids],
            }

        times: Times = interleaved(prepare, rounds, collect_every=10)  # else it takes most of the time
    detail = ", ".join(f"{side} {milliseconds(median(times[side]) / _CALLS)}" for side in ("guarded", "bare"))
    found = [_quantile(times["guarded"], part) / _quantile(times["bare"], part) for part in _QUANTILES]
    return Line("get an episode of 20 steps", found[1], min(found), max(found), detail, at_most=ALLOWED)


def _quantile(seconds: Sequence[float], part: float) -> float:
    return sorted(seconds)[int(part * len(seconds))]
