"""Words by namespace, out of the way of writes: the full-text index follows the tables by a log of changed texts.

A text in the index is a range of an episode's rows: its head, or steps that were indexed together. Its number begins
with the number of its namespace, so that the texts of a namespace are one range of the index. Texts enter and leave the
index with their row in `episode_texts`; what has none is in `episode_changes`.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import context, op
from sqlalchemy import Connection, Engine

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateFullText, CreateTrigger, CreateView

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

PORTION = 500
"""Changes whose texts are indexed in one transaction, before the revision runs."""

TOKENIZER = (
    "porter unicode61 remove_diacritics 2 categories ''L* N* Co Mn Mc''"
    f" separators ''{''.join(map(chr, range(0xFE00, 0xFE10)))}''"
)

FIELD_END = "\U0010fffd"
"""A word of its own, so that no phrase crosses the end of a field."""

# The number of a text: 21 bits of the namespace, 32 of the row, 10 of the part.
SEQ = "((t.doc >> 10) & 4294967295)"  # of a row `t`
NUMBER = "(SELECT number FROM namespaces WHERE name = {0}.namespace) << 42 | ({1} << 10)"
PARTS = 1023  # of the texts of an episode that have steps

TABLES = (
    """CREATE TABLE namespaces (
        number INTEGER NOT NULL,
        name TEXT NOT NULL,
        episode_texts INTEGER DEFAULT '0' NOT NULL,
        pattern_texts INTEGER DEFAULT '0' NOT NULL,
        PRIMARY KEY (number),
        UNIQUE (name)
    )""",
    """CREATE TABLE episode_texts (
        doc INTEGER NOT NULL,
        first_step INTEGER,
        last_step INTEGER,
        PRIMARY KEY (doc)
    )""",
    "CREATE TABLE pattern_texts (doc INTEGER NOT NULL, PRIMARY KEY (doc))",
    """CREATE TABLE episode_changes (
        mark INTEGER NOT NULL,
        episode_seq INTEGER,
        PRIMARY KEY (mark)
    )""",
)


def words(json: str) -> str:
    """SQL for the words of JSON: without the escapes, which would stick to the words after them.

    Not by `json_tree`: FTS5 allows no table-valued function in what it compares its index with.
    """
    for escape in (r"\\", r"\"", r"\n", r"\r", r"\t", r"\b", r"\f"):
        json = f"replace({json}, '{escape}', ' ')"
    return json


def joined(*texts: str) -> str:
    """SQL for the texts that are there, one after the other."""
    return " || ' ' || ".join(f"coalesce({text}, '')" for text in texts)


def fields(*names: str) -> list[str]:
    """SQL for text fields of a document."""
    return [f"document ->> '$.{name}'" for name in names]


def lists(*names: str) -> str:
    """SQL for the words of fields of a document that are lists or objects."""
    return words(joined(*(f"document -> '$.{name}'" for name in names)))


def spelled(name: str, sql: str) -> str:
    """SQL for a text as the index spells it: `words` has it, unless it is spelled as it is written."""
    return f"coalesce(words ->> '$.{name}', {sql})"


def readable(table: str, *more: str) -> str:
    """SQL for the rows of a table, whose JSON is JSON: one that another program has damaged must not end a write."""
    names = ", ".join(("seq", *more))
    json = ", ".join(
        f"CASE WHEN json_valid({name}) THEN {name} ELSE {otherwise} END AS {name}"
        for name, otherwise in (("document", "'{}'"), ("words", "NULL"))
    )
    return f"(SELECT {names}, {json} FROM {table})"


def fields_of_step() -> str:
    """SQL for the text of a step: no phrase is found in two of its fields."""
    texts = [f"coalesce({spelled(name, sql)}, '')" for name, sql in STEP.items()]
    return f" || ' {FIELD_END} ' || ".join(texts)


HEAD = {
    "description": "document ->> '$.task_description'",
    "outcome": joined(
        *fields("outcome.verdict", "outcome.reason", "outcome.error_details"),
        lists("outcome.artifacts", "outcome.completed", "outcome.failed", "outcome.infeasibility_signals"),
    ),
    "reflection": lists("reflection.successes", "reflection.improvements", "reflection.insights"),
    "tags": lists("tags"),
}
STEP = {
    "tool": "tool",
    "action": "document ->> '$.action'",
    "parameters": lists("parameters"),
    "output": "output",
}
PATTERN = {
    "description": "document ->> '$.description'",
    "rule": joined(
        *fields("condition", "action", "error_type", "recommended_approach"),
        lists("recovery_steps", "context_features", "tools"),
    ),
    "tags": lists("tags"),
}
EPISODE_COLUMNS = (*HEAD, "steps")
STEPS_OF_TEXT = f"""(SELECT group_concat(text, ' {FIELD_END} ') FROM (
        SELECT s.text FROM episodes AS e CROSS JOIN step_text AS s
        WHERE e.seq = {SEQ} AND s.namespace = e.namespace AND s.episode_id = e.id
            AND +s.seq BETWEEN first_step AND last_step
        ORDER BY s.seq))"""


def columns(selects: dict[str, str]) -> str:
    """SQL for named expressions."""
    return ",\n        ".join(f"{sql} AS {name}" for name, sql in selects.items())


VIEWS = (
    CreateView(
        "episode_head_text",
        f"SELECT seq,\n        {columns({name: spelled(name, sql) for name, sql in HEAD.items()})}\n    FROM "
        + readable("episodes"),
    ),
    CreateView(
        "step_text",
        f"SELECT seq, namespace, episode_id,\n        {fields_of_step()} AS text\n    FROM "
        + readable("steps", "namespace", "episode_id", "tool", "output"),
    ),
    CreateView(
        "episode_text",
        f"SELECT t.doc, {', '.join(f'h.{name}' for name in HEAD)},\n"
        f"        CASE WHEN t.first_step IS NOT NULL THEN {STEPS_OF_TEXT} END AS steps\n"
        "    FROM episode_texts AS t LEFT JOIN episode_head_text AS h"
        f" ON t.first_step IS NULL AND h.seq = {SEQ}",
    ),
    CreateView(
        "pattern_text",
        f"SELECT t.doc,\n        {columns({name: spelled(name, sql) for name, sql in PATTERN.items()})}\n"
        f"    FROM pattern_texts AS t LEFT JOIN {readable('patterns')} AS p ON p.seq = {SEQ}",
    ),
)
FULL_TEXT = tuple(
    CreateFullText(f"{name}_words", names, content=f"{name}_text", rowid="doc", tokenize=TOKENIZER)
    for name, names in (("episode", EPISODE_COLUMNS), ("pattern", tuple(PATTERN)))
)


def text_triggers(name: str, names: tuple[str, ...]) -> Iterator[CreateTrigger]:
    """A text is in the index as long as it has a row: the old text has to be given to the index when it leaves."""
    texts = ", ".join(names)
    read = f"FROM {name}_text WHERE doc"
    count = f"UPDATE namespaces SET {name}_texts = {name}_texts {{0}} 1 WHERE number = {{1}}.doc >> 42"
    yield CreateTrigger(
        f"{name}_texts_insert",
        f"AFTER INSERT ON {name}_texts",
        [
            f"INSERT INTO {name}_words (rowid, {texts}) SELECT doc, {texts} {read} = NEW.doc",
            count.format("+", "NEW"),
        ],
    )
    yield CreateTrigger(
        f"{name}_texts_delete",
        f"BEFORE DELETE ON {name}_texts",
        [
            f"INSERT INTO {name}_words ({name}_words, rowid, {texts}) SELECT 'delete', doc, {texts} {read} = OLD.doc",
            count.format("-", "OLD"),
        ],
    )


def changed(*names: str) -> str:
    """SQL for whether an update changes one of these columns."""
    return " OR ".join(f"OLD.{name} IS NOT NEW.{name}" for name in names)


EPISODE = NUMBER.format("OLD", "OLD.seq")
# The text of a step, and those after it: what is not indexed always comes after what is.
OF_STEP = f"""DELETE FROM episode_texts WHERE doc IN (
        SELECT t.doc FROM (SELECT {NUMBER.format("e", "e.seq")} AS base FROM episodes AS e
            WHERE e.namespace = OLD.namespace AND e.id = OLD.episode_id) AS episode
        CROSS JOIN episode_texts AS t ON t.doc > episode.base AND t.doc <= episode.base + {PARTS}
        WHERE t.last_step >= OLD.seq)"""
LOG_STEP = """INSERT INTO episode_changes (episode_seq)
        SELECT seq FROM episodes WHERE namespace = {0}.namespace AND id = {0}.episode_id"""
STEP_UPDATE = "UPDATE OF tool, output, document, words ON steps"
STEP_CHANGED = changed("tool", "output", "document", "words")
PATTERN_NUMBER = NUMBER.format("{0}", "{0}.seq")

ADD_NAMESPACE = """INSERT INTO namespaces (name)
        SELECT NEW.namespace WHERE NOT EXISTS (SELECT 1 FROM namespaces WHERE name = NEW.namespace)"""
LOG_TRIGGERS = (
    CreateTrigger(
        "episodes_text_insert",
        "AFTER INSERT ON episodes",
        [ADD_NAMESPACE, "INSERT INTO episode_changes (episode_seq) VALUES (NEW.seq)"],
    ),
    CreateTrigger(
        "episodes_text_before",
        "BEFORE UPDATE OF document, words ON episodes",
        [f"DELETE FROM episode_texts WHERE doc = ({EPISODE})"],
        when=changed("document", "words"),
    ),
    CreateTrigger(
        "episodes_text_after",
        "AFTER UPDATE OF document, words ON episodes",
        ["INSERT INTO episode_changes (episode_seq) VALUES (NEW.seq)"],
        when=changed("document", "words"),
    ),
    CreateTrigger(
        "episodes_text_delete",
        "BEFORE DELETE ON episodes",
        [f"DELETE FROM episode_texts WHERE doc BETWEEN ({EPISODE}) AND ({EPISODE}) + {PARTS}"],
    ),
    CreateTrigger("steps_text_insert", "AFTER INSERT ON steps", [LOG_STEP.format("NEW")]),
    CreateTrigger("steps_text_before", f"BEFORE {STEP_UPDATE}", [OF_STEP], when=STEP_CHANGED),
    CreateTrigger("steps_text_after", f"AFTER {STEP_UPDATE}", [LOG_STEP.format("NEW")], when=STEP_CHANGED),
    CreateTrigger("steps_text_delete", "BEFORE DELETE ON steps", [OF_STEP, LOG_STEP.format("OLD")]),
)
ADD_PATTERN = f"INSERT INTO pattern_texts (doc) SELECT {PATTERN_NUMBER.format('NEW')}"
REMOVE_PATTERN = f"DELETE FROM pattern_texts WHERE doc = ({PATTERN_NUMBER.format('OLD')})"
PATTERN_TRIGGERS = (
    CreateTrigger("patterns_text_insert", "AFTER INSERT ON patterns", [ADD_NAMESPACE, ADD_PATTERN]),
    CreateTrigger(
        "patterns_text_before",
        "BEFORE UPDATE OF document, words ON patterns",
        [REMOVE_PATTERN],
        when=changed("document", "words"),
    ),
    CreateTrigger(
        "patterns_text_after",
        "AFTER UPDATE OF document, words ON patterns",
        [ADD_PATTERN],
        when=changed("document", "words"),
    ),
    CreateTrigger("patterns_text_delete", "BEFORE DELETE ON patterns", [REMOVE_PATTERN]),
)

LAST_MARK = f"(SELECT max(mark) FROM (SELECT mark FROM episode_changes ORDER BY mark LIMIT {PORTION}))"
CHANGED = f"""WITH changed AS MATERIALIZED (
    SELECT DISTINCT e.seq, e.namespace, e.id, n.number << 42 | (e.seq << 10) AS base FROM episode_changes AS c
    CROSS JOIN episodes AS e ON e.seq = c.episode_seq CROSS JOIN namespaces AS n ON n.name = e.namespace
    WHERE c.mark <= {LAST_MARK})"""
INDEX_PORTION = (
    f"""INSERT INTO namespaces (name) SELECT DISTINCT e.namespace FROM episode_changes AS c
    CROSS JOIN episodes AS e ON e.seq = c.episode_seq
    WHERE c.mark <= {LAST_MARK} AND NOT EXISTS (SELECT 1 FROM namespaces AS n WHERE n.name = e.namespace)""",
    f"""{CHANGED} DELETE FROM episode_texts WHERE doc IN (
    SELECT t.doc FROM changed CROSS JOIN episode_texts AS t ON t.doc > base AND t.doc <= base + {PARTS})""",
    f"""{CHANGED} INSERT INTO episode_texts (doc, first_step, last_step) SELECT * FROM (
    SELECT base, NULL, NULL FROM changed WHERE NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = base)
    UNION ALL
    SELECT min(base + {PARTS}, base + 1 + part) AS doc, min(seq), max(seq)
    FROM (SELECT base, s.seq, sum(length(CAST(s.document AS BLOB)) + coalesce(length(CAST(s.output AS BLOB)), 0)) OVER (
            PARTITION BY base ORDER BY s.seq ROWS UNBOUNDED PRECEDING) / 3000000 AS part
        FROM changed CROSS JOIN steps AS s ON s.namespace = changed.namespace AND s.episode_id = changed.id)
    GROUP BY doc)
    ORDER BY 1""",
    f"DELETE FROM episode_changes WHERE mark <= {LAST_MARK} AND mark < (SELECT max(mark) FROM episode_changes)",
    "UPDATE episode_changes SET episode_seq = NULL WHERE (SELECT count(*) FROM episode_changes) = 1",
)
"""Statements that index the texts of the oldest changes."""


def moment(column: str) -> str:
    """SQL for the JSON of a time: whole seconds without a fraction, else six digits."""
    fraction = f"(({column} % 1000000 + 1000000) % 1000000)"
    return f"""CASE WHEN {column} IS NULL THEN 'null' ELSE
        strftime('"%Y-%m-%dT%H:%M:%S', ({column} - {fraction}) / 1000000, 'unixepoch')
        || CASE WHEN {fraction} THEN printf('.%06d', {fraction}) ELSE '' END || 'Z"' END"""


def member(name: str, sql: str) -> str:
    """SQL for one member of an object, and the comma after it."""
    return f"'\"{name}\":' || {sql} || ','"


def whole(start: int, before: tuple[str, ...]) -> str:
    """SQL for a document with more members before its text from a character on."""
    return " || ".join(["'{'", *before, f"substr(document, {start})"])


def left_out(name: str, sql: str) -> str:
    """SQL for a member that the document has not, unless it has."""
    return f"iif(json_type(document, '$.{name}') IS NULL, {member(name, sql)}, '')"


CONTEXT = '{"context":{"tags"'
WHOLE = (
    (
        "episodes",
        f"substr(document, 1, {len(CONTEXT)}) = '{CONTEXT}'",
        whole(
            len(CONTEXT) - len('"tags"') + 1,
            (
                member("id", "json_quote(id)"),
                member("task_type", "json_quote(task_type)"),
                left_out("started_at", moment("started_at")),
                left_out("completed_at", moment("completed_at")),
                "'\"context\":{'",
                *(member(name, f"json_quote({name})") for name in ("language", "framework", "complexity", "domain")),
            ),
        ),
    ),
    (
        "steps",
        "substr(document, 1, 10) = '{\"action\":'",
        whole(
            2,
            (
                member("id", "json_quote(id)"),
                member("step_number", "step_number"),
                member("tool", "json_quote(tool)"),
                member(
                    "result",
                    """CASE status WHEN 'ok' THEN '{"status":"ok","output":""}'
        WHEN 'error' THEN '{"status":"error","message":""}' WHEN 'timeout' THEN '{"status":"timeout"}'
        ELSE 'null' END""",
                ),
                member("latency_ms", "latency_ms"),
                member("tokens_used", "coalesce(tokens_used, 'null')"),
                left_out("started_at", moment("started_at")),
            ),
        ),
    ),
)
"""Tables, which of their documents lack what columns have, and SQL for the whole document."""

NEW_TABLES = ("episode_changes", "pattern_words", "episode_words", "pattern_texts", "episode_texts", "namespaces")
OLD_TABLES = ("episodes", "steps", "patterns")


def create_log() -> Iterator[object]:
    """The new index, empty, the log of changes, and in it every episode."""
    yield from (*TABLES, *VIEWS, *FULL_TEXT)
    yield from text_triggers("episode", EPISODE_COLUMNS)
    yield from text_triggers("pattern", tuple(PATTERN))
    yield from LOG_TRIGGERS
    yield "INSERT INTO episode_changes (episode_seq) SELECT seq FROM episodes ORDER BY seq"


def upgrade() -> None:
    """Replace the full-text indexes. What an earlier, interrupted upgrade has indexed stays."""
    has_log = not op.get_context().as_sql and is_prepared(op.get_bind())
    batch.execute(
        (
            *(() if has_log else create_log()),
            *drop_old(),
            "INSERT INTO namespaces (name) SELECT DISTINCT p.namespace FROM patterns AS p"
            " WHERE NOT EXISTS (SELECT 1 FROM namespaces AS n WHERE n.name = p.namespace)",
            "INSERT INTO pattern_texts (doc) SELECT n.number << 42 | (p.seq << 10) AS doc FROM patterns AS p"
            " CROSS JOIN namespaces AS n ON n.name = p.namespace ORDER BY 1",
            *PATTERN_TRIGGERS,
        )
    )
    if not op.get_context().as_sql:
        while (
            op.get_bind().exec_driver_sql("SELECT 1 FROM episode_changes WHERE episode_seq IS NOT NULL LIMIT 1").all()
        ):
            batch.execute(INDEX_PORTION)


def downgrade() -> None:
    """Bring back the three full-text indexes, and the documents as older versions read them."""
    batch.execute(
        (
            *(f"DROP TRIGGER {trigger.name}" for trigger in (*LOG_TRIGGERS, *PATTERN_TRIGGERS)),
            *(f"DROP TABLE {name}" for name in NEW_TABLES),
            *(f"DROP VIEW {view.name}" for view in reversed(VIEWS)),
            *(
                f"UPDATE {table} SET document = {document} WHERE CASE WHEN json_valid(document) THEN {is_short} END"
                for table, is_short, document in WHOLE
            ),
            *create_old(),
        )
    )


def prepare(engine: Engine) -> Iterator[tuple[int, int]]:
    """Index the texts before the revision runs, in short transactions: an interrupted run is resumed by the next one.

    Programs of the version before may read and write meanwhile: their full-text indexes stay until the revision runs,
    and what they change is logged. A small database is left to the revision.

    Args:
        engine: A database of the revision before.

    Yields:
        How many of how many changes of texts are indexed.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        prepared = is_prepared(connection)
        if not prepared and connection.exec_driver_sql("SELECT count(*) FROM episodes").scalar_one() <= PORTION:
            return
        if not prepared:
            connection.exec_driver_sql(Batch([BatchStep(str(statement)) for statement in create_log()]))
        count = "SELECT count(episode_seq) FROM episode_changes"
        total = left = connection.exec_driver_sql(count).scalar_one()
        while left:
            yield total - left, total
            connection.exec_driver_sql(Batch([BatchStep(statement) for statement in INDEX_PORTION]))
            left = connection.exec_driver_sql(count).scalar_one()
            total = max(total, left)


def is_prepared(connection: Connection) -> bool:
    """Whether the new index is there, and the log."""
    return bool(connection.exec_driver_sql("SELECT 1 FROM sqlite_master WHERE name = 'episode_changes'").all())


def drop_old() -> Iterator[str]:
    """Statements that drop the full-text indexes of revision 0007."""
    for table in OLD_TABLES:
        yield from (f"DROP TRIGGER {table}_fts_{event}" for event in ("insert", "before", "after", "delete"))
        yield f"DROP TABLE {table}_fts"
        yield f"DROP VIEW {table}_text"


def create_old() -> Iterator[object]:
    """Statements that create and fill them as revision 0007 does."""
    made = context.script.get_revision("0007").module
    for table, names in made.TEXTS.items():
        texts = ", ".join(names)
        yield made.VIEWS[table]
        yield CreateFullText(f"{table}_fts", names, content=f"{table}_text", rowid="seq", tokenize=TOKENIZER)
        yield f"""INSERT INTO {table}_fts (rowid, {texts}) SELECT seq, {texts} FROM {table}_text
        WHERE seq IN (SELECT seq FROM {table} WHERE json_valid(document))"""
        yield from made.triggers(table, "words")
