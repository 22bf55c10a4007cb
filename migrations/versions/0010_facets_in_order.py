"""Facets in the order of time: a page of the episodes with a tag is a range of the index.

The time of a pattern's facets is 0. What belongs to a row is found by its document, so the index of owners goes.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import context

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

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
    every = facets_of(table, "NEW", f"NEW.namespace, '{owner}', {{0}}, {{1}}, {at}, NEW.seq")
    add = f"INSERT OR IGNORE INTO facets ({NAMES})\n        {every}"
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
    yield CreateTrigger(f"{table}_facets_insert", f"AFTER INSERT ON {table}", [add])
    yield CreateTrigger(
        f"{table}_facets_update", f"AFTER UPDATE OF {columns} ON {table}", [gone, new], when=changed(table)
    )
    yield CreateTrigger(f"{table}_facets_delete", f"AFTER DELETE ON {table}", [old])


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
        )
    )


def downgrade() -> None:
    """Bring back the order by owner, and the index of owners."""
    batch.execute(
        (
            *(f"DROP TRIGGER {trigger.name}" for table in OWNERS for trigger in triggers(table)),
            OLD_TABLE,
            f"INSERT INTO facets_by_owner ({OLD_NAMES}) SELECT {OLD_NAMES} FROM facets",
            "DROP TABLE facets",
            "ALTER TABLE facets_by_owner RENAME TO facets",
            "CREATE INDEX ix_facets_owner ON facets (owner_seq, owner_type)",
            *old_triggers(),
        )
    )
