"""The storage for asyncio: `AsyncMemoryStorage` has the methods of `MemoryStorage`, to be awaited.

Threads of its own run the calls, a bounded number of them; the event loop never waits for the database.
"""

from ._repositories import (
    AsyncAnalyticsRepository,
    AsyncConflictRepository,
    AsyncEmbeddingRepository,
    AsyncEpisodeRepository,
    AsyncEpisodesByLocation,
    AsyncPatternRepository,
    AsyncRetentionRepository,
    AsyncSpatiotemporalRepository,
    AsyncStepRepository,
    AsyncVectorIndex,
)
from .storage import AsyncMemoryStorage, AsyncTransaction, Opening

__all__ = [
    "AsyncAnalyticsRepository",
    "AsyncConflictRepository",
    "AsyncEmbeddingRepository",
    "AsyncEpisodeRepository",
    "AsyncEpisodesByLocation",
    "AsyncMemoryStorage",
    "AsyncPatternRepository",
    "AsyncRetentionRepository",
    "AsyncSpatiotemporalRepository",
    "AsyncStepRepository",
    "AsyncTransaction",
    "AsyncVectorIndex",
    "Opening",
]
