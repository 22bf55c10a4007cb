"""A vector index in this process: `graph` finds, `sidecar` keeps it in a file. Knows no SQL.

Both need the extra `ann`, which is imported when a graph is made.
"""

from .graph import Graph, is_installed
from .sidecar import Kept, Sidecar, delete_sidecars, sidecar_names

__all__ = ["Graph", "Kept", "Sidecar", "delete_sidecars", "is_installed", "sidecar_names"]
