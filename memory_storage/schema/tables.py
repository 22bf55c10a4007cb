"""The five tables and the table of facets, as SQLAlchemy Core. How they come to be is told by the migrations.

Every row of a user is one JSON `document`, written and read by pydantic, beside columns for what is filtered, sorted
or counted. Times are integer microseconds since the epoch, UTC. `seq` is the local row number that the indexes use;
`(namespace, id)` is the name that the outside knows. A step's output or error message is a column and not in its
document: it is long, and JSON would have it escaped.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

episodes = Table(
    "episodes",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("task_type", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("language", Text),
    Column("framework", Text),
    Column("complexity", Text, nullable=False),
    Column("outcome", Text),
    Column("reward", Float),
    Column("started_at", Integer, nullable=False),
    Column("completed_at", Integer),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
    Column("archived_at", Integer),
    Column("document", Text, nullable=False),
    Column("words", Text),  # what the full-text index has in another spelling, see `words`
    UniqueConstraint("namespace", "id"),
    # What is archived is left out of nearly every answer: with its column an index answers alone.
    Index("ix_episodes_started", "namespace", "started_at", "archived_at"),
    Index("ix_episodes_task_type", "namespace", "task_type", "started_at", "archived_at"),
    Index("ix_episodes_domain", "namespace", "domain", "started_at", "archived_at"),
    Index("ix_episodes_language", "namespace", "language", "started_at", "archived_at"),
    Index("ix_episodes_framework", "namespace", "framework", "started_at", "archived_at"),
    Index("ix_episodes_complexity", "namespace", "complexity", "started_at", "archived_at"),
    Index("ix_episodes_outcome", "namespace", "outcome", "started_at", "archived_at"),
    Index("ix_episodes_reward", "namespace", "reward", "archived_at"),
    Index("ix_episodes_completed", "namespace", "completed_at", "archived_at"),
    Index("ix_episodes_archived", "namespace", "started_at", sqlite_where=text("archived_at IS NOT NULL")),
)

steps = Table(
    "steps",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("episode_id", Text, nullable=False),
    Column("step_number", Integer, nullable=False),
    Column("id", Text, nullable=False),
    Column("tool", Text, nullable=False),
    Column("status", Text),
    Column("latency_ms", Integer, nullable=False),
    Column("tokens_used", Integer),
    Column("started_at", Integer, nullable=False),
    Column("output", Text),
    Column("document", Text, nullable=False),
    Column("words", Text),
    UniqueConstraint("namespace", "episode_id", "step_number"),
    UniqueConstraint("namespace", "id"),
    ForeignKeyConstraint(["namespace", "episode_id"], ["episodes.namespace", "episodes.id"], ondelete="CASCADE"),
    Index("ix_steps_tool", "namespace", "tool", "status"),
)

patterns = Table(
    "patterns",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("version", Integer, nullable=False),
    Column("kind", Text, nullable=False),
    Column("domain", Text, nullable=False),
    Column("language", Text),
    Column("success_rate", Float, nullable=False),
    Column("occurrence_count", Integer, nullable=False),
    Column("times_retrieved", Integer, nullable=False),
    Column("times_applied", Integer, nullable=False),
    Column("success_when_applied", Integer, nullable=False),
    Column("failure_when_applied", Integer, nullable=False),
    Column("avg_reward_delta", Float, nullable=False),
    Column("last_used_at", Integer),
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
    Column("document", Text, nullable=False),
    Column("words", Text),
    UniqueConstraint("namespace", "id"),
    Index("ix_patterns_success_rate", "namespace", "success_rate"),
    Index("ix_patterns_kind", "namespace", "kind", "success_rate"),
    Index("ix_patterns_domain", "namespace", "domain", "success_rate"),
    Index("ix_patterns_language", "namespace", "language", "success_rate"),
    Index("ix_patterns_occurrences", "namespace", "occurrence_count"),
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("owner_type", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("vector_seq", Integer, nullable=False),  # in the table of the vector space
    Column("item_seq", Integer, nullable=False),  # of the episode or pattern that is found by it
    Column("created_at", Integer, nullable=False),
    Column("updated_at", Integer, nullable=False),
    # The token of the vector space. All embeddings of a namespace by one model are in one space.
    Column("space", Text, nullable=False, server_default=""),
    # What was embedded: a digest of the text, and the version that the episode or pattern had. NULL: not known, since
    # the caller stored the vector.
    Column("text_digest", Text),
    Column("text_version", Integer),
    UniqueConstraint("namespace", "owner_type", "owner_id", "model"),
    Index("ix_embeddings_item", "item_seq", "model", "owner_type", "vector_seq"),
    Index("ix_embeddings_model", "namespace", "model", "owner_type"),
    Index("ix_embeddings_vector", "model", "vector_seq", "namespace", "owner_type", "item_seq"),
)

vector_models = Table(
    "vector_models",
    metadata,
    Column("token", Text, primary_key=True, nullable=False),
    Column("name", Text, nullable=False),
    Column("dimension", Integer, nullable=False),
    Column("metric", Text, nullable=False),
    Column("preset", Text, nullable=False),
    Column("vectors", Integer, nullable=False, server_default="0"),
    Column("indexed", Integer, nullable=False, server_default="0"),
    Column("removed", Integer, nullable=False, server_default="0"),
    Column("created_at", Integer, nullable=False),
    UniqueConstraint("name", "dimension"),
)
"""The vector spaces, one for each model and dimension: each has a table, which is made with its first vector."""

spatiotemporal_index = Table(
    "spatiotemporal_index",
    metadata,
    Column("seq", Integer, primary_key=True),
    Column("namespace", Text, nullable=False),
    Column("id", Text, nullable=False),
    Column("owner_type", Text, nullable=False),
    Column("owner_id", Text, nullable=False),
    Column("episode_seq", Integer, nullable=False),  # the owner, or the episode of the step
    Column("latitude", Float),
    Column("longitude", Float),
    # The same point on a sphere of radius 1: distances are compared in SQL, which has no sine.
    Column("x", Float),
    Column("y", Float),
    Column("z", Float),
    Column("place_name", Text),
    Column("starts_at", Integer),
    Column("ends_at", Integer),
    Column("until_at", Integer),  # where it has ended: a microsecond after a moment, for ever after what goes on
    Column("created_at", Integer, nullable=False),
    Column("document", Text, nullable=False),
    UniqueConstraint("namespace", "id"),
    Index("ix_spatiotemporal_owner", "namespace", "owner_type", "owner_id"),
    Index("ix_spatiotemporal_starts", "namespace", "starts_at"),
    Index("ix_spatiotemporal_place", "namespace", "place_name"),
    Index("ix_spatiotemporal_episode", "episode_seq", "starts_at"),
)

facets = Table(
    "facets",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False),
    Column("owner_type", Text, primary_key=True, nullable=False),
    Column("name", Text, primary_key=True, nullable=False),
    Column("value", Text, primary_key=True, nullable=False),
    Column("owner_seq", Integer, primary_key=True, nullable=False),
    Index("ix_facets_owner", "owner_seq", "owner_type"),
    sqlite_with_rowid=False,
)
"""Tags and scalar metadata of episodes and patterns, and evidence of patterns, one row for each: triggers keep it."""

receipts = Table(
    "receipts",
    metadata,
    Column("id", LargeBinary, primary_key=True, nullable=False),
    Column("changed", Integer, nullable=False),
    sqlite_with_rowid=False,
)
"""The writes over a network of the last day, to find out whether one was committed when its answer was lost."""

forgotten = Table(
    "forgotten",
    metadata,
    Column("digest", LargeBinary, primary_key=True, nullable=False),
    Column("episode_seq", Integer),
    Index("ix_forgotten_unfinished", "episode_seq", sqlite_where=text("episode_seq IS NOT NULL")),
    sqlite_with_rowid=False,
)
"""What must not come back: a digest of its namespace and id; and, as long as it is there in part, its row."""
