"""The command line: one small module per group of commands, each a thin layer over the Python API."""

from __future__ import annotations

import io
import sys

from . import (
    archive,
    backup,
    delete,
    demo,
    doctor,
    health,
    import_export,
    index,
    mcp,
    patterns,
    query,
    recall,
    record,
    report,
    retention,
    schema,
    search,
    sync,
)
from .app import app

__all__ = [
    "app",
    "archive",
    "backup",
    "delete",
    "demo",
    "doctor",
    "health",
    "import_export",
    "index",
    "main",
    "mcp",
    "patterns",
    "query",
    "recall",
    "record",
    "report",
    "retention",
    "schema",
    "search",
    "sync",
]


def main() -> None:
    """Run the command and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal's encoding does not have is shown as a question mark instead of failing.
            stream.reconfigure(errors="replace")
    app()
