"""Damages, each done to a file that no process has open. As a script it damages a file in one way, or in all.

python -m tests.doctor.damages FILE [NAME ...]
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from memory_storage import dbapi
from memory_storage.schema.vector_tables import VectorSpace

MODEL = "model"
TABLE = VectorSpace(MODEL).table
SECRET = "swordfish-canary"

Damage = Callable[[Path], None]


@contextmanager
def _opened(path: Path) -> Iterator[dbapi.Connection]:
    connection = dbapi.connect(str(path), busy_timeout=1)
    connection.execute("PRAGMA foreign_keys = OFF")
    yield connection
    connection.commit()
    connection.close()


def sql(*statements: str) -> Damage:
    """Run them as another program would."""

    def damage(path: Path) -> None:
        with _opened(path) as connection:
            for statement in statements:
                connection.execute(statement)

    return damage


def without_triggers(*statements: str) -> Damage:
    """Run them as a program would that goes past the triggers, or as a failing disk."""

    def damage(path: Path) -> None:
        with _opened(path) as connection:
            triggers = connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'trigger'").fetchall()
            for name, _ in triggers:
                connection.execute(f"DROP TRIGGER {name}")
            for statement in (*statements, *(str(text) for _, text in triggers)):
                connection.execute(statement)

    return damage


def vacuum(path: Path) -> None:
    """Do what the engine does badly."""
    with _opened(path) as connection:
        connection.autocommit = True
        connection.execute("VACUUM")


def stale_index(path: Path) -> None:
    """Change rows while their index is out of sight."""
    name = "ix_steps_tool"
    with _opened(path) as connection:
        connection.execute("UPDATE steps SET status = 'timeout' WHERE seq % 2 = 0")
        entry = connection.execute("SELECT * FROM sqlite_master WHERE name = ?", (name,)).fetchone()
        assert entry is not None
    with _opened(path) as connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("DELETE FROM sqlite_master WHERE name = ?", (name,))
    with _opened(path) as connection:
        connection.execute("UPDATE steps SET status = 'ok' WHERE seq % 2 = 0")
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("INSERT INTO sqlite_master VALUES (?, ?, ?, ?, ?)", entry)


DAMAGES: dict[str, tuple[str, Damage]] = {
    "the words of episodes are gone": (
        "indexes.text",
        sql("INSERT INTO episode_words (episode_words) VALUES ('delete-all')"),
    ),
    "the pages of a full-text index are noise": (
        "indexes.text",
        sql("UPDATE episode_words_data SET block = x'ffffffffffff' WHERE id > 9"),
    ),
    "a full-text index is gone": ("schema.missing", sql("DROP TABLE pattern_words")),
    "a playbook has no words": (
        "words.patterns",
        sql("UPDATE patterns SET words = NULL WHERE kind = 'playbook'"),
    ),
    "a kept receipt has no items": ("undecodable.recalls", sql("UPDATE recalls SET document = '[]'")),
    "an item has no JSON": ("undecodable.items", sql("UPDATE items SET document = '{' WHERE \"key\" = 'one'")),
    "a record has no JSON": ("undecodable.logs", sql("UPDATE logs SET document = x'ff' WHERE number = 1")),
    "a relationship has no metadata": (
        "undecodable.relationships",
        sql(
            "UPDATE relationships SET document = '{}' WHERE seq = 1",
            f"UPDATE relationships SET from_id = '{SECRET}' WHERE seq = 2",
            "UPDATE relationships SET weight = 'heavy' WHERE seq = 3",
        ),
    ),
    "a checkpoint has no JSON": (
        "undecodable.checkpoints",
        sql("UPDATE checkpoints SET document = '{' WHERE seq = 1", "UPDATE checkpoints SET label = 1.5 WHERE seq = 2"),
    ),
    "the episodes of relationships and checkpoints are gone": (
        "orphans.relationships",
        without_triggers("DELETE FROM episodes WHERE seq IN (12, 15)"),
    ),
    "relationships form two cycles": (
        "relationships.cycle",
        sql(
            *(
                "INSERT INTO relationships (namespace, id, from_id, to_id, kind, created_at, document)"
                f" SELECT namespace, '0000000{seq}' || substr(id, 9), to_id, from_id, kind, 0, document"
                f" FROM relationships WHERE seq = {seq}"
                for seq in (4, 7)
            ),
        ),
    ),
    "a vector of an item has no item": (
        "orphans.item_vectors",
        sql("UPDATE item_vectors SET item_seq = 999 WHERE seq = 1"),
    ),
    "positions are elsewhere, and one is missing": (
        "indexes.positions",
        sql(
            "UPDATE spatiotemporal_rtree SET min_latitude = -80, max_latitude = -80 WHERE seq % 2 = 0",
            "DELETE FROM spatiotemporal_rtree WHERE seq % 3 = 0",
        ),
    ),
    "the pages of the R*Tree are noise": (
        "indexes.positions",
        sql("UPDATE spatiotemporal_rtree_node SET data = zeroblob(length(data))"),
    ),
    "intervals are elsewhere, and one is missing": (
        "indexes.positions",
        sql(
            "UPDATE spatiotemporal_spans SET max_at = max_at + 1 WHERE seq % 2 = 0",
            "DELETE FROM spatiotemporal_spans WHERE seq % 3 = 0",
        ),
    ),
    "points on the sphere are elsewhere": ("places.point", sql("UPDATE spatiotemporal_index SET x = 0.5, z = NULL")),
    "places lead to another episode": (
        "spatiotemporal_index.item",
        sql("UPDATE spatiotemporal_index SET episode_seq = 1"),
    ),
    "the ends of places are wrong": (
        "columns.spatiotemporal_index",
        sql("UPDATE spatiotemporal_index SET until_at = 5"),
    ),
    "evidence is not known by its pattern": ("indexes.facets", sql("DELETE FROM facets WHERE name = 'evidence'")),
    "tags are missing, and one has no owner": (
        "indexes.facets",
        sql(
            "DELETE FROM facets WHERE owner_seq % 2 = 0",
            "INSERT INTO facets VALUES ('default', 'episode', 'tag', 'orphan', 0, 999999)",
        ),
    ),
    "counts of sequences are wrong": (
        "learning.counts",
        sql(
            "UPDATE sequences SET episodes = episodes + 1 WHERE number % 2", "DELETE FROM learned WHERE episode_seq = 2"
        ),
    ),
    "an episode is counted that is gone": (
        "learning.counts",
        sql("UPDATE learned SET episode_seq = 99999 WHERE episode_seq = 3"),
    ),
    "the counters of a model are wrong": ("counters", sql("UPDATE vector_models SET vectors = 7, indexed = 70000")),
    "a vector index has lost its nodes": ("vectors.index", sql(f"DELETE FROM {TABLE}_ann_shadow WHERE index_key > 5")),
    "the shadow of a vector index is gone": ("vectors.index", sql(f"DROP TABLE {TABLE}_ann_shadow")),
    "vacuumed": ("vectors.metadata", vacuum),
    "the engine has notes about an index that is gone": (
        "vectors.metadata",
        sql("INSERT INTO libsql_vector_meta_shadow SELECT 'gone', metadata FROM libsql_vector_meta_shadow LIMIT 1"),
    ),
    "vectors are not what their digest says": (
        "vectors.digest",
        without_triggers(
            f"UPDATE {TABLE} SET digest = zeroblob(15) || CAST(char(65 + seq % 26) AS BLOB) WHERE seq < 9"
        ),
    ),
    "embeddings lead to other items": ("embeddings.item", sql("UPDATE embeddings SET item_seq = 1 + item_seq")),
    "embeddings lead to no vector": (
        "orphans.embeddings",
        without_triggers("UPDATE embeddings SET vector_seq = 77777 WHERE seq % 10 = 0"),
    ),
    "the owners of embeddings and places are gone": (
        "orphans.spatiotemporal_index",
        without_triggers(
            "DELETE FROM patterns", "UPDATE spatiotemporal_index SET owner_type = 'unknown' WHERE seq = 1"
        ),
    ),
    "the episode of some steps is gone": ("orphans.steps", without_triggers("DELETE FROM episodes WHERE seq = 3")),
    "an episode is of a newer version": (
        "undecodable.episodes",
        sql(f"UPDATE episodes SET document = json_set(document, '$.unheard_of', '{SECRET}') WHERE seq IN (2, 5)"),
    ),
    "a summary is none": (
        "undecodable.episodes",
        sql(
            "UPDATE episodes SET document = json_set(document, '$.summary', json('{\"text\": 5}')) WHERE seq = 7",
            f"UPDATE episodes SET document = json_set(document, '$.summary', '{SECRET}') WHERE seq = 10",
        ),
    ),
    "documents are no JSON": (
        "undecodable.patterns",
        without_triggers(
            f"UPDATE episodes SET document = '{{\"{SECRET}' WHERE seq = 4",
            "UPDATE patterns SET document = CAST(x'7b22ff' AS TEXT) WHERE seq = 1",
            "UPDATE steps SET document = CAST(x'ffff' AS TEXT) WHERE seq = 9",
            "UPDATE spatiotemporal_index SET document = '' WHERE seq = 2",
        ),
    ),
    "a moment is no number": (
        "undecodable.episodes",
        sql(
            f"UPDATE episodes SET created_at = '{SECRET}' WHERE seq = 6",
            "UPDATE episodes SET updated_at = 9e18 WHERE seq = 8",
        ),
    ),
    "columns are not what the documents say": (
        "columns.episodes",
        sql(
            f"UPDATE episodes SET task_type = '{SECRET}', reward = 3.5, outcome = NULL, started_at = 5 WHERE seq % 2",
            "UPDATE steps SET tool = 'another', latency_ms = -1 WHERE seq % 3 = 0",
            "UPDATE patterns SET success_rate = 'high', domain = 'x'",
            "UPDATE spatiotemporal_index SET latitude = 12, place_name = 'x' WHERE seq = 1",
        ),
    ),
    "an index has not the rows of its table": ("file.index", stale_index),
    "triggers are gone, and a view is another": (
        "schema.missing",
        sql(
            "DROP TRIGGER episodes_facets_update",
            f"DROP TRIGGER {TABLE}_free",
            "DROP INDEX ix_episodes_domain",
            "DROP VIEW episode_head_text",
            "CREATE VIEW episode_head_text AS SELECT seq, '' AS description, '' AS outcome, '' AS reflection,"
            " '' AS tags FROM episodes",
        ),
    ),
}


def main(path: str, *names: str) -> None:
    """Damage a file."""
    for name in names or DAMAGES:
        DAMAGES[name][1](Path(path))


if __name__ == "__main__":
    main(*sys.argv[1:])
