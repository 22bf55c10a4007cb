"""The SQLAlchemy dialect for libSQL: `libsql://` URLs over this package's driver."""

from __future__ import annotations

from .libsql import LibSQLDialect

__all__ = ["LibSQLDialect", "dialect"]

dialect = LibSQLDialect
