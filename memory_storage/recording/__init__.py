"""Recording of runs while they happen: `storage.record`, `storage.recorded` and `storage.buffered_steps`."""

from .run import Run, TimedStep, current_run
from .step_buffer import StepBuffer

__all__ = ["Run", "StepBuffer", "TimedStep", "current_run"]
