"""The suite itself. Not named test_*: only a session with this directory's setup.cfg collects it."""

from sqlalchemy.testing.suite import *  # noqa: F403 - this is how SQLAlchemy hands its suite to a dialect
