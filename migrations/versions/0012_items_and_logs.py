"""Documents by path and key, with vectors of their own, and ordered logs of records.

A path is one text in which each label ends with U+0001, so that all paths below another are a range of the index. What
an update stores beside a document replaces the vectors of the document before it.
"""

from __future__ import annotations

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

TABLES = (
    """CREATE TABLE items (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        path TEXT NOT NULL,
        "key" TEXT NOT NULL,
        version INTEGER NOT NULL,
        document TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        expires_at INTEGER,
        ttl INTEGER,
        PRIMARY KEY (seq),
        UNIQUE (namespace, path, "key")
    )""",
    "CREATE INDEX ix_items_expires ON items (namespace, expires_at) WHERE expires_at IS NOT NULL",
    """CREATE TABLE item_vectors (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        item_seq INTEGER NOT NULL,
        model TEXT NOT NULL,
        field TEXT NOT NULL,
        vector BLOB NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (item_seq, model, field),
        FOREIGN KEY(item_seq) REFERENCES items (seq) ON DELETE CASCADE
    )""",
    "CREATE INDEX ix_item_vectors_model ON item_vectors (namespace, model)",
    """CREATE TABLE logs (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        log TEXT NOT NULL,
        number INTEGER NOT NULL,
        id TEXT,
        document TEXT NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, log, number)
    )""",
    "CREATE UNIQUE INDEX ux_logs_id ON logs (namespace, log, id) WHERE id IS NOT NULL",
)
NAMES = ("logs", "item_vectors", "items")

TRIGGERS = (
    CreateTrigger(
        "items_vectors_update",
        "AFTER UPDATE OF document ON items",
        ["DELETE FROM item_vectors WHERE item_seq = NEW.seq"],
    ),
)


def upgrade() -> None:
    """Create the tables."""
    batch.execute((*TABLES, *TRIGGERS))


def downgrade() -> None:
    """Drop them, with every item and record."""
    batch.execute((*(f"DROP TRIGGER {one.name}" for one in TRIGGERS), *(f"DROP TABLE {name}" for name in NAMES)))
