"""Words of every script are found: what is spelled otherwise in the index stands in a column, `words`.

The views that the full-text indexes read use no function that SQLite 3.38 lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from alembic import op

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateFullText, CreateTrigger, CreateView
from memory_storage.schema.words import words_of_episode, words_of_pattern, words_of_step

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

PAGE = 500
TEXTS = {
    "episodes": ("description", "outcome", "reflection", "tags"),
    "steps": ("tool", "action", "parameters", "output"),
    "patterns": ("description", "rule", "tags"),
}
TOKENIZER = (
    "porter unicode61 remove_diacritics 2 categories ''L* N* Co Mn Mc''"
    f" separators ''{''.join(map(chr, range(0xFE00, 0xFE10)))}''"
)


def words(json: str) -> str:
    """SQL for the words of a JSON text: without the escapes, which would stick to the words after them."""
    for escape in (r"\\", r"\"", r"\n", r"\r", r"\t", r"\b", r"\f"):
        json = f"replace({json}, '{escape}', ' ')"
    return json


def together_with_spaces(texts: Sequence[str]) -> str:
    """SQL for the texts that are there, one after the other: `concat_ws` is not in SQLite before 3.44."""
    return " || ".join(f"coalesce({text} || ' ', '')" for text in texts)


def fields(*names: str) -> list[str]:
    """SQL for text fields of a document."""
    return [f"document ->> '$.{name}'" for name in names]


def lists(*names: str) -> list[str]:
    """SQL for the words of fields of a document that are lists or objects."""
    return [words(f"document -> '$.{name}'") for name in names]


OUTCOME = (
    *fields("outcome.verdict", "outcome.reason", "outcome.error_details"),
    *lists("outcome.artifacts", "outcome.completed", "outcome.failed", "outcome.infeasibility_signals"),
)
REFLECTION = lists("reflection.successes", "reflection.improvements", "reflection.insights")
RULE = (
    *fields("condition", "action", "error_type", "recommended_approach"),
    *lists("recovery_steps", "context_features", "tools"),
)


def views(joined: Callable[[Sequence[str]], str]) -> dict[str, dict[str, str]]:
    """The columns of the views, by table: the text of a row as it is written."""
    return {
        "episodes": {
            "description": "document ->> '$.task_description'",
            "outcome": joined(OUTCOME),
            "reflection": joined(REFLECTION),
            "tags": words("document -> '$.tags'"),
        },
        "steps": {
            "tool": "tool",
            "action": "document ->> '$.action'",
            "parameters": words("document -> '$.parameters'"),
            "output": "output",
        },
        "patterns": {
            "description": "document ->> '$.description'",
            "rule": joined(RULE),
            "tags": words("document -> '$.tags'"),
        },
    }


def view(table: str, columns: dict[str, str]) -> CreateView:
    """The view of one table."""
    return CreateView(
        f"{table}_text",
        f"SELECT seq,\n        {', '.join(f'{sql} AS {name}' for name, sql in columns.items())}\n    FROM {table}",
    )


VIEWS = {
    table: view(table, {name: f"coalesce(words ->> '$.{name}', {sql})" for name, sql in columns.items()})
    for table, columns in views(together_with_spaces).items()
}
# As revisions 0001 and 0003 have them.
OLD_VIEWS = {
    table: view(table, columns) for table, columns in views(lambda texts: f"concat_ws(' ', {', '.join(texts)})").items()
}


def triggers(table: str, *more: str) -> tuple[CreateTrigger, ...]:
    """Keep the full-text index of one table. The old text has to be told to it, so it is read before the change."""
    columns = ", ".join(TEXTS[table])
    add = f"INSERT INTO {table}_fts (rowid, {columns}) SELECT seq, {columns} FROM {table}_text WHERE seq = NEW.seq"
    remove = f"""INSERT INTO {table}_fts ({table}_fts, rowid, {columns})
        SELECT 'delete', seq, {columns} FROM {table}_text WHERE seq = OLD.seq"""
    columns_read = ("document", *(("output",) if table == "steps" else ()), *more)
    changed = " OR ".join(f"OLD.{column} IS NOT NEW.{column}" for column in columns_read)
    update = f"UPDATE OF {', '.join(columns_read)} ON {table}"
    return (
        CreateTrigger(f"{table}_fts_insert", f"AFTER INSERT ON {table}", [add]),
        CreateTrigger(f"{table}_fts_before", f"BEFORE {update}", [remove], when=changed),
        CreateTrigger(f"{table}_fts_after", f"AFTER {update}", [add], when=changed),
        CreateTrigger(f"{table}_fts_delete", f"BEFORE DELETE ON {table}", [remove]),
    )


def upgrade() -> None:
    """Add the column, fill it, and index all text again."""
    refuse_offline_with_words()
    batch.execute((*drop(), *(f"ALTER TABLE {table} ADD COLUMN words TEXT" for table in TEXTS)))
    if not op.get_context().as_sql:
        fill("episodes", "document", words_of_episode)
        fill("steps", "document, output", words_of_step)
        fill("patterns", "document", words_of_pattern)
    batch.execute(create(VIEWS, "words", tokenize=TOKENIZER))


def downgrade() -> None:
    """Drop the column: words of scripts without spaces are not found then."""
    columns = (f"ALTER TABLE {table} DROP COLUMN words" for table in TEXTS)
    batch.execute((*drop(), *columns, *create(OLD_VIEWS)))


def drop() -> Iterator[str]:
    """Statements that drop the full-text indexes, their views and triggers."""
    for table in TEXTS:
        yield from (f"DROP TRIGGER {trigger.name}" for trigger in triggers(table))
        yield f"DROP TABLE {table}_fts"
        yield f"DROP VIEW {table}_text"


def create(views: dict[str, CreateView], *more: str, **options: str) -> Iterator[object]:
    """Statements that create them, and index what is stored."""
    for table, columns in TEXTS.items():
        yield views[table]
        yield CreateFullText(f"{table}_fts", columns, content=f"{table}_text", rowid="seq", **options)
        yield f"INSERT INTO {table}_fts ({table}_fts) VALUES ('rebuild')"
        yield from triggers(table, *more)


def refuse_offline_with_words() -> None:
    """A script cannot spell: let it fail before it changes anything, if there is a text that is not ASCII."""
    if op.get_context().as_sql:
        for table in TEXTS:
            op.execute(
                f"SELECT json('upgrade with a connection: there are words to spell') FROM {table}{others(table)}"
            )


def others(table: str) -> str:
    """SQL for the rows with a text that is not ASCII: one of them."""
    texts = ("document", "output") if table == "steps" else ("document",)
    return f" WHERE {' OR '.join(f'length({text}) < length(CAST({text} AS BLOB))' for text in texts)} LIMIT 1"


def fill(table: str, columns: str, words_of: Callable[..., str | None]) -> None:
    """Spell the text of rows that are not ASCII, a page at a time."""
    # As bytes: a text that is no UTF-8 must not end the upgrade. The doctor will find it.
    read = ", ".join(f"CAST({column} AS BLOB)" for column in columns.split(", "))
    where = others(table).replace(" WHERE ", " WHERE seq > ? AND (").replace(" LIMIT 1", ")")
    page = f"SELECT seq, {read} FROM {table}{where} ORDER BY seq LIMIT {PAGE}"
    last = -(2**63)
    while rows := rows_of(page, (last,)):
        last = rows[-1][0]
        spelled = [(spelled_or_none(words_of, texts), seq) for seq, *texts in rows]
        put = f"UPDATE {table} SET words = ? WHERE seq = ?"
        steps = [BatchStep(put, (text, seq)) for text, seq in spelled if text is not None]
        if steps:
            op.get_bind().exec_driver_sql(Batch(steps))


def spelled_or_none(words_of: Callable[..., str | None], texts: Sequence[bytes | None]) -> str | None:
    """What goes into the column; None for a row that cannot be read."""
    try:
        return words_of(*(text and text.decode() for text in texts))
    except ValueError:
        return None


def rows_of(sql: str, values: Sequence[Any]) -> list[Any]:
    """The rows of a query."""
    return list(op.get_bind().exec_driver_sql(sql, tuple(values)).all())
