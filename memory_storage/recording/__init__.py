"""Recording of runs while they happen: `storage.record` and `storage.recorded`."""

from .run import Run, TimedStep, current_run

__all__ = ["Run", "TimedStep", "current_run"]
