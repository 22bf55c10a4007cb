"""The repositories: every statement that reads or writes the five tables, run in a session they are handed."""

from ._search import Weights
from ._session import Session
from .analytics import AnalyticsRepository
from .embeddings import EmbeddingRepository
from .episodes import EpisodeRepository
from .patterns import PatternRepository
from .retention import RetentionRepository
from .spatiotemporal import EpisodesByPlace, SpatiotemporalRepository
from .steps import StepRepository
from .vector_index import VectorIndex

__all__ = [
    "AnalyticsRepository",
    "EmbeddingRepository",
    "EpisodeRepository",
    "EpisodesByPlace",
    "PatternRepository",
    "RetentionRepository",
    "Session",
    "SpatiotemporalRepository",
    "StepRepository",
    "VectorIndex",
    "Weights",
]
