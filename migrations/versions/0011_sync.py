"""Reconciliation with a server: a log of what has changed, and what a replica needs to merge it.

A server's log says for each row the number of its latest change, so that a replica asks for what is new since a number.
The log of a replica is what it has not pushed yet. Triggers keep both while `sync_state` has a row; a database that is
not synchronized has none, and pays for the look at an empty table only.
"""

from __future__ import annotations

from collections.abc import Iterator

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

TABLES = (
    """CREATE TABLE sync_state (
        id INTEGER NOT NULL,
        mode INTEGER NOT NULL,
        epoch BLOB,
        session BLOB,
        generation INTEGER DEFAULT '0' NOT NULL,
        since INTEGER DEFAULT '0' NOT NULL,
        progress TEXT,
        writer TEXT,
        synced_at INTEGER,
        PRIMARY KEY (id)
    )""",
    """CREATE TABLE sync_changes (
        number INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        kind INTEGER NOT NULL,
        seq INTEGER,
        "key" TEXT,
        created_at INTEGER,
        deleted_at INTEGER,
        writer TEXT,
        sent INTEGER
    )""",
    "CREATE UNIQUE INDEX ux_sync_changes_row ON sync_changes (kind, seq) WHERE seq IS NOT NULL",
    'CREATE UNIQUE INDEX ux_sync_changes_key ON sync_changes (kind, namespace, "key") WHERE "key" IS NOT NULL',
    """CREATE TABLE sync_bases (
        kind INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        "key" TEXT NOT NULL,
        sent INTEGER NOT NULL,
        "columns" TEXT NOT NULL,
        document TEXT NOT NULL,
        output TEXT,
        PRIMARY KEY (kind, namespace, "key", sent)
    )
     WITHOUT ROWID""",
    """CREATE TABLE sync_counts (
        namespace TEXT NOT NULL,
        pattern_id TEXT NOT NULL,
        session BLOB NOT NULL,
        acknowledged INTEGER NOT NULL,
        retrieved INTEGER NOT NULL,
        applied INTEGER NOT NULL,
        succeeded INTEGER NOT NULL,
        failed INTEGER NOT NULL,
        reward_sum FLOAT NOT NULL,
        last_used_at INTEGER,
        counted_at INTEGER NOT NULL,
        PRIMARY KEY (namespace, pattern_id, session, acknowledged)
    )
     WITHOUT ROWID""",
    """CREATE TABLE sync_conflicts (
        seq INTEGER NOT NULL,
        id TEXT NOT NULL,
        namespace TEXT NOT NULL,
        kind TEXT NOT NULL,
        object_id TEXT NOT NULL,
        episode_id TEXT,
        fields TEXT NOT NULL,
        base TEXT,
        mine TEXT,
        theirs TEXT,
        my_writer TEXT,
        their_writer TEXT,
        detected_at INTEGER NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )""",
    "CREATE INDEX ix_sync_conflicts_object ON sync_conflicts (namespace, object_id)",
    "CREATE INDEX ix_sync_conflicts_episode ON sync_conflicts (namespace, episode_id)",
    """CREATE TABLE sync_wanted (
        namespace TEXT NOT NULL,
        episode_id TEXT NOT NULL,
        PRIMARY KEY (namespace, episode_id)
    )
     WITHOUT ROWID""",
)
NAMES = ("sync_wanted", "sync_conflicts", "sync_counts", "sync_bases", "sync_changes", "sync_state")

SERVER, REPLICA = 1, 2  # modes; a replica that applies what it has pulled has another, so that nothing is logged
MODE = "(SELECT mode FROM sync_state WHERE id = 1)"
IS_LOGGED = f"{MODE} IN ({SERVER}, {REPLICA})"
# A number is never given twice: a replica that has seen a number has seen all up to it.
LOG = """INSERT INTO sync_changes (writer, namespace, kind, seq)
        SELECT writer, NEW.namespace, {0}, NEW.seq FROM sync_state WHERE id = 1"""

KINDS = {"episodes": 1, "steps": 2, "patterns": 3, "embeddings": 4, "spatiotemporal_index": 5}
FORGOTTEN = 6
KEYS = {
    **dict.fromkeys(KINDS, "{0}.id"),
    "embeddings": "{0}.owner_type || ' ' || {0}.owner_id || ' ' || {0}.model",
}
CREATED = {**dict.fromkeys(KINDS, "OLD.created_at"), "steps": "NULL"}

COUNTERS = {
    "retrieved": "times_retrieved",
    "applied": "times_applied",
    "succeeded": "success_when_applied",
    "failed": "failure_when_applied",
}
PATTERN_COLUMNS = ("version", "kind", "domain", "language", "success_rate", "occurrence_count", "document")
# What an update changes of a row; what is not here is derived, or does not travel.
COLUMNS = {
    "episodes": ("version", "started_at", "completed_at", "outcome", "archived_at", "updated_at", "document"),
    "steps": ("step_number", "tool", "status", "latency_ms", "tokens_used", "started_at", "output", "document"),
    "patterns": PATTERN_COLUMNS,
    "embeddings": ("vector_seq", "space", "text_digest"),
    "spatiotemporal_index": ("document", "until_at"),
}
# What a merge has to know of the row before; the document and the output are columns of their own.
BASES = {
    "episodes": (
        *("version", "created_at", "updated_at", "archived_at", "task_type", "domain", "language", "framework"),
        *("complexity", "started_at", "completed_at"),
    ),
    "steps": ("step_number", "tool", "status", "latency_ms", "tokens_used", "started_at", "episode_id"),
    "patterns": ("version", "created_at", "updated_at", "kind"),
    "embeddings": ("updated_at", "text_digest", "text_version"),
    "spatiotemporal_index": ("owner_type", "owner_id", "created_at"),
}


def owner_exists(table: str) -> str:
    """SQL for whether the owner of a deleted row is still there: else its own tombstone is enough."""
    if table == "steps":
        return "EXISTS (SELECT 1 FROM episodes WHERE namespace = OLD.namespace AND id = OLD.episode_id)"
    if table in ("embeddings", "spatiotemporal_index"):
        owners = {"episode": "episodes", "step": "steps", "pattern": "patterns"}
        cases = " ".join(
            f"WHEN '{owner}' THEN EXISTS (SELECT 1 FROM {of} WHERE namespace = OLD.namespace AND id = OLD.owner_id)"
            for owner, of in owners.items()
        )
        return f"CASE OLD.owner_type {cases} END"
    return "true"


def log_triggers(table: str) -> Iterator[CreateTrigger]:
    """The triggers that log the changes of a table."""
    kind = KINDS[table]
    row, key = (
        f"kind = {kind} AND seq = {{0}}.seq",
        f'kind = {kind} AND namespace = OLD.namespace AND "key" = {KEYS[table].format("OLD")}',
    )
    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in COLUMNS[table])
    columns = ", ".join(COLUMNS[table])
    yield CreateTrigger(f"{table}_sync_insert", f"AFTER INSERT ON {table}", [LOG.format(kind)], when=IS_LOGGED)
    # Not an upsert: the conflict policy of the statement that fires a trigger replaces the trigger's own.
    yield CreateTrigger(
        f"{table}_sync_update",
        f"AFTER UPDATE OF {columns} ON {table}",
        [f"DELETE FROM sync_changes WHERE {row.format('NEW')}", LOG.format(kind)],
        when=f"{IS_LOGGED} AND ({changed})",
    )
    has_owner = owner_exists(table)
    of_owner = "" if has_owner == "true" else f" AND {has_owner}"
    yield CreateTrigger(
        f"{table}_sync_delete",
        f"AFTER DELETE ON {table}",
        [
            f"DELETE FROM sync_changes WHERE {row.format('OLD')}",
            f"DELETE FROM sync_bases WHERE {key}",
            f"DELETE FROM sync_changes WHERE {key} AND {IS_LOGGED}{of_owner}",
            f"""INSERT INTO sync_changes (writer, namespace, kind, "key", created_at, deleted_at)
        SELECT writer, OLD.namespace, {kind}, {KEYS[table].format("OLD")}, {CREATED[table]}, unixepoch()
        FROM sync_state WHERE mode IN ({SERVER}, {REPLICA}) AND {has_owner}""",
        ],
        when=f"{MODE} IS NOT NULL",
    )


def base_trigger(table: str) -> CreateTrigger:
    """The trigger that keeps what a row was when it was last in sync, or when it was last sent without an answer."""
    kind = KINDS[table]
    columns = ", ".join(f"OLD.{name}" for name in BASES[table])
    document = "''" if table == "embeddings" else "OLD.document"
    output = "OLD.output" if table == "steps" else "NULL"
    logged = f"FROM sync_changes WHERE kind = {kind} AND seq = OLD.seq"
    values = f"{kind}, OLD.namespace, {KEYS[table].format('OLD')}, {{0}}, json_array({columns}), {document}, {output}"
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


def count_triggers() -> Iterator[CreateTrigger]:
    """The triggers that log the counters of patterns: on a server as a change, on a replica as differences."""
    names = (*COUNTERS.values(), "avg_reward_delta", "last_used_at")
    changed = " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in names)
    differences = {name: f"NEW.{column} - OLD.{column}" for name, column in COUNTERS.items()}
    differences["reward_sum"] = "NEW.avg_reward_delta * NEW.times_applied - OLD.avg_reward_delta * OLD.times_applied"
    initial = {name: f"NEW.{column}" for name, column in COUNTERS.items()}
    initial["reward_sum"] = "NEW.avg_reward_delta * NEW.times_applied"
    key = "namespace = {0}.namespace AND pattern_id = {0}.id"
    mine = f"{key.format('NEW')} AND session = (SELECT session FROM sync_state WHERE id = 1) AND acknowledged = 0"
    names_of_counts = ", ".join(differences)

    def add(values: dict[str, str], where: str) -> str:
        return f"""INSERT INTO sync_counts (namespace, pattern_id, session, acknowledged, {names_of_counts},
            last_used_at, counted_at)
        SELECT NEW.namespace, NEW.id, session, 0, {", ".join(values.values())}, NEW.last_used_at, unixepoch()
        FROM sync_state WHERE {where}"""

    yield CreateTrigger(
        "patterns_sync_counts",
        f"AFTER UPDATE OF {', '.join(names)} ON patterns",
        [
            f"""UPDATE sync_counts SET {", ".join(f"{name} = {name} + {value}" for name, value in differences.items())},
            last_used_at = NEW.last_used_at WHERE {mine}""",
            add(differences, f"NOT EXISTS (SELECT 1 FROM sync_counts WHERE {mine})"),
        ],
        when=f"{MODE} = {REPLICA} AND ({changed})",
    )
    yield CreateTrigger(
        "patterns_sync_counted",
        f"AFTER UPDATE OF {', '.join(names)} ON patterns",
        ["DELETE FROM sync_changes WHERE kind = 3 AND seq = NEW.seq", LOG.format(3)],
        when=f"{MODE} = {SERVER} AND ({changed})",
    )
    yield CreateTrigger(
        "patterns_sync_count_new",
        "AFTER INSERT ON patterns",
        [add(initial, f"NOT EXISTS (SELECT 1 FROM sync_counts WHERE {mine})")],
        when=f"{MODE} = {REPLICA} AND ({' OR '.join(f'NEW.{name}' for name in COUNTERS.values())})",
    )
    yield CreateTrigger(
        "patterns_sync_counts_delete",
        "AFTER DELETE ON patterns",
        [f"DELETE FROM sync_counts WHERE {key.format('OLD')}"],
        when=f"{MODE} IS NOT NULL",
    )


def forgotten_triggers() -> Iterator[CreateTrigger]:
    """The triggers that log tombstones: the digest alone."""
    yield CreateTrigger(
        "forgotten_sync_insert",
        "AFTER INSERT ON forgotten",
        [
            f"""INSERT INTO sync_changes (writer, namespace, kind, "key")
        SELECT writer, '', {FORGOTTEN}, hex(NEW.digest) FROM sync_state""",
        ],
        when=IS_LOGGED,
    )
    yield CreateTrigger(
        "forgotten_sync_delete",
        "AFTER DELETE ON forgotten",
        [f"DELETE FROM sync_changes WHERE kind = {FORGOTTEN} AND namespace = '' AND \"key\" = hex(OLD.digest)"],
        when=f"{MODE} IS NOT NULL",
    )


def triggers() -> Iterator[CreateTrigger]:
    """All triggers of this revision."""
    for table in KINDS:
        yield from log_triggers(table)
        yield base_trigger(table)
    yield from count_triggers()
    yield from forgotten_triggers()


def upgrade() -> None:
    """Create the tables and the triggers."""
    batch.execute((*TABLES, *triggers()))


def downgrade() -> None:
    """Drop them. What was not pushed yet stays in the file, but is not known to be new."""
    batch.execute(
        (*(f"DROP TRIGGER {trigger.name}" for trigger in triggers()), *(f"DROP TABLE {name}" for name in NAMES))
    )
