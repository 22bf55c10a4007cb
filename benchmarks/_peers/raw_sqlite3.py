"""Python's own sqlite3, with two plain tables."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

from ._raw_tables import RawTables


class Sqlite3(RawTables):
    """One connection of sqlite3."""

    def connect(self, path: Path) -> Any:
        return sqlite3.connect(path, isolation_level=None)


open_store = Sqlite3
