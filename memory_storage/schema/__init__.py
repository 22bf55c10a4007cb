"""The schema of the database: `tables` as SQLAlchemy Core, `ddl` for what Core lacks, `revisions` described.

None of them is imported here: opening a database that is up to date needs only `HEAD`.
"""

from .vectors import pack_vector, unpack_vector

HEAD = "0016"
"""The revision that this code reads and writes."""

__all__ = ["HEAD", "pack_vector", "unpack_vector"]
