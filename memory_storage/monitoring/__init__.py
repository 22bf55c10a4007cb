"""Seeing what goes on: each operation is counted and timed here, and handed on to logs, Prometheus and OpenTelemetry.

`memory_storage.monitoring.prometheus` and `.opentelemetry` need the extras of these names, and are imported when used.
"""

from ._audit import Entry
from ._histogram import Histogram
from ._metrics import Call, Meter, Observer, counted, here, metered, touched
from ._slow_query_log import explain, shown

__all__ = [
    "Call",
    "Entry",
    "Histogram",
    "Meter",
    "Observer",
    "counted",
    "explain",
    "here",
    "metered",
    "shown",
    "touched",
]
