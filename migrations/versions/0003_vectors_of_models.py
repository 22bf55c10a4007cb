"""Each model's vectors in a table of their own, a row for each distinct one; full text of patterns; wider indexes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import Any

from alembic import op

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.errors import SchemaError
from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateFullText, CreateTrigger, CreateVectorIndex, CreateView

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

DIMENSIONS = (384, 768, 1024, 1536, 3072)  # that had a column
OLD_INDEXES = tuple(
    CreateVectorIndex(f"ix_embeddings_vector_{dimension}", "embeddings", f"vector_{dimension}")
    for dimension in DIMENSIONS
)
OLD_COLUMNS = ",\n        ".join(f"vector_{dimension} F32_BLOB({dimension})" for dimension in DIMENSIONS)
OLD_TABLE = f"""CREATE TABLE embeddings (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        model TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        {OLD_COLUMNS},
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, owner_type, owner_id, model)
    )"""
OLD_VECTOR = f"coalesce({', '.join(f'vector_{dimension}' for dimension in DIMENSIONS)})"

MODELS = """CREATE TABLE vector_models (
        name TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        metric TEXT NOT NULL,
        preset TEXT NOT NULL,
        vectors INTEGER DEFAULT '0' NOT NULL,
        indexed INTEGER DEFAULT '0' NOT NULL,
        removed INTEGER DEFAULT '0' NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (name)
    )"""
TABLE = """CREATE TABLE embeddings (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        model TEXT NOT NULL,
        vector_seq INTEGER NOT NULL,
        item_seq INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        updated_at INTEGER NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, owner_type, owner_id, model)
    )"""
INDEXES = (
    "CREATE INDEX ix_embeddings_item ON embeddings (item_seq, model, owner_type, vector_seq)",
    "CREATE INDEX ix_embeddings_model ON embeddings (namespace, model, owner_type)",
    "CREATE INDEX ix_embeddings_vector ON embeddings (model, vector_seq, namespace, owner_type, item_seq)",
)
OLD_INDEX = "CREATE INDEX ix_embeddings_model ON embeddings (namespace, model, owner_type)"

EPISODE_INDEXES = {
    "ix_episodes_started": "namespace, started_at",
    **{
        f"ix_episodes_{name}": f"namespace, {name}, started_at"
        for name in ("task_type", "domain", "language", "framework", "complexity", "outcome")
    },
    "ix_episodes_reward": "namespace, reward",
    "ix_episodes_completed": "namespace, completed_at",
}

ITEM_SEQ = """CASE m.owner_type
    WHEN 'episode' THEN (SELECT seq FROM episodes WHERE namespace = m.namespace AND id = m.owner_id)
    WHEN 'step' THEN (SELECT e.seq FROM steps AS s CROSS JOIN episodes AS e
        ON e.namespace = s.namespace AND e.id = s.episode_id WHERE s.namespace = m.namespace AND s.id = m.owner_id)
    ELSE (SELECT seq FROM patterns WHERE namespace = m.namespace AND id = m.owner_id) END"""


def words(json: str) -> str:
    """SQL for the words of a JSON text: without the escapes, which would stick to the words after them."""
    for escape in (r"\\", r"\"", r"\n", r"\r", r"\t", r"\b", r"\f"):
        json = f"replace({json}, '{escape}', ' ')"
    return json


PATTERN_TEXT = ("description", "rule", "tags")
PATTERN_LISTS = ("recovery_steps", "context_features", "tools")
PATTERN_WORDS = ("condition", "action", "error_type", "recommended_approach")
PATTERN_VIEW = CreateView(
    "patterns_text",
    f"""SELECT seq,
        document ->> '$.description' AS description,
        concat_ws(' ', {", ".join(f"document ->> '$.{name}'" for name in PATTERN_WORDS)},
            {", ".join(words(f"document -> '$.{name}'") for name in PATTERN_LISTS)}) AS rule,
        {words("document -> '$.tags'")} AS tags
    FROM patterns""",
)
PATTERN_FTS = CreateFullText("patterns_fts", PATTERN_TEXT, content="patterns_text", rowid="seq")


def text_triggers() -> tuple[CreateTrigger, ...]:
    """Keep the full-text index of patterns. The old text has to be told to it, so it is read before the change."""
    columns = ", ".join(PATTERN_TEXT)
    add = f"INSERT INTO patterns_fts (rowid, {columns}) SELECT seq, {columns} FROM patterns_text WHERE seq = NEW.seq"
    remove = f"""INSERT INTO patterns_fts (patterns_fts, rowid, {columns})
        SELECT 'delete', seq, {columns} FROM patterns_text WHERE seq = OLD.seq"""
    update, changed = "UPDATE OF document ON patterns", "OLD.document IS NOT NEW.document"
    return (
        CreateTrigger("patterns_fts_insert", "AFTER INSERT ON patterns", [add]),
        CreateTrigger("patterns_fts_before", f"BEFORE {update}", [remove], when=changed),
        CreateTrigger("patterns_fts_after", f"AFTER {update}", [add], when=changed),
        CreateTrigger("patterns_fts_delete", "BEFORE DELETE ON patterns", [remove]),
    )


def vectors_of(model: str) -> str:
    """The name of a model's table."""
    return f"vectors_{blake2b(model.encode(), digest_size=8).hexdigest()}"


def space(model: str, dimension: int) -> Iterator[str]:
    """DDL for a model's vectors."""
    table, name = vectors_of(model), "'" + model.replace("'", "''") + "'"
    index = CreateVectorIndex(f"{table}_ann", table, "vector", neighbors=28, insert=64, search=90, alpha=1.1)
    counts, one = "UPDATE vector_models SET", f"WHERE name = {name}"
    free = f"""DELETE FROM {table} WHERE seq = OLD.vector_seq AND NOT EXISTS (
        SELECT 1 FROM embeddings WHERE model = OLD.model AND vector_seq = OLD.vector_seq)"""
    removed = "vectors = vectors - 1, indexed = indexed - OLD.indexed, removed = removed + OLD.indexed"
    added = "vectors = vectors + 1, indexed = indexed + NEW.indexed"
    moved = "indexed = indexed + NEW.indexed - OLD.indexed"
    yield f"""CREATE TABLE {table} (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    indexed INTEGER NOT NULL DEFAULT 0,
    digest BLOB NOT NULL UNIQUE,
    vector F32_BLOB({dimension}) NOT NULL,
    CONSTRAINT dimension CHECK (length(vector) = {4 * dimension})
)"""
    yield f"CREATE INDEX {table}_tail ON {table} (seq) WHERE indexed = 0"
    yield f"{index} WHERE indexed = 1"
    swapped = f"OLD.model = {name} AND OLD.vector_seq IS NOT NEW.vector_seq"
    yield str(CreateTrigger(f"{table}_insert", f"AFTER INSERT ON {table}", [f"{counts} {added} {one}"]))
    yield str(CreateTrigger(f"{table}_update", f"AFTER UPDATE OF indexed ON {table}", [f"{counts} {moved} {one}"]))
    yield str(CreateTrigger(f"{table}_delete", f"AFTER DELETE ON {table}", [f"{counts} {removed} {one}"]))
    yield str(CreateTrigger(f"{table}_free", "AFTER DELETE ON embeddings", [free], when=f"OLD.model = {name}"))
    yield str(CreateTrigger(f"{table}_swap", "AFTER UPDATE OF vector_seq ON embeddings", [free], when=swapped))


def episode_indexes(more: str = "") -> Iterator[str]:
    """Make them anew, with more columns or without."""
    for name, columns in EPISODE_INDEXES.items():
        yield f"DROP INDEX {name}"
        yield f"CREATE INDEX {name} ON episodes ({columns}{more})"


def upgrade() -> None:
    """Move the vectors, and make the full-text index of patterns."""
    refuse_offline_with_rows()
    models = [] if op.get_context().as_sql else _dimensions()
    batch.execute(
        (
            *(f"DROP INDEX {index.name}" for index in OLD_INDEXES),
            # Not renamed: the triggers that delete from it would go with it.
            f"CREATE TABLE old_embeddings AS SELECT *, {OLD_VECTOR} AS vector FROM embeddings",
            "DROP TABLE embeddings",
            TABLE,
            *INDEXES,
            MODELS,
            *(text for model, dimension in models for text in space(model, dimension)),
        )
    )
    for model, dimension in models:
        _move(model, dimension)
    batch.execute(
        (
            "DROP TABLE old_embeddings",
            PATTERN_VIEW,
            PATTERN_FTS,
            "INSERT INTO patterns_fts (patterns_fts) VALUES ('rebuild')",
            *text_triggers(),
            *episode_indexes(", archived_at"),
        )
    )


def downgrade() -> None:
    """Move the vectors back. A model of a dimension that had no column stays in the way."""
    refuse_offline_with_rows()
    models = [] if op.get_context().as_sql else _rows("SELECT name, dimension FROM vector_models ORDER BY name")
    for model, dimension in models:
        if dimension not in DIMENSIONS:
            raise SchemaError(
                f"revision 0002 has no column for vectors of dimension {dimension}: delete those of {model!r} first"
            )
    batch.execute(
        (
            "DROP TABLE patterns_fts",
            *(f"DROP TRIGGER {trigger.name}" for trigger in text_triggers()),
            "DROP VIEW patterns_text",
            "CREATE TABLE new_embeddings AS SELECT * FROM embeddings",
            "DROP TABLE embeddings",
            OLD_TABLE,
            *(text for model, dimension in models for text in _back(model, dimension)),
            "DROP TABLE new_embeddings",
            "DROP TABLE vector_models",
            OLD_INDEX,
            *OLD_INDEXES,
            *episode_indexes(),
        )
    )


def refuse_offline_with_rows() -> None:
    """A script cannot move what it does not see: let it fail before it changes anything."""
    if op.get_context().as_sql:
        op.execute("SELECT json('upgrade with a connection: there are embeddings to move') FROM embeddings LIMIT 1")


def _dimensions() -> list[tuple[str, int]]:
    found = [tuple(row) for row in _rows("SELECT DISTINCT model, dimension FROM embeddings ORDER BY model")]
    models = [model for model, _ in found]
    for model in models:
        if models.count(model) > 1:
            raise SchemaError(f"the vectors of {model!r} have several dimensions: delete those of all but one first")
    return found


def _move(model: str, dimension: int) -> None:
    table, last = vectors_of(model), 0
    _run(
        "INSERT INTO vector_models (name, dimension, metric, preset, created_at)"
        " SELECT model, dimension, 'cosine', 'balanced', min(created_at) FROM old_embeddings WHERE model = ?",
        (model,),
    )
    page = "SELECT seq, vector FROM old_embeddings WHERE model = ? AND seq > ? ORDER BY seq LIMIT ?"
    while rows := _rows(page, (model, last, max(1, 1_000_000 // dimension))):
        last = rows[-1][0]
        digests = [blake2b(vector, digest_size=16).digest() for _, vector in rows]
        _steps(
            BatchStep(f"INSERT INTO {table} (digest, vector) VALUES (?, ?) ON CONFLICT DO NOTHING", pair)
            for pair in zip(digests, (vector for _, vector in rows), strict=True)
        )
        _steps(
            BatchStep(
                f"INSERT INTO embeddings SELECT m.seq, m.namespace, m.owner_type, m.owner_id, m.model,"
                f" (SELECT seq FROM {table} WHERE digest = ?), {ITEM_SEQ}, m.created_at, m.updated_at"
                " FROM old_embeddings AS m WHERE m.seq = ?",
                (digest, seq),
            )
            for digest, (seq, _) in zip(digests, rows, strict=True)
        )


def _back(model: str, dimension: int) -> Iterator[str]:
    table, name = vectors_of(model), "'" + model.replace("'", "''") + "'"
    columns = "seq, namespace, owner_type, owner_id, model"
    yield f"""INSERT INTO embeddings ({columns}, dimension, vector_{dimension}, created_at, updated_at)
SELECT m.seq, m.namespace, m.owner_type, m.owner_id, m.model, {dimension}, v.vector, m.created_at, m.updated_at
FROM new_embeddings AS m CROSS JOIN {table} AS v ON v.seq = m.vector_seq WHERE m.model = {name}"""
    yield f"DROP INDEX {table}_ann"
    yield f"DROP TABLE {table}"


def _rows(sql: str, values: Sequence[Any] = ()) -> list[Any]:
    return list(op.get_bind().exec_driver_sql(sql, tuple(values)).all())


def _run(sql: str, values: Sequence[Any]) -> None:
    op.get_bind().exec_driver_sql(sql, tuple(values))


def _steps(steps: Iterator[BatchStep]) -> None:
    op.get_bind().exec_driver_sql(Batch(list(steps)))
