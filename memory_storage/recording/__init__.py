"""Recording of runs while they happen: `storage.record` and `storage.recorded`."""

from .decorator import CallRecorder
from .run import Run, TimedStep, current_run
from .values import Capture

__all__ = ["CallRecorder", "Capture", "Run", "TimedStep", "current_run"]
