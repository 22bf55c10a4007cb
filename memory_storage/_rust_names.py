"""Names of the Rust crate `memory-storage-turso`, and what to write for them in Python.

The package's `__getattr__` says it to a caller who uses such a name; `docs/how-to/rust-crate-names.md` is this table.
Loaded only when such a name is used.
"""

from __future__ import annotations

_OPEN = 'MemoryStorage.open("./data/memory.db"), or MemoryStorage.open("libsql://...", auth_token=...)'

WRITE: dict[str, str] = {
    "AdaptivePoolConfig": "PoolSettings(max_connections=..., min_idle=...)",
    "AgentMetrics": "storage.analytics.by(...)",
    "BatchConfig": "storage.episodes.save_many(...), which needs none",
    "CacheConfig": "nothing: reads are not cached",
    "CachedTursoStorage": _OPEN,
    "CapacityStatistics": "storage.analytics.summary()",
    "CircuitBreakerConfig": "CircuitBreakerSettings(failure_threshold=..., timeout=...), in seconds",
    "CompressionConfig": "nothing: documents are not compressed",
    "ComplexityLevel": "Complexity, or its text, like complexity='moderate'",
    "EmbeddingConfig": "an embedder: FunctionEmbedder(...) or SentenceTransformerEmbedder(...)",
    "EmbeddingProvider": "Embedder",
    "EmbeddingStorageBackend": "storage.embeddings",
    "EpisodeFilter": "keywords of storage.episodes.query(...), like outcome='success'",
    "EpisodeQuery": "keywords of storage.episodes.query(...), like domain='web-api'",
    "EpisodeRetentionPolicy": "RetentionPolicy(max_age=..., min_reward=...) with storage.retention.plan(...)",
    "Error": "MemoryStorageError",
    "EvictionPolicy": "Limits(max_episodes=..., when_full='evict')",
    "ExecutionResult": "StepOk(output=...), StepError(message=...) or StepTimeout()",
    "ExecutionStep": "Step(tool=..., action=...)",
    "HybridSearchConfig": "storage.episodes.search(text, vector=..., weights=Weights(...))",
    "KeepAliveConfig": "PoolSettings(idle_timeout=...), in seconds",
    "MonitoringStorageBackend": "storage.metrics() and storage.analytics",
    "Pattern": "ToolSequence, DecisionPoint, ErrorRecovery, ContextPattern, Heuristic or Playbook",
    "PatternEffectiveness": "models.Effectiveness",
    "PatternQuery": "keywords of storage.patterns.query(...), like kind='heuristic'",
    "PoolConfig": "PoolSettings(max_connections=..., connect_timeout=...), in seconds",
    "PoolStatistics": "models.PoolStats, from storage.pool_stats()",
    "ResilientStorage": f"{_OPEN}: the circuit breaker and the retries are on",
    "RetryConfig": "RetrySettings(max_attempts=..., initial_backoff=...), in seconds",
    "RetryPolicy": "RetrySettings(max_attempts=..., initial_backoff=...), in seconds",
    "SelfLearningMemory": _OPEN,
    "SimilaritySearchResult": "Hit, from storage.episodes.similar_to(...)",
    "SpatiotemporalIndex": "storage.spatiotemporal",
    "StorageBackend": "MemoryStorage",
    "StorageConfig": "Settings(database=...)",
    "StorageStatistics": "storage.analytics.summary()",
    "TaskOutcome": "Success(...), PartialSuccess(...), Failure(...) or Abstained(...)",
    "TursoConfig": "Settings(database=..., auth_token=..., pool=PoolSettings(...), retry=RetrySettings(...))",
    "TursoStorage": _OPEN,
}
