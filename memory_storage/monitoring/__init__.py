"""Operation metrics, the slow-query log, the audit log, and exporters for Prometheus and OpenTelemetry.

`memory_storage.monitoring.prometheus` and `.opentelemetry` need the extras of these names; import them explicitly.
"""

from ._audit import AuditRecord
from ._histogram import Histogram
from ._metrics import Meter, Observer, Operation, current, named_operation, note_removed, operation
from ._slow_query_log import log_slow_query, without_literals

__all__ = [
    "AuditRecord",
    "Histogram",
    "Meter",
    "Observer",
    "Operation",
    "current",
    "log_slow_query",
    "named_operation",
    "note_removed",
    "operation",
    "without_literals",
]
