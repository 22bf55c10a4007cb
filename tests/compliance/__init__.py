"""SQLAlchemy's own compliance suite for dialects, on libSQL and on pysqlite. `python -m tests.compliance` runs it."""
