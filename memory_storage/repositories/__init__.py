"""The repositories: every statement that reads or writes the five tables, run in a session they are handed."""

from memory_storage._deprecation import renamed_names
from memory_storage.search.request import Weights
from memory_storage.search.vector_index import VectorIndex
from memory_storage.sql.session import SessionProtocol

from .analytics.repository import AnalyticsRepository
from .checkpoints.repository import CheckpointRepository
from .embeddings.repository import EmbeddingRepository
from .episodes.repository import EpisodeRepository
from .items.repository import ItemRepository
from .logs.repository import LogRepository
from .patterns.repository import PatternRepository
from .relationships.repository import RelationshipRepository
from .retention.repository import RetentionRepository
from .spatiotemporal.repository import EpisodesByLocation, SpatiotemporalRepository
from .steps.repository import StepRepository
from .summaries.repository import SummaryRepository

__all__ = [
    "AnalyticsRepository",
    "CheckpointRepository",
    "EmbeddingRepository",
    "EpisodeRepository",
    "EpisodesByLocation",
    "ItemRepository",
    "LogRepository",
    "PatternRepository",
    "RelationshipRepository",
    "RetentionRepository",
    "SessionProtocol",
    "SpatiotemporalRepository",
    "StepRepository",
    "SummaryRepository",
    "VectorIndex",
    "Weights",
]

__getattr__ = renamed_names(__name__, {"EpisodesByPlace": "EpisodesByLocation"})
