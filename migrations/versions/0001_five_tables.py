"""The five tables, their facets, and every index: secondary, DiskANN, FTS5 and R*Tree.

The tables are written out: a revision must do tomorrow what it did when it was released, whatever the code says then.
"""

from __future__ import annotations

from memory_storage.schema import batch
from memory_storage.schema.ddl import (
    CreateFullText,
    CreateRTree,
    CreateTrigger,
    CreateVectorIndex,
    CreateView,
)

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

TABLES = (
    """CREATE TABLE episodes (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        task_type TEXT NOT NULL,
        domain TEXT NOT NULL,
        language TEXT,
        framework TEXT,
        complexity TEXT NOT NULL,
        outcome TEXT,
        reward FLOAT,
        started_at INTEGER NOT NULL,
        completed_at INTEGER,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        archived_at INTEGER,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )""",
    """CREATE TABLE steps (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        episode_id TEXT NOT NULL,
        step_number INTEGER NOT NULL,
        id TEXT NOT NULL,
        tool TEXT NOT NULL,
        status TEXT,
        latency_ms INTEGER NOT NULL,
        tokens_used INTEGER,
        started_at INTEGER NOT NULL,
        output TEXT,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, episode_id, step_number),
        UNIQUE (namespace, id),
        FOREIGN KEY(namespace, episode_id) REFERENCES episodes (namespace, id) ON DELETE CASCADE
    )""",
    """CREATE TABLE patterns (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        version INTEGER NOT NULL,
        kind TEXT NOT NULL,
        domain TEXT NOT NULL,
        language TEXT,
        success_rate FLOAT NOT NULL,
        occurrence_count INTEGER NOT NULL,
        times_retrieved INTEGER NOT NULL,
        times_applied INTEGER NOT NULL,
        success_when_applied INTEGER NOT NULL,
        failure_when_applied INTEGER NOT NULL,
        avg_reward_delta FLOAT NOT NULL,
        last_used_at INTEGER,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )""",
    """CREATE TABLE embeddings (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        model TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        vector_384 F32_BLOB(384),
        vector_768 F32_BLOB(768),
        vector_1024 F32_BLOB(1024),
        vector_1536 F32_BLOB(1536),
        vector_3072 F32_BLOB(3072),
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, owner_type, owner_id, model)
    )""",
    """CREATE TABLE spatiotemporal_index (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        latitude FLOAT,
        longitude FLOAT,
        place_name TEXT,
        starts_at INTEGER,
        ends_at INTEGER,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )""",
    """CREATE TABLE facets (
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        owner_seq INTEGER NOT NULL,
        PRIMARY KEY (namespace, owner_type, name, value, owner_seq)
    )
     WITHOUT ROWID""",
)

INDEXES = (
    "CREATE INDEX ix_episodes_archived ON episodes (namespace, started_at) WHERE archived_at IS NOT NULL",
    "CREATE INDEX ix_episodes_completed ON episodes (namespace, completed_at)",
    "CREATE INDEX ix_episodes_complexity ON episodes (namespace, complexity, started_at)",
    "CREATE INDEX ix_episodes_domain ON episodes (namespace, domain, started_at)",
    "CREATE INDEX ix_episodes_framework ON episodes (namespace, framework, started_at)",
    "CREATE INDEX ix_episodes_language ON episodes (namespace, language, started_at)",
    "CREATE INDEX ix_episodes_outcome ON episodes (namespace, outcome, started_at)",
    "CREATE INDEX ix_episodes_reward ON episodes (namespace, reward)",
    "CREATE INDEX ix_episodes_started ON episodes (namespace, started_at)",
    "CREATE INDEX ix_episodes_task_type ON episodes (namespace, task_type, started_at)",
    "CREATE INDEX ix_steps_tool ON steps (namespace, tool, status)",
    "CREATE INDEX ix_patterns_domain ON patterns (namespace, domain, success_rate)",
    "CREATE INDEX ix_patterns_kind ON patterns (namespace, kind, success_rate)",
    "CREATE INDEX ix_patterns_language ON patterns (namespace, language, success_rate)",
    "CREATE INDEX ix_patterns_occurrences ON patterns (namespace, occurrence_count)",
    "CREATE INDEX ix_patterns_success_rate ON patterns (namespace, success_rate)",
    "CREATE INDEX ix_embeddings_model ON embeddings (namespace, model, owner_type)",
    "CREATE INDEX ix_spatiotemporal_owner ON spatiotemporal_index (namespace, owner_type, owner_id)",
    "CREATE INDEX ix_spatiotemporal_place ON spatiotemporal_index (namespace, place_name)",
    "CREATE INDEX ix_spatiotemporal_starts ON spatiotemporal_index (namespace, starts_at)",
    "CREATE INDEX ix_facets_owner ON facets (owner_seq, owner_type)",
)

DIMENSIONS = (384, 768, 1024, 1536, 3072)

# An index over an empty column costs nothing.
VECTOR_INDEXES = tuple(
    CreateVectorIndex(f"ix_embeddings_vector_{dimension}", "embeddings", f"vector_{dimension}")
    for dimension in DIMENSIONS
)


def words(json: str) -> str:
    """SQL for the words of a JSON text: without the escapes, which would stick to the words after them."""
    for escape in (r"\\", r"\"", r"\n", r"\r", r"\t", r"\b", r"\f"):
        json = f"replace({json}, '{escape}', ' ')"
    return json


# The text of a row as the full-text index sees it. FTS5 reads it back through these views, and refuses to if they use
# a virtual table: no json_each, no json_tree.
VIEWS = (
    CreateView(
        "episodes_text",
        f"""SELECT seq,
        document ->> '$.task_description' AS description,
        concat_ws(' ', document ->> '$.outcome.verdict', document ->> '$.outcome.reason',
            document ->> '$.outcome.error_details', {words("document -> '$.outcome.artifacts'")},
            {words("document -> '$.outcome.completed'")}, {words("document -> '$.outcome.failed'")},
            {words("document -> '$.outcome.infeasibility_signals'")}) AS outcome,
        concat_ws(' ', {words("document -> '$.reflection.successes'")},
            {words("document -> '$.reflection.improvements'")},
            {words("document -> '$.reflection.insights'")}) AS reflection,
        {words("document -> '$.tags'")} AS tags
    FROM episodes""",
    ),
    CreateView(
        "steps_text",
        f"""SELECT seq,
        tool,
        document ->> '$.action' AS action,
        {words("document -> '$.parameters'")} AS parameters,
        output
    FROM steps""",
    ),
)

EPISODE_TEXT = ("description", "outcome", "reflection", "tags")
STEP_TEXT = ("tool", "action", "parameters", "output")
BOUNDS = ("min_latitude", "max_latitude", "min_longitude", "max_longitude", "min_at", "max_at")
VIRTUAL_TABLES = (
    CreateFullText("episodes_fts", EPISODE_TEXT, content="episodes_text", rowid="seq"),
    CreateFullText("steps_fts", STEP_TEXT, content="steps_text", rowid="seq"),
    CreateRTree("spatiotemporal_rtree", "seq", BOUNDS),
)


def facets_of(owner: str) -> str:
    """SQL that adds the facets of the trigger's NEW row: its tags, and its metadata's scalars as JSON, cut at 256."""
    return f"""INSERT OR IGNORE INTO facets (namespace, owner_type, name, value, owner_seq)
        SELECT NEW.namespace, '{owner}', 'tag', value, NEW.seq FROM json_each(NEW.document, '$.tags')
        UNION ALL
        SELECT NEW.namespace, '{owner}', 'metadata.' || key,
            substr(CASE WHEN type IN ('true', 'false', 'null') THEN type ELSE json_quote(value) END, 1, 256), NEW.seq
        FROM json_each(NEW.document, '$.metadata') WHERE type NOT IN ('object', 'array')"""


def facet_triggers(table: str, owner: str) -> tuple[CreateTrigger, ...]:
    """Keep the facets of one table."""
    add, remove = facets_of(owner), f"DELETE FROM facets WHERE owner_type = '{owner}' AND owner_seq = OLD.seq"
    changed = " OR ".join(
        f"OLD.document -> '$.{name}' IS NOT NEW.document -> '$.{name}'" for name in ("tags", "metadata")
    )
    return (
        CreateTrigger(f"{table}_facets_insert", f"AFTER INSERT ON {table}", [add]),
        CreateTrigger(f"{table}_facets_update", f"AFTER UPDATE OF document ON {table}", [remove, add], when=changed),
        CreateTrigger(f"{table}_facets_delete", f"AFTER DELETE ON {table}", [remove]),
    )


def text_triggers(table: str, text: tuple[str, ...]) -> tuple[CreateTrigger, ...]:
    """Keep the full-text index of one table. The old text has to be told to it, so it is read before the change."""
    columns = ", ".join(text)
    add = f"INSERT INTO {table}_fts (rowid, {columns}) SELECT seq, {columns} FROM {table}_text WHERE seq = NEW.seq"
    remove = f"""INSERT INTO {table}_fts ({table}_fts, rowid, {columns})
        SELECT 'delete', seq, {columns} FROM {table}_text WHERE seq = OLD.seq"""
    columns_read = ("document", "output") if "output" in text else ("document",)
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns_read)
    update = f"UPDATE OF {', '.join(columns_read)} ON {table}"
    return (
        CreateTrigger(f"{table}_fts_insert", f"AFTER INSERT ON {table}", [add]),
        CreateTrigger(f"{table}_fts_before", f"BEFORE {update}", [remove], when=changed),
        CreateTrigger(f"{table}_fts_after", f"AFTER {update}", [add], when=changed),
        CreateTrigger(f"{table}_fts_delete", f"BEFORE DELETE ON {table}", [remove]),
    )


def owner_trigger(table: str, owner: str, *owned: str) -> CreateTrigger:
    """What belongs to a row goes with it."""
    key = f"namespace = OLD.namespace AND owner_type = '{owner}' AND owner_id = OLD.id"
    return CreateTrigger(
        f"{table}_owned_delete", f"AFTER DELETE ON {table}", [f"DELETE FROM {name} WHERE {key}" for name in owned]
    )


# A row without a position is not in the R*Tree: it would be found everywhere.
RTREE_ADD = """INSERT INTO spatiotemporal_rtree
        SELECT NEW.seq, NEW.latitude, NEW.latitude, NEW.longitude, NEW.longitude,
            coalesce(NEW.starts_at, -9.3e18), coalesce(NEW.ends_at, NEW.starts_at, 9.3e18)
        WHERE NEW.latitude IS NOT NULL"""
RTREE_REMOVE = "DELETE FROM spatiotemporal_rtree WHERE seq = OLD.seq"
PLACE = "spatiotemporal_index"

TRIGGERS = (
    CreateTrigger(
        "steps_stay",
        "BEFORE UPDATE OF episode_id ON steps",
        ["SELECT RAISE(ABORT, 'STAY constraint failed: steps.episode_id')"],
        when="OLD.episode_id IS NOT NEW.episode_id",
    ),
    *facet_triggers("episodes", "episode"),
    *facet_triggers("patterns", "pattern"),
    *text_triggers("episodes", EPISODE_TEXT),
    *text_triggers("steps", STEP_TEXT),
    owner_trigger("episodes", "episode", "embeddings", PLACE),
    owner_trigger("steps", "step", "embeddings", PLACE),
    owner_trigger("patterns", "pattern", "embeddings"),
    CreateTrigger("spatiotemporal_insert", f"AFTER INSERT ON {PLACE}", [RTREE_ADD]),
    CreateTrigger(
        "spatiotemporal_update",
        f"AFTER UPDATE OF latitude, longitude, starts_at, ends_at ON {PLACE}",
        [RTREE_REMOVE, RTREE_ADD],
    ),
    CreateTrigger("spatiotemporal_delete", f"AFTER DELETE ON {PLACE}", [RTREE_REMOVE]),
)


def upgrade() -> None:
    """Make everything."""
    batch.execute((*TABLES, *INDEXES, *VECTOR_INDEXES, *VIEWS, *VIRTUAL_TABLES, *TRIGGERS))


def downgrade() -> None:
    """Remove everything, rows too. A table takes its triggers along; an index has to go first, with its shadow."""
    batch.execute(
        (
            *(f"DROP INDEX {index.name}" for index in VECTOR_INDEXES),
            *(f"DROP TABLE {virtual.name}" for virtual in VIRTUAL_TABLES),
            *(f"DROP VIEW {view.name}" for view in VIEWS),
            *(f"DROP TABLE {table}" for table in ("facets", PLACE, "embeddings", "patterns", "steps", "episodes")),
        )
    )
