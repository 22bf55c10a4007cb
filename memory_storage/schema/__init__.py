"""What the database looks like: tables as SQLAlchemy Core, and the DDL that Core lacks. Runs nothing."""

from .constructs import (
    CreateFullText,
    CreateRTree,
    CreateTrigger,
    CreateVectorIndex,
    CreateView,
    F32Blob,
    pack_vector,
    unpack_vector,
)
from .tables import (
    DIMENSIONS,
    embeddings,
    episodes,
    facets,
    metadata,
    patterns,
    spatiotemporal_index,
    steps,
)

HEAD = "0001"
"""The revision that this code reads and writes."""

__all__ = [
    "DIMENSIONS",
    "HEAD",
    "CreateFullText",
    "CreateRTree",
    "CreateTrigger",
    "CreateVectorIndex",
    "CreateView",
    "F32Blob",
    "embeddings",
    "episodes",
    "facets",
    "metadata",
    "pack_vector",
    "patterns",
    "spatiotemporal_index",
    "steps",
    "unpack_vector",
]
