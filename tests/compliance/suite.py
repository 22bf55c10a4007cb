"""The suite itself. Not named test_*: only the sessions that comparison.py starts collect it."""

from sqlalchemy.testing.suite import *  # noqa: F403 - this is how SQLAlchemy hands its suite to a dialect
