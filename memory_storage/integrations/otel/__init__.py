"""Record the runs of instrumented agents from their OpenTelemetry spans. Needs the extra `otel`.

    from memory_storage.integrations.otel import EpisodeRecorder

    tracer_provider.add_span_processor(EpisodeRecorder(storage))

Spans are read by OpenTelemetry's conventions for generative AI (`gen_ai.*`) and by OpenInference's. The conventions are
in development: attributes of older versions are read too.
"""

from memory_storage.integrations._packages import needs

with needs("EpisodeRecorder needs OpenTelemetry's SDK: pip install 'memory-storage[otel]'", "opentelemetry"):
    from .recorder import EpisodeRecorder, RecorderStats

__all__ = ["EpisodeRecorder", "RecorderStats"]
