"""Places are found by region: an R*Tree that splits by place, one of intervals, and points on a sphere."""

from __future__ import annotations

import math
from typing import Any

from alembic import op

from memory_storage.dbapi import Batch, BatchStep
from memory_storage.schema import batch
from memory_storage.schema.ddl import CreateRTree, CreateTrigger

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

PLACE = "spatiotemporal_index"
PAGE = 2_000
FOREVER = 300_000_000_000_000_000

TABLE = f"""CREATE TABLE {PLACE} (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        episode_seq INTEGER NOT NULL,
        latitude FLOAT,
        longitude FLOAT,
        x FLOAT,
        y FLOAT,
        z FLOAT,
        place_name TEXT,
        starts_at INTEGER,
        ends_at INTEGER,
        until_at INTEGER,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )"""
OLD_TABLE = f"""CREATE TABLE {PLACE} (
        seq INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        id TEXT NOT NULL,
        owner_type TEXT NOT NULL,
        owner_id TEXT NOT NULL,
        latitude FLOAT,
        longitude FLOAT,
        place_name TEXT,
        starts_at INTEGER,
        ends_at INTEGER,
        created_at INTEGER NOT NULL,
        document TEXT NOT NULL,
        PRIMARY KEY (seq),
        UNIQUE (namespace, id)
    )"""
INDEXES = (
    f"CREATE INDEX ix_spatiotemporal_owner ON {PLACE} (namespace, owner_type, owner_id)",
    f"CREATE INDEX ix_spatiotemporal_place ON {PLACE} (namespace, place_name)",
    f"CREATE INDEX ix_spatiotemporal_starts ON {PLACE} (namespace, starts_at)",
)
EPISODE_INDEX = f"CREATE INDEX ix_spatiotemporal_episode ON {PLACE} (episode_seq, starts_at)"

KEPT = "seq, namespace, id, owner_type, owner_id, latitude, longitude, place_name, starts_at, ends_at, created_at"
EPISODE_SEQ = """CASE p.owner_type
    WHEN 'episode' THEN (SELECT seq FROM episodes WHERE namespace = p.namespace AND id = p.owner_id)
    ELSE (SELECT e.seq FROM steps AS s CROSS JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id
        WHERE s.namespace = p.namespace AND s.id = p.owner_id) END"""
MOVE = f"""INSERT INTO {PLACE} ({KEPT}, document, episode_seq, until_at)
SELECT {KEPT}, document, {EPISODE_SEQ}, coalesce(ends_at, starts_at + 1) FROM old_places AS p ORDER BY seq"""
# What still goes on has no end: the older schema would take it for a moment, and a column for that is not to be had.
MOVE_BACK = f"""INSERT INTO {PLACE} ({KEPT}, document)
SELECT {KEPT}, json_remove(document, '$.ongoing') FROM new_places ORDER BY seq"""


def key(namespace: str) -> str:
    """SQL for the number of a namespace."""
    letters = [f"coalesce(unicode(substr({namespace}, -{place}, 1)), 0)" for place in (1, 2, 3, 4)]
    return f"(({letters[0]} + 131 * {letters[1]} + 17161 * {letters[2]} + 2248091 * {letters[3]}) % 8388593)"


def position(row: str) -> str:
    """SQL for a row of the R*Tree of positions."""
    begins = f"coalesce({row}.starts_at, -{FOREVER}) * 1e-20 - 0.001"
    ends = f"coalesce({row}.until_at, {FOREVER}) * 1e-20 + 0.001"
    number = key(f"{row}.namespace")
    sides = f"{row}.latitude, {row}.latitude, {row}.longitude, {row}.longitude, {begins}, {ends}"
    return f"{row}.seq, {number} - 0.25, {number} + 0.25, {sides}"


def span(row: str) -> str:
    """SQL for a row of the R*Tree of intervals."""
    number = key(f"{row}.namespace")
    return f"{row}.seq, {number} - 0.25, {number} + 0.25, {row}.starts_at * 1e-20, {row}.until_at * 1e-20"


KEY = ("min_key", "max_key")
POSITIONS = ("min_latitude", "max_latitude", "min_longitude", "max_longitude")
TIMES = ("min_at", "max_at")
TREES = (
    CreateRTree("spatiotemporal_rtree", "seq", (*KEY, *POSITIONS, *TIMES)),
    CreateRTree("spatiotemporal_spans", "seq", (*KEY, *TIMES)),
)
FILL = (
    f"INSERT INTO spatiotemporal_rtree SELECT {position('p')} FROM {PLACE} AS p WHERE p.latitude IS NOT NULL",
    f"INSERT INTO spatiotemporal_spans SELECT {span('p')} FROM {PLACE} AS p WHERE p.until_at > p.starts_at + 1",
)
ADD = (
    f"INSERT INTO spatiotemporal_rtree SELECT {position('NEW')} WHERE NEW.latitude IS NOT NULL",
    f"INSERT INTO spatiotemporal_spans SELECT {span('NEW')} WHERE NEW.until_at > NEW.starts_at + 1",
)
REMOVE = (
    "DELETE FROM spatiotemporal_rtree WHERE seq = OLD.seq",
    "DELETE FROM spatiotemporal_spans WHERE seq = OLD.seq",
)
TRIGGERS = (
    CreateTrigger("spatiotemporal_insert", f"AFTER INSERT ON {PLACE}", ADD),
    CreateTrigger(
        "spatiotemporal_update",
        f"AFTER UPDATE OF namespace, latitude, longitude, starts_at, until_at ON {PLACE}",
        (*REMOVE, *ADD),
    ),
    CreateTrigger("spatiotemporal_delete", f"AFTER DELETE ON {PLACE}", REMOVE),
)

OLD_TREE = CreateRTree("spatiotemporal_rtree", "seq", (*POSITIONS, *TIMES))


def old_position(row: str) -> str:
    """SQL for a row of the R*Tree of the older schema."""
    return f"""{row}.seq, {row}.latitude, {row}.latitude, {row}.longitude, {row}.longitude,
            coalesce({row}.starts_at, -9.3e18), coalesce({row}.ends_at, {row}.starts_at, 9.3e18)"""


OLD_ADD = f"""INSERT INTO spatiotemporal_rtree
        SELECT {old_position("NEW")}
        WHERE NEW.latitude IS NOT NULL"""
OLD_FILL = f"""INSERT INTO spatiotemporal_rtree
        SELECT {old_position("p")}
        FROM {PLACE} AS p WHERE p.latitude IS NOT NULL"""
OLD_TRIGGERS = (
    CreateTrigger("spatiotemporal_insert", f"AFTER INSERT ON {PLACE}", [OLD_ADD]),
    CreateTrigger(
        "spatiotemporal_update",
        f"AFTER UPDATE OF latitude, longitude, starts_at, ends_at ON {PLACE}",
        [REMOVE[0], OLD_ADD],
    ),
    CreateTrigger("spatiotemporal_delete", f"AFTER DELETE ON {PLACE}", [REMOVE[0]]),
)


def upgrade() -> None:
    """Make the table anew with more columns, and the R*Trees."""
    refuse_offline_with_rows()
    batch.execute(
        (
            # Not renamed: the triggers that delete from it would go with it.
            f"CREATE TABLE old_places AS SELECT * FROM {PLACE}",
            "DROP TABLE spatiotemporal_rtree",
            f"DROP TABLE {PLACE}",
            TABLE,
            MOVE,
            "DROP TABLE old_places",
            *INDEXES,
            EPISODE_INDEX,
            *TREES,
            *FILL,
            *TRIGGERS,
        )
    )
    if not op.get_context().as_sql:
        _onto_the_sphere()


def downgrade() -> None:
    """Make the older table, with what it has columns for: what is ongoing becomes a moment."""
    batch.execute(
        (
            f"CREATE TABLE new_places AS SELECT * FROM {PLACE}",
            *(f"DROP TABLE {tree.name}" for tree in TREES),
            f"DROP TABLE {PLACE}",
            OLD_TABLE,
            MOVE_BACK,
            "DROP TABLE new_places",
            *INDEXES,
            OLD_TREE,
            OLD_FILL,
            *OLD_TRIGGERS,
        )
    )


def refuse_offline_with_rows() -> None:
    """SQL has no sine, so a script cannot compute the new columns: let it fail before it changes anything."""
    if op.get_context().as_sql:
        op.execute(f"SELECT json('upgrade with a connection: there are places to move') FROM {PLACE} LIMIT 1")


def _onto_the_sphere() -> None:
    last = -(2**63)
    page = f"SELECT seq, latitude, longitude FROM {PLACE} WHERE seq > ? AND latitude IS NOT NULL ORDER BY seq LIMIT ?"
    while rows := _rows(page, (last, PAGE)):
        last = rows[-1][0]
        change = f"UPDATE {PLACE} SET x = ?, y = ?, z = ? WHERE seq = ?"
        op.get_bind().exec_driver_sql(Batch([BatchStep(change, (*_on_sphere(*place), seq)) for seq, *place in rows]))


def _on_sphere(latitude: float, longitude: float) -> tuple[float, float, float]:
    up, around = math.radians(latitude), math.radians(longitude)
    return math.cos(up) * math.cos(around), math.cos(up) * math.sin(around), math.sin(up)


def _rows(sql: str, values: tuple[Any, ...]) -> list[Any]:
    return list(op.get_bind().exec_driver_sql(sql, values).all())
