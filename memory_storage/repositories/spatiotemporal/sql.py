"""The statements that write places, and that read one or those of one owner. `entries` is JSON: [document, x, y, z]."""

from __future__ import annotations

from memory_storage.schema.rtree import FOREVER
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, columns, micros, upsert_assignments, values

TABLES = {"episode": "episodes", "step": "steps"}
# The episode of a step is stored with its place, so that queries for episodes need no join with steps.
_EPISODE_SEQ = {
    "episode": "owner.seq",
    "step": "(SELECT seq FROM episodes WHERE namespace = owner.namespace AND id = owner.episode_id)",
}
_DOCUMENT = "(given.value -> '$[0]')"
_STARTS_AT = micros(f"({_DOCUMENT} ->> '$.starts_at')")
_ENDS_AT = micros(f"({_DOCUMENT} ->> '$.ends_at')")


def _columns(owner_type: str) -> dict[str, str]:
    return {
        "namespace": "owner.namespace",
        "id": f"{_DOCUMENT} ->> '$.id'",
        "owner_type": f"'{owner_type}'",
        "owner_id": "owner.id",
        "episode_seq": _EPISODE_SEQ[owner_type],
        "latitude": f"{_DOCUMENT} ->> '$.latitude'",
        "longitude": f"{_DOCUMENT} ->> '$.longitude'",
        "x": "given.value ->> '$[1]'",
        "y": "given.value ->> '$[2]'",
        "z": "given.value ->> '$[3]'",
        "place_name": f"{_DOCUMENT} ->> '$.place_name'",
        "starts_at": _STARTS_AT,
        "ends_at": _ENDS_AT,
        "until_at": f"iif({_DOCUMENT} ->> '$.ongoing', {FOREVER}, coalesce({_ENDS_AT}, {_STARTS_AT} + 1))",
        "created_at": ":now",
        "document": f"json_remove({_DOCUMENT}, '$.created_at')",
    }


# The join with the owner's table makes a missing owner visible: the row count is too small.
def _insert(owner_type: str, expressions: dict[str, str], conflict: str) -> SqlTemplate:
    return SqlTemplate(f"""
INSERT INTO spatiotemporal_index ({columns(expressions)})
SELECT {values(expressions)}
FROM json_each(:entries) AS given CROSS JOIN {TABLES[owner_type]} AS owner
    ON owner.namespace = :namespace AND owner.id = {_DOCUMENT} ->> '$.owner_id'
WHERE true
ON CONFLICT (namespace, id) DO {conflict}
""")


def _put(owner_type: str) -> SqlTemplate:
    expressions = _columns(owner_type)
    unchanged = ("namespace", "id", "owner_type", "owner_id", "episode_seq", "created_at")
    return _insert(
        owner_type,
        expressions,
        f"UPDATE SET {upsert_assignments(expressions, *unchanged)}"
        " WHERE spatiotemporal_index.owner_type = excluded.owner_type"
        " AND spatiotemporal_index.owner_id = excluded.owner_id",
    )


def _import(owner_type: str) -> SqlTemplate:
    created_at = "coalesce(" + micros(f"({_DOCUMENT} ->> '$.created_at')") + ", :now)"
    return _insert(owner_type, {**_columns(owner_type), "created_at": created_at}, "NOTHING")


PUT = {owner_type: _put(owner_type) for owner_type in TABLES}
IMPORT = {owner_type: _import(owner_type) for owner_type in TABLES}
# Read with the write, in the same round trip: the only value that the database has set.
CREATED = SqlTemplate("""
SELECT id, created_at FROM spatiotemporal_index
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
# After a wrong row count: which ids belong to another owner.
OWNERS_BY_ID = SqlTemplate("""
SELECT id, owner_type, owner_id FROM spatiotemporal_index
WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
# After a wrong row count: which owners do not exist.
OWNERS = SqlTemplate("""
SELECT 'episode', id FROM episodes WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
UNION ALL SELECT 'step', id FROM steps WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")
ROW = "p.id, p.document, p.created_at"
GET = SqlTemplate(f"SELECT {ROW} FROM spatiotemporal_index AS p WHERE namespace = :namespace AND id = :id")
# NULL sorts first: entries without a time come before all others.
OF_OWNER = SqlTemplate(f"""
SELECT {ROW} FROM spatiotemporal_index AS p
WHERE namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id ORDER BY starts_at, seq
""")
DELETE = SqlTemplate("DELETE FROM spatiotemporal_index WHERE namespace = :namespace AND id = :id RETURNING id")
COUNT = SqlTemplate("SELECT count(*) FROM spatiotemporal_index WHERE namespace = :namespace")
# A page is also limited by bytes: an entry that does not fit has no document.
_PAGE_CANDIDATES = """SELECT seq, id FROM spatiotemporal_index
    WHERE namespace = :namespace AND id > :after ORDER BY id LIMIT :limit"""
PAGE = SqlTemplate(f"""
{cut_by_bytes(_PAGE_CANDIDATES, "spatiotemporal_index", "octet_length(t.document)", "id")}
SELECT page.id, p.document, p.created_at FROM page LEFT JOIN spatiotemporal_index AS p
    ON page.fits AND p.seq = page.seq ORDER BY page.id
""")
