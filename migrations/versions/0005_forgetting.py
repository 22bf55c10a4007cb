"""What was forgotten, so that it does not come back; and the evidence of patterns as facets, to find it by."""

from __future__ import annotations

from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateTrigger

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

FORGOTTEN = (
    "CREATE TABLE forgotten (digest BLOB NOT NULL, episode_seq INTEGER, PRIMARY KEY (digest)) WITHOUT ROWID",
    "CREATE INDEX ix_forgotten_unfinished ON forgotten (episode_seq) WHERE episode_seq IS NOT NULL",
)
# A row's number may be another's later.
FORGET = CreateTrigger(
    "episodes_forgotten_delete",
    "AFTER DELETE ON episodes",
    ["UPDATE forgotten SET episode_seq = NULL WHERE episode_seq = OLD.seq"],
)

EVIDENCE = """SELECT NEW.namespace, 'pattern', 'evidence', value, NEW.seq FROM json_each(NEW.document, '$.evidence')"""
TAGS_AND_METADATA = """SELECT NEW.namespace, 'pattern', 'tag', value, NEW.seq FROM json_each(NEW.document, '$.tags')
        UNION ALL
        SELECT NEW.namespace, 'pattern', 'metadata.' || key,
            substr(CASE WHEN type IN ('true', 'false', 'null') THEN type ELSE json_quote(value) END, 1, 256), NEW.seq
        FROM json_each(NEW.document, '$.metadata') WHERE type NOT IN ('object', 'array')"""
COLUMNS = "namespace, owner_type, name, value, owner_seq"
REMOVE = "DELETE FROM facets WHERE owner_type = 'pattern' AND owner_seq = OLD.seq"


def pattern_triggers(*evidence: str) -> tuple[CreateTrigger, ...]:
    """The triggers that add the facets of a pattern."""
    add = f"INSERT OR IGNORE INTO facets ({COLUMNS})\n        " + "\n        UNION ALL ".join(
        (TAGS_AND_METADATA, *(EVIDENCE for _ in evidence))
    )
    changed = " OR ".join(
        f"OLD.document -> '$.{name}' IS NOT NEW.document -> '$.{name}'" for name in ("tags", "metadata", *evidence)
    )
    return (
        CreateTrigger("patterns_facets_insert", "AFTER INSERT ON patterns", [add]),
        CreateTrigger("patterns_facets_update", "AFTER UPDATE OF document ON patterns", [REMOVE, add], when=changed),
    )


def upgrade() -> None:
    """Create the table, and index the evidence."""
    triggers = pattern_triggers("evidence")
    batch.execute(
        (
            *FORGOTTEN,
            FORGET,
            *(f"DROP TRIGGER {trigger.name}" for trigger in triggers),
            *triggers,
            f"INSERT OR IGNORE INTO facets ({COLUMNS}) SELECT p.namespace, 'pattern', 'evidence', value, p.seq"
            " FROM patterns AS p, json_each(p.document, '$.evidence')",
        )
    )


def downgrade() -> None:
    """Drop it all. Digests are lost: what was forgotten can come back by an import."""
    triggers = pattern_triggers()
    batch.execute(
        (
            "DROP TRIGGER episodes_forgotten_delete",
            "DROP TABLE forgotten",
            *(f"DROP TRIGGER {trigger.name}" for trigger in triggers),
            *triggers,
            "DELETE FROM facets WHERE owner_type = 'pattern' AND name = 'evidence'",
        )
    )
