"""Alembic's room: how revisions run, and the revisions."""
