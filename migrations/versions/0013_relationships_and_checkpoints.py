"""Relationships between episodes, in both directions indexed, and states from which the work can be resumed.

Both are deleted with their episodes.
"""

from __future__ import annotations

from memory_storage.schema import batch

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

TABLES = (
    """CREATE TABLE relationships (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        from_id TEXT NOT NULL,
        to_id TEXT NOT NULL,
        kind TEXT NOT NULL,
        weight FLOAT,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id),
        UNIQUE (namespace, from_id, kind, to_id),
        FOREIGN KEY(namespace, from_id) REFERENCES episodes (namespace, id) ON DELETE CASCADE,
        FOREIGN KEY(namespace, to_id) REFERENCES episodes (namespace, id) ON DELETE CASCADE
    )""",
    "CREATE INDEX ix_relationships_to ON relationships (namespace, to_id, kind, from_id)",
    """CREATE TABLE checkpoints (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        episode_id TEXT NOT NULL,
        step_number INTEGER NOT NULL,
        label TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id),
        FOREIGN KEY(namespace, episode_id) REFERENCES episodes (namespace, id) ON DELETE CASCADE
    )""",
    "CREATE INDEX ix_checkpoints_episode ON checkpoints (namespace, episode_id, created_at)",
)
NAMES = ("checkpoints", "relationships")


def upgrade() -> None:
    """Create the tables."""
    batch.execute(TABLES)


def downgrade() -> None:
    """Drop them, with every relationship and checkpoint."""
    batch.execute(f"DROP TABLE {name}" for name in NAMES)
