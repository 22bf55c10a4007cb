"""Relationships between episodes, in both directions indexed, and states from which the work can be resumed.

Both are deleted with their episodes. Triggers log their changes as those of revision 0011 log other tables: on a server
and on a replica, while `sync_state` has a row.
"""

from __future__ import annotations

from collections.abc import Iterator

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

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
KINDS = {"relationships": 7, "checkpoints": 8}

SERVER, REPLICA = 1, 2  # modes, as in revision 0011
MODE = "(SELECT mode FROM sync_state WHERE id = 1)"
IS_LOGGED = f"{MODE} IN ({SERVER}, {REPLICA})"
LOG = """INSERT INTO sync_changes (writer, namespace, kind, seq)
        SELECT writer, NEW.namespace, {0}, NEW.seq FROM sync_state WHERE id = 1"""
# What an update changes of a row.
COLUMNS = {"relationships": ("weight", "document"), "checkpoints": ("step_number", "label", "document")}
# What a merge has to know of the row before; the document is a column of its own.
BASES = {
    "relationships": ("from_id", "to_id", "kind", "weight", "created_at"),
    "checkpoints": ("episode_id", "step_number", "label", "created_at"),
}
EPISODE_IDS = {"relationships": ("from_id", "to_id"), "checkpoints": ("episode_id",)}


def log_triggers(table: str) -> Iterator[CreateTrigger]:
    """The triggers that log the changes of a table."""
    kind = KINDS[table]
    row = f"kind = {kind} AND seq = {{0}}.seq"
    key = f'kind = {kind} AND namespace = OLD.namespace AND "key" = OLD.id'
    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in COLUMNS[table])
    # Else the tombstone of the episode is enough.
    has_owners = " AND ".join(
        f"EXISTS (SELECT 1 FROM episodes WHERE namespace = OLD.namespace AND id = OLD.{name})"
        for name in EPISODE_IDS[table]
    )
    yield CreateTrigger(f"{table}_sync_insert", f"AFTER INSERT ON {table}", [LOG.format(kind)], when=IS_LOGGED)
    # Not an upsert: the conflict policy of the statement that fires a trigger replaces the trigger's own.
    yield CreateTrigger(
        f"{table}_sync_update",
        f"AFTER UPDATE OF {', '.join(COLUMNS[table])} ON {table}",
        [f"DELETE FROM sync_changes WHERE {row.format('NEW')}", LOG.format(kind)],
        when=f"{IS_LOGGED} AND ({changed})",
    )
    yield CreateTrigger(
        f"{table}_sync_delete",
        f"AFTER DELETE ON {table}",
        [
            f"DELETE FROM sync_changes WHERE {row.format('OLD')}",
            f"DELETE FROM sync_bases WHERE {key}",
            f"DELETE FROM sync_changes WHERE {key} AND {IS_LOGGED} AND {has_owners}",
            f"""INSERT INTO sync_changes (writer, namespace, kind, "key", created_at, deleted_at)
        SELECT writer, OLD.namespace, {kind}, OLD.id, OLD.created_at, unixepoch()
        FROM sync_state WHERE mode IN ({SERVER}, {REPLICA}) AND {has_owners}""",
        ],
        when=f"{MODE} IS NOT NULL",
    )


def base_trigger(table: str) -> CreateTrigger:
    """The trigger that keeps what a row was when it was last in sync, or when it was last sent without an answer."""
    kind = KINDS[table]
    columns = ", ".join(f"OLD.{name}" for name in BASES[table])
    logged = f"FROM sync_changes WHERE kind = {kind} AND seq = OLD.seq"
    values = f"{kind}, OLD.namespace, OLD.id, {{0}}, json_array({columns}), OLD.document, NULL"
    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in COLUMNS[table])
    return CreateTrigger(
        f"{table}_sync_base",
        f"BEFORE UPDATE OF {', '.join(COLUMNS[table])} ON {table}",
        [
            f"INSERT INTO sync_bases SELECT {values.format('0')} WHERE NOT EXISTS (SELECT 1 {logged})",
            f"INSERT INTO sync_bases SELECT {values.format('sent')} {logged} AND sent IS NOT NULL",
        ],
        when=f"{MODE} = {REPLICA} AND ({changed})",
    )


def triggers() -> Iterator[CreateTrigger]:
    """All triggers of this revision."""
    for table in KINDS:
        yield from log_triggers(table)
        yield base_trigger(table)


def upgrade() -> None:
    """Create the tables and the triggers."""
    batch.execute((*TABLES, *triggers()))


def downgrade() -> None:
    """Drop them, with every relationship and checkpoint, and what the log of changes has of them."""
    kinds = ", ".join(map(str, KINDS.values()))
    batch.execute(
        (
            *(f"DROP TABLE {name}" for name in KINDS),
            *(f"DELETE FROM {log} WHERE kind IN ({kinds})" for log in ("sync_changes", "sync_bases")),
            f"DELETE FROM sync_conflicts WHERE kind IN ({', '.join(repr(name[:-1]) for name in KINDS)})",
        )
    )
