"""Facets in the order of time: a page of the episodes with a tag is a range of the index.

The time of a pattern's facets is 0. What belongs to a row is found by its document, so the index of owners goes. Those
of a new episode are added with its texts, for many episodes at a time, so an insert has no trigger. What indexes
changed episodes is a trigger: a server compiles each statement, and in a fraction of the time if it need not parse it.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import context

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger, CreateView

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

OWNERS = {"episodes": "episode", "patterns": "pattern"}
LISTS = {"tag": ("tags", "context.tags"), "evidence": ("evidence",)}
"""The facets that are texts of a list, and the fields that are such lists."""

TABLE = """CREATE TABLE facets_in_order (
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        at INTEGER NOT NULL,
        owner_seq INTEGER NOT NULL,
        PRIMARY KEY (namespace, owner_type, name, value, at, owner_seq)
    )
     WITHOUT ROWID"""
OLD_TABLE = """CREATE TABLE facets_by_owner (
        namespace TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        name TEXT NOT NULL,
        value TEXT NOT NULL,
        owner_seq INTEGER NOT NULL,
        PRIMARY KEY (namespace, owner_type, name, value, owner_seq)
    )
     WITHOUT ROWID"""
NAMES = "namespace, owner_type, name, value, at, owner_seq"
OLD_NAMES = "namespace, owner_type, name, value, owner_seq"
SCALAR = "substr(CASE WHEN type IN ('true', 'false', 'null') THEN type ELSE json_quote(value) END, 1, 256)"


def moment(table: str, row: str) -> str:
    """SQL for the time of a row's facets."""
    return f"{row}.started_at" if table == "episodes" else "0"


def readable(row: str) -> str:
    """SQL for a row's document; an empty one where it is no JSON, which the doctor will find."""
    return f"CASE WHEN json_valid({row}.document) THEN {row}.document ELSE '{{}}' END"


def facets_of(table: str, row: str, select: str = "{0}, {1}") -> str:
    """SQL for the facets that a row's document has: name and value. A text that is in two lists comes once."""
    document = readable(row)
    selects = []
    for name in LISTS:
        if table == "patterns" or name != "evidence":
            texts = ", ".join(f"{document} -> '$.{field}'" for field in LISTS[name])
            columns = select.format(f"'{name}'", "atom")
            selects.append(f"SELECT DISTINCT {columns} FROM json_tree(json_array({texts})) WHERE type = 'text'")
    columns = select.format("'metadata.' || key", SCALAR)
    scalars = f"SELECT {columns} FROM json_each({document}, '$.metadata') WHERE type NOT IN ('object', 'array')"
    return "\n        UNION ALL ".join([*selects, scalars])


def every(table: str, row: str) -> str:
    """SQL for the rows of the facets that a row's document has."""
    return facets_of(table, row, f"{row}.namespace, '{OWNERS[table]}', {{0}}, {{1}}, {moment(table, row)}, {row}.seq")


def changed(table: str) -> str:
    """SQL for whether an update changes facets, or their time."""
    fields = ("tags", "context.tags", "metadata", *(["evidence"] if table == "patterns" else []))
    at = ["OLD.started_at IS NOT NEW.started_at"] if table == "episodes" else []
    old, new = readable("OLD"), readable("NEW")
    return " OR ".join([*at, *(f"{old} -> '$.{field}' IS NOT {new} -> '$.{field}'" for field in fields)])


def triggers(table: str) -> Iterator[CreateTrigger]:
    """The triggers that keep the facets of a table."""
    owner = OWNERS[table]
    key = f"namespace = {{0}}.namespace AND owner_type = '{owner}' AND at = {{1}} AND owner_seq = {{0}}.seq"
    of_old = key.format("OLD", moment(table, "OLD"))
    at = moment(table, "NEW")
    add = f"INSERT OR IGNORE INTO facets ({NAMES})\n        {every(table, 'NEW')}"
    # Distinct and without what is stored: an upsert overrides an OR IGNORE in its triggers.
    new = f"""INSERT INTO facets ({NAMES}) SELECT NEW.namespace, '{owner}', f.name, f.value, {at}, NEW.seq
        FROM (SELECT DISTINCT * FROM ({facets_of(table, "NEW", "{0} AS name, {1} AS value")})) AS f
        WHERE NOT EXISTS (
            SELECT 1 FROM facets AS x WHERE x.namespace = NEW.namespace AND x.owner_type = '{owner}'
                AND x.name = f.name AND x.value = f.value AND x.at = {at} AND x.owner_seq = NEW.seq)"""
    old = f"DELETE FROM facets WHERE {of_old} AND (name, value) IN ({facets_of(table, 'OLD')})"
    gone = old + (
        f" AND ({moment(table, 'OLD')} <> {moment(table, 'NEW')} OR (name, value) NOT IN ({facets_of(table, 'NEW')}))"
    )
    columns = "document, started_at" if table == "episodes" else "document"
    if table != "episodes":
        yield CreateTrigger(f"{table}_facets_insert", f"AFTER INSERT ON {table}", [add])
    yield CreateTrigger(
        f"{table}_facets_update", f"AFTER UPDATE OF {columns} ON {table}", [gone, new], when=changed(table)
    )
    yield CreateTrigger(f"{table}_facets_delete", f"AFTER DELETE ON {table}", [old])


PARTS = 1023  # of the texts of an episode that have steps
PART_BYTES = 3_000_000  # of steps in one text: a server takes values of 5 MB, and spelled text is a third longer
LAST_TEXT = f"(SELECT max(doc) FROM episode_texts WHERE doc > base AND doc <= base + {PARTS})"
# A new step has the highest `seq`, and with a text its trigger removes those after it: what is not indexed is the rest.
LAST_INDEXED = f"(SELECT max(last_step) FROM episode_texts WHERE doc > base AND doc <= base + {PARTS})"
FACETS_OF_CHANGED = every("episodes", "e").replace(
    "FROM json_",
    "FROM (SELECT DISTINCT episode_seq FROM episode_changes) AS c CROSS JOIN episodes AS e ON e.seq = c.episode_seq"
    "\n        CROSS JOIN json_",
)
INDEXING = (
    CreateView(
        "changed_episodes",
        """SELECT DISTINCT e.seq, e.namespace, e.id, n.number << 42 | (e.seq << 10) AS base
    FROM episode_changes AS c CROSS JOIN episodes AS e ON e.seq = c.episode_seq
    CROSS JOIN namespaces AS n ON n.name = e.namespace""",
    ),
    CreateView(
        "changed_texts",
        f"""SELECT base AS doc, NULL AS first_step, NULL AS last_step
    FROM changed_episodes WHERE NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = base)
    UNION ALL
    SELECT min(base + {PARTS}, coalesce({LAST_TEXT}, base) + 1 + part) AS text, min(seq), max(seq)
    FROM (SELECT base, s.seq, sum(length(CAST(s.document AS BLOB)) + coalesce(length(CAST(s.output AS BLOB)), 0)) OVER (
            PARTITION BY base ORDER BY s.seq ROWS UNBOUNDED PRECEDING) / {PART_BYTES} AS part
        FROM changed_episodes AS e CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id
        WHERE +s.seq > coalesce({LAST_INDEXED}, -1)
            AND NOT EXISTS (SELECT 1 FROM episode_texts WHERE doc = base + {PARTS}))
    GROUP BY text""",
    ),
    CreateView("changed_facets", FACETS_OF_CHANGED),
    CreateView("index_changes", "SELECT NULL AS now WHERE false"),
    CreateTrigger(
        "index_changes_insert",
        "INSTEAD OF INSERT ON index_changes",
        [
            # In the order of the numbers: FTS5 writes a segment each time that one is lower than the one before it.
            "INSERT INTO episode_texts (doc, first_step, last_step) SELECT * FROM changed_texts ORDER BY doc",
            f"INSERT OR IGNORE INTO facets ({NAMES}) SELECT * FROM changed_facets ORDER BY 3, 4, 5",
            # The last row stays, so that marks grow: by them a connection knows what it has in its temporary index. All
            # of its episode is indexed, which costs the next time little to find out. What had no room stays too.
            f"""DELETE FROM episode_changes WHERE mark < (SELECT max(mark) FROM episode_changes) AND NOT EXISTS (
        SELECT 1 FROM episodes AS e CROSS JOIN namespaces AS n ON n.name = e.namespace
        CROSS JOIN episode_texts AS t ON t.doc = (n.number << 42 | (e.seq << 10)) + {PARTS}
        WHERE e.seq = episode_seq)""",
        ],
    ),
)


def old_triggers() -> Iterator[CreateTrigger]:
    """The triggers as revisions 0001 and 0008 have them."""
    made = context.script.get_revision("0008").module
    for table, owner in OWNERS.items():
        yield from made.triggers(table, owner)
        remove = f"DELETE FROM facets WHERE owner_type = '{owner}' AND owner_seq = OLD.seq"
        yield CreateTrigger(f"{table}_facets_delete", f"AFTER DELETE ON {table}", [remove])


OLD_TRIGGERS = ("insert", "tag", "metadata", "delete")


def upgrade() -> None:
    """Copy the facets, with the times of their owners, and replace the triggers."""
    batch.execute(
        (
            *(f"DROP TRIGGER {table}_facets_{event}" for table in OWNERS for event in OLD_TRIGGERS),
            "DROP TRIGGER patterns_facets_evidence",
            TABLE,
            f"""INSERT INTO facets_in_order ({NAMES})
        SELECT f.namespace, f.owner_type, f.name, f.value, coalesce(e.started_at, 0), f.owner_seq
        FROM facets AS f LEFT JOIN episodes AS e ON f.owner_type = 'episode' AND e.seq = f.owner_seq""",
            "DROP TABLE facets",
            "ALTER TABLE facets_in_order RENAME TO facets",
            *(trigger for table in OWNERS for trigger in triggers(table)),
            *INDEXING,
        )
    )


def downgrade() -> None:
    """Bring back the order by owner, and the index of owners."""
    batch.execute(
        (
            "INSERT INTO index_changes VALUES (1)",
            *(f"DROP VIEW {one.name}" for one in reversed(INDEXING) if isinstance(one, CreateView)),
            *(f"DROP TRIGGER {trigger.name}" for table in OWNERS for trigger in triggers(table)),
            OLD_TABLE,
            f"INSERT INTO facets_by_owner ({OLD_NAMES}) SELECT {OLD_NAMES} FROM facets",
            "DROP TABLE facets",
            "ALTER TABLE facets_by_owner RENAME TO facets",
            "CREATE INDEX ix_facets_owner ON facets (owner_seq, owner_type)",
            *old_triggers(),
        )
    )
