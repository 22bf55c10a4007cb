"""A vector space for each model and dimension; what text an embedding is of. No caller's text is part of the schema."""

from __future__ import annotations

from collections.abc import Iterator
from hashlib import blake2b
from typing import Any

from alembic import op

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.errors import SchemaError
from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

MODELS = """CREATE TABLE vector_models (
        token TEXT NOT NULL,
        name TEXT NOT NULL,
        dimension INTEGER NOT NULL,
        metric TEXT NOT NULL,
        preset TEXT NOT NULL,
        vectors INTEGER DEFAULT '0' NOT NULL,
        indexed INTEGER DEFAULT '0' NOT NULL,
        removed INTEGER DEFAULT '0' NOT NULL,
        created_at INTEGER NOT NULL,
        PRIMARY KEY (token),
        UNIQUE (name, dimension)
    )"""
OLD_MODELS = """CREATE TABLE vector_models (
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
COLUMNS = "name, dimension, metric, preset, vectors, indexed, removed, created_at"
TRIGGERS = ("insert", "update", "delete", "free", "swap")
ADDED = ("space TEXT DEFAULT '' NOT NULL", "text_digest TEXT", "text_version INTEGER")


def token_of(model: str) -> str:
    """The token of the first dimension of a model."""
    return blake2b(model.encode(), digest_size=8).hexdigest()


def triggers(token: str) -> Iterator[CreateTrigger]:
    """The triggers of a space: they know it by its token."""
    same = "model = OLD.model AND vector_seq = OLD.vector_seq AND space = OLD.space"
    return _triggers(token, f"token = '{token}'", f"space = '{token}'", same)


def old_triggers(model: str) -> Iterator[CreateTrigger]:
    """The triggers of a model in revision 0005, where the name was a literal."""
    name = "'" + model.replace("'", "''") + "'"
    same = "model = OLD.model AND vector_seq = OLD.vector_seq"
    return _triggers(token_of(model), f"name = {name}", f"model = {name}", same)


def _triggers(token: str, row: str, owner: str, same: str) -> Iterator[CreateTrigger]:
    table, counts, one = f"vectors_{token}", "UPDATE vector_models SET", f"WHERE {row}"
    added = "vectors = vectors + 1, indexed = indexed + NEW.indexed"
    moved = "indexed = indexed + NEW.indexed - OLD.indexed"
    deleted = "vectors = vectors - 1, indexed = indexed - OLD.indexed, removed = removed + OLD.indexed"
    free = f"""DELETE FROM {table} WHERE seq = OLD.vector_seq AND NOT EXISTS (
        SELECT 1 FROM embeddings WHERE {same})"""
    swapped = f"OLD.{owner} AND OLD.vector_seq IS NOT NEW.vector_seq"
    yield CreateTrigger(f"{table}_insert", f"AFTER INSERT ON {table}", [f"{counts} {added} {one}"])
    yield CreateTrigger(f"{table}_update", f"AFTER UPDATE OF indexed ON {table}", [f"{counts} {moved} {one}"])
    yield CreateTrigger(f"{table}_delete", f"AFTER DELETE ON {table}", [f"{counts} {deleted} {one}"])
    yield CreateTrigger(f"{table}_free", "AFTER DELETE ON embeddings", [free], when=f"OLD.{owner}")
    yield CreateTrigger(f"{table}_swap", "AFTER UPDATE OF vector_seq ON embeddings", [free], when=swapped)


def upgrade() -> None:
    """Give every model a token, and every embedding that of its model. What was embedded is not known of any."""
    if op.get_context().as_sql:
        op.execute("SELECT json('upgrade with a connection: there are vector models to convert') FROM vector_models")
    models = [] if op.get_context().as_sql else [row[0] for row in _rows("SELECT name FROM vector_models")]
    batch.execute(
        (
            *_without_triggers(map(token_of, models)),
            "ALTER TABLE vector_models RENAME TO old_models",
            MODELS,
            *(f"ALTER TABLE embeddings ADD COLUMN {column}" for column in ADDED),
        )
    )
    copy = f"INSERT INTO vector_models (token, {COLUMNS}) SELECT ?, {COLUMNS} FROM old_models WHERE name = ?"
    mark = "UPDATE embeddings SET space = ? WHERE model = ?"
    if models:
        steps = [BatchStep(sql, (token_of(model), model)) for model in models for sql in (copy, mark)]
        op.get_bind().exec_driver_sql(Batch(steps))
    batch.execute(("DROP TABLE old_models", *(trigger for model in models for trigger in triggers(token_of(model)))))


def downgrade() -> None:
    """Go back to one dimension for each model. A space of another dimension stays in the way while it has vectors."""
    sql = "SELECT token, name, dimension, vectors FROM vector_models ORDER BY name, dimension"
    spaces = [] if op.get_context().as_sql else _rows(sql)
    variants = [space for space in spaces if space[0] != token_of(space[1])]
    for _, name, dimension, vectors in variants:
        if vectors:
            raise SchemaError(
                f"revision 0005 has one dimension for each model: delete the vectors of {name!r} that have the "
                f"dimension {dimension} first"
            )
    models = [name for token, name, *_ in spaces if token == token_of(name)]
    batch.execute(
        (
            *_without_triggers(row[0] for row in spaces),
            *(sql for token, *_ in variants for sql in _drop(token)),
            "ALTER TABLE vector_models RENAME TO new_models",
            OLD_MODELS,
        )
    )
    copy = f"INSERT INTO vector_models ({COLUMNS}) SELECT {COLUMNS} FROM new_models WHERE token = ?"
    if models:
        op.get_bind().exec_driver_sql(Batch([BatchStep(copy, (token_of(model),)) for model in models]))
    batch.execute(
        (
            "DROP TABLE new_models",
            *(f"ALTER TABLE embeddings DROP COLUMN {column.split()[0]}" for column in ADDED),
            *(trigger for model in models for trigger in old_triggers(model)),
        )
    )


def _without_triggers(tokens: Iterator[str] | map[str]) -> Iterator[str]:
    for token in tokens:
        yield from (f"DROP TRIGGER IF EXISTS vectors_{token}_{name}" for name in TRIGGERS)


def _drop(token: str) -> Iterator[str]:
    yield f"DROP INDEX IF EXISTS vectors_{token}_ann"
    yield f"DROP TABLE vectors_{token}"


def _rows(sql: str) -> list[Any]:
    return list(op.get_bind().exec_driver_sql(sql).all())
