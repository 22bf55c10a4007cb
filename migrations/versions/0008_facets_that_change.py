"""An update writes the facets that it changes, and no others; tags of the context are facets too."""

from __future__ import annotations

from collections.abc import Iterator

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

OWNERS = {"episodes": "episode", "patterns": "pattern"}
COLUMNS = "namespace, owner_type, name, value, owner_seq"
LISTS = {"tag": ("tags", "context.tags"), "evidence": ("evidence",)}
"""The facets that are texts of a list, and the fields that are such lists."""

SCALAR = "substr(CASE WHEN type IN ('true', 'false', 'null') THEN type ELSE json_quote(value) END, 1, 256)"
SCALARS = "json_each(NEW.document, '$.metadata') WHERE type NOT IN ('object', 'array')"


def changed(*fields: str) -> str:
    """SQL for whether an update changes one of these fields."""
    return " OR ".join(f"OLD.document -> '$.{field}' IS NOT NEW.document -> '$.{field}'" for field in fields)


def lists_of(owner: str) -> list[str]:
    """The names of the facets from lists that an owner has."""
    return [name for name in LISTS if owner == "pattern" or name != "evidence"]


def texts(name: str, select: str = "atom") -> str:
    """SQL for the texts of lists, `atom`; one that is in both lists comes once."""
    lists = ", ".join(f"NEW.document -> '$.{field}'" for field in LISTS[name])
    return f"SELECT DISTINCT {select} FROM json_tree(json_array({lists})) WHERE type = 'text'"


def added(owner: str) -> str:
    """SQL that adds all facets of a new row."""
    selects = [
        *(texts(name, f"NEW.namespace, '{owner}', '{name}', atom, NEW.seq") for name in lists_of(owner)),
        f"SELECT NEW.namespace, '{owner}', 'metadata.' || key, {SCALAR}, NEW.seq FROM {SCALARS}",
    ]
    return f"INSERT OR IGNORE INTO facets ({COLUMNS})\n        " + "\n        UNION ALL ".join(selects)


def update_triggers(table: str, owner: str) -> Iterator[CreateTrigger]:
    """The triggers that remove what a changed row has no longer, and add what it has not yet: one for each kind."""
    event = f"AFTER UPDATE OF document ON {table}"
    # With the namespace, the index of owners finds the facets of one name.
    of_row = f"owner_seq = NEW.seq AND owner_type = '{owner}' AND namespace = NEW.namespace"
    for name in lists_of(owner):
        of_name = f"{of_row} AND name = '{name}'"
        # Distinct and without what is stored: an upsert overrides an OR IGNORE in its triggers.
        yield CreateTrigger(
            f"{table}_facets_{name}",
            event,
            [
                f"DELETE FROM facets WHERE {of_name} AND value NOT IN ({texts(name)})",
                f"INSERT INTO facets ({COLUMNS}) SELECT NEW.namespace, '{owner}', '{name}', atom, NEW.seq"
                f" FROM ({texts(name)}) WHERE atom NOT IN (SELECT value FROM facets WHERE {of_name})",
            ],
            when=changed(*LISTS[name]),
        )
    present = f"SELECT 'metadata.' || key AS name, {SCALAR} AS text FROM {SCALARS}"
    yield CreateTrigger(
        f"{table}_facets_metadata",
        event,
        [
            f"DELETE FROM facets WHERE {of_row} AND name >= 'metadata.' AND name < 'metadata/'"
            f" AND (name, value) NOT IN ({present})",
            f"""INSERT OR IGNORE INTO facets ({COLUMNS})
        SELECT NEW.namespace, '{owner}', pair.name, pair.text, NEW.seq FROM ({present}) AS pair
        WHERE NOT EXISTS (
            SELECT 1 FROM facets AS f WHERE f.namespace = NEW.namespace AND f.owner_type = '{owner}'
                AND f.name = pair.name AND f.value = pair.text AND f.owner_seq = NEW.seq)""",
        ],
        when=changed("metadata"),
    )


def triggers(table: str, owner: str) -> tuple[CreateTrigger, ...]:
    """The triggers that add and change the facets of a table."""
    return (
        CreateTrigger(f"{table}_facets_insert", f"AFTER INSERT ON {table}", [added(owner)]),
        *update_triggers(table, owner),
    )


def old_triggers(table: str, owner: str) -> tuple[CreateTrigger, ...]:
    """The triggers as revisions 0001 and 0005 have them."""
    evidence = "SELECT NEW.namespace, 'pattern', 'evidence', value, NEW.seq FROM json_each(NEW.document, '$.evidence')"
    separator = "\n        UNION ALL " if owner == "pattern" else "\n        UNION ALL\n        "
    selects = [
        f"SELECT NEW.namespace, '{owner}', 'tag', value, NEW.seq FROM json_each(NEW.document, '$.tags')\n"
        f"        UNION ALL\n        SELECT NEW.namespace, '{owner}', 'metadata.' || key,\n"
        f"            {SCALAR}, NEW.seq\n"
        f"        FROM {SCALARS}",
        *([evidence] if owner == "pattern" else []),
    ]
    add = f"INSERT OR IGNORE INTO facets ({COLUMNS})\n        " + separator.join(selects)
    remove = f"DELETE FROM facets WHERE owner_type = '{owner}' AND owner_seq = OLD.seq"
    fields = ("tags", "metadata", *(["evidence"] if owner == "pattern" else []))
    return (
        CreateTrigger(f"{table}_facets_insert", f"AFTER INSERT ON {table}", [add]),
        CreateTrigger(
            f"{table}_facets_update", f"AFTER UPDATE OF document ON {table}", [remove, add], when=changed(*fields)
        ),
    )


def readable(row: str) -> str:
    """SQL for a row's document; an empty one where it is no JSON, which the doctor will find."""
    return f"CASE WHEN json_valid({row}.document) THEN {row}.document ELSE '{{}}' END"


def upgrade() -> None:
    """Replace the triggers, and index the tags of the contexts."""
    batch.execute(
        statement
        for table, owner in OWNERS.items()
        for statement in (
            *(f"DROP TRIGGER {trigger.name}" for trigger in old_triggers(table, owner)),
            *triggers(table, owner),
            f"INSERT OR IGNORE INTO facets ({COLUMNS}) SELECT t.namespace, '{owner}', 'tag', value, t.seq"
            f" FROM {table} AS t, json_each({readable('t')}, '$.context.tags')",
        )
    )


def downgrade() -> None:
    """Bring the triggers back, and remove the facets of tags that are only in a context."""
    batch.execute(
        statement
        for table, owner in OWNERS.items()
        for statement in (
            *(f"DROP TRIGGER {trigger.name}" for trigger in triggers(table, owner)),
            *old_triggers(table, owner),
            f"DELETE FROM facets WHERE ({COLUMNS}) IN ("
            f"SELECT t.namespace, '{owner}', 'tag', value, t.seq"
            f" FROM {table} AS t, json_each({readable('t')}, '$.context.tags')"
            f" EXCEPT SELECT t.namespace, '{owner}', 'tag', value, t.seq"
            f" FROM {table} AS t, json_each({readable('t')}, '$.tags'))",
        )
    )
