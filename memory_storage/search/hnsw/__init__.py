"""The in-process vector index: an HNSW graph, the file that stores it, and the index that keeps it in sync.

The graph needs the extra `ann`, which is imported when a graph is made.
"""

from .file import IndexHeader, Sidecar, delete_sidecars, sidecar_names
from .graph import Graph

__all__ = ["Graph", "IndexHeader", "Sidecar", "delete_sidecars", "sidecar_names"]
