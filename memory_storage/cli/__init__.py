"""The command line: thin, one small module per concern. What it can do, the package can do from Python."""

from __future__ import annotations

import io
import sys

from . import backup, delete, demo, doctor, health, import_export, index, query, report, retention, schema, search
from .app import app

__all__ = [
    "app",
    "backup",
    "delete",
    "demo",
    "doctor",
    "health",
    "import_export",
    "index",
    "main",
    "query",
    "report",
    "retention",
    "schema",
    "search",
]


def main() -> None:
    """Run the command, and leave with its exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A terminal that lacks a character of a transcript shows a question mark; that is no reason to fail.
            stream.reconfigure(errors="replace")
    app()
