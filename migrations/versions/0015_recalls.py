"""Recalls: which records an episode was shown and has used as facets, and receipts that any process can complete with.

The receipt of a recall is in the document of the episode that was completed with it, and the facets `recalled` and
`used` are an index of it. A receipt that is kept before that is a row of `recalls`.
"""

from __future__ import annotations

from collections.abc import Iterator

from alembic import context

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger, CreateView

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None

TABLE = """CREATE TABLE recalls (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        number INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id),
        UNIQUE (namespace, number)
    )"""
NAMES = "namespace, owner_type, name, value, at, owner_seq"
OWN = "owner_type = 'episode' AND name IN ('recalled', 'used')"


def readable(row: str) -> str:
    """SQL for a row's document; an empty one where it is no JSON, which the doctor will find."""
    return f"CASE WHEN json_valid({row}.document) THEN {row}.document ELSE '{{}}' END"


def of_receipt(row: str, select: str = "{0}, {1}") -> str:
    """SQL for the facets that the receipt in an episode's document has: name and value."""
    # An item of a receipt is an array of its kind and its ID, in this order.
    sources = {
        "recalled": f"json_tree({readable(row)}, '$.recalled.items') WHERE type = 'text' AND key = 1",
        "used": f"json_each({readable(row)}, '$.recalled.used') WHERE type = 'text'",
    }
    return "\n        UNION ALL ".join(
        f"SELECT DISTINCT {select.format(repr(name), 'atom')} FROM {source}" for name, source in sources.items()
    )


def facets_of(row: str) -> str:
    """SQL for the facets that an episode's document has: name and value."""
    made = context.script.get_revision("0010").module
    return f"{made.facets_of('episodes', row)}\n        UNION ALL {of_receipt(row)}"


def triggers() -> Iterator[CreateTrigger]:
    """The triggers that keep the facets of episodes, as revision 0010 has them, with those of receipts."""
    made = context.script.get_revision("0010").module
    key = "namespace = {0}.namespace AND owner_type = 'episode' AND at = {0}.started_at AND owner_seq = {0}.seq"
    new = f"""INSERT INTO facets ({NAMES}) SELECT NEW.namespace, 'episode', f.name, f.value, NEW.started_at, NEW.seq
        FROM (SELECT DISTINCT * FROM (SELECT NULL AS name, NULL AS value WHERE false
        UNION ALL {facets_of("NEW")})) AS f
        WHERE NOT EXISTS (
            SELECT 1 FROM facets AS x WHERE x.namespace = NEW.namespace AND x.owner_type = 'episode'
                AND x.name = f.name AND x.value = f.value AND x.at = NEW.started_at AND x.owner_seq = NEW.seq)"""
    old = f"DELETE FROM facets WHERE {key.format('OLD')} AND (name, value) IN ({facets_of('OLD')})"
    gone = f"{old} AND (OLD.started_at <> NEW.started_at OR (name, value) NOT IN ({facets_of('NEW')}))"
    receipt_changes = f"{readable('OLD')} -> '$.recalled' IS NOT {readable('NEW')} -> '$.recalled'"
    yield CreateTrigger(
        "episodes_facets_update",
        "AFTER UPDATE OF document, started_at ON episodes",
        [gone, new],
        when=f"{made.changed('episodes')} OR {receipt_changes}",
    )
    yield CreateTrigger("episodes_facets_delete", "AFTER DELETE ON episodes", [old])


def former_triggers() -> Iterator[CreateTrigger]:
    """The triggers as revision 0010 has them."""
    yield from context.script.get_revision("0010").module.triggers("episodes")


def facets_of_changed() -> CreateView:
    """The view of the facets of changed episodes."""
    made = context.script.get_revision("0010").module
    every = of_receipt("e", "e.namespace, 'episode', {0}, {1}, e.started_at, e.seq").replace(
        "FROM json_",
        "FROM (SELECT DISTINCT episode_seq FROM episode_changes) AS c CROSS JOIN episodes AS e ON e.seq = c.episode_seq"
        "\n        CROSS JOIN json_",
    )
    return CreateView("changed_facets", f"{made.FACETS_OF_CHANGED}\n        UNION ALL {every}")


def upgrade() -> None:
    """Create the table, and index the receipts that are stored."""
    batch.execute(statements())


def statements() -> Iterator[object]:
    """What the upgrade runs."""
    yield TABLE
    for trigger in triggers():
        yield f"DROP TRIGGER {trigger.name}"
        yield trigger
    yield "DROP VIEW changed_facets"
    yield facets_of_changed()
    # First all of the changed episodes: of a row in the log, all facets are in the table, or none.
    yield "INSERT INTO index_changes VALUES (1)"
    # Most documents have no receipt, and are not parsed.
    rows = of_receipt("e", "e.namespace, 'episode', {0}, {1}, e.started_at, e.seq").replace(
        "FROM json_",
        """FROM (SELECT * FROM episodes WHERE instr(document, '"recalled"')) AS e CROSS JOIN json_""",
    )
    yield f"INSERT OR IGNORE INTO facets ({NAMES})\n        {rows}"


def downgrade() -> None:
    """Drop the kept receipts, the index of those in episodes, and of these what an older version cannot read."""
    made = context.script.get_revision("0010").module
    batch.execute(
        (
            """UPDATE episodes SET document = json_remove(document, '$.recalled.used', '$.recalled.rating')
        WHERE instr(document, '"recalled"') AND CASE WHEN json_valid(document) THEN
            json_type(document, '$.recalled.used') IS NOT NULL OR json_type(document, '$.recalled.rating') IS NOT NULL
        END""",
            *(one for trigger in former_triggers() for one in (f"DROP TRIGGER {trigger.name}", trigger)),
            "DROP VIEW changed_facets",
            CreateView("changed_facets", made.FACETS_OF_CHANGED),
            f"DELETE FROM facets WHERE {OWN}",
            "DROP TABLE recalls",
        )
    )
