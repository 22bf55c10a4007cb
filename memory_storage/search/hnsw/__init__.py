"""A vector index in this process: `graph` finds, `sidecar` keeps it in a file. Knows no SQL.

Both need the extra `ann`, which is imported when a graph is made.
"""

from .file import IndexHeader, Sidecar, delete_sidecars, sidecar_names
from .graph import Graph, is_installed

__all__ = ["Graph", "IndexHeader", "Sidecar", "delete_sidecars", "is_installed", "sidecar_names"]
