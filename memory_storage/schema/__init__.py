"""What the database looks like: `tables` as SQLAlchemy Core, `constructs` for what Core lacks. Runs nothing.

Neither is imported here: only Alembic, and whoever writes SQL of their own, needs them.
"""

from .vectors import pack_vector, unpack_vector

HEAD = "0008"
"""The revision that this code reads and writes."""

__all__ = ["HEAD", "pack_vector", "unpack_vector"]
