"""The statements of items.

What a batch reads is one statement: a part for each operation, whose rows begin with the number of the operation and
their position in its result. `rows` and `keys` are JSON arrays; the first two elements of each entry are path and key.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate

from .rows import COLUMNS

LIVE = "(i.expires_at IS NULL OR i.expires_at > :now)"
"""SQL for whether an item has not expired. What has expired is never returned, whether it was deleted or not."""

_WAS_LIVE = "expires_at IS NULL OR expires_at > :now"  # RETURNING has no aliases

_ROW = ", ".join(f"i.{name}" for name in COLUMNS)
_NO_ITEM = ", ".join(["NULL"] * len(COLUMNS))
_NAMED = 'i.namespace = :namespace AND i.path = {0}.value ->> 0 AND i."key" = {0}.value ->> 1'
_STORED_VERSION = f"(SELECT i.version FROM items AS i WHERE {_NAMED.format('g')} AND {LIVE})"
_HAS_EXPIRED = "items.expires_at <= excluded.updated_at"

# An entry has [path, key, ttl, expected version, document]. Each has to change a row: a version that is not stored any
# more leaves its row out, and the count of rows then rolls the batch back. A put of what has expired is a first one.
_PUT = f"""
INSERT INTO items (namespace, path, "key", version, document, created_at, updated_at, expires_at, ttl)
SELECT :namespace, g.value ->> 0, g.value ->> 1, 1, g.value -> 4, :now, :now, :now + (g.value ->> 2), g.value ->> 2
FROM json_each(:rows) AS g
WHERE g.value ->> 3 IS NULL OR g.value ->> 3 = coalesce({_STORED_VERSION}, 0)
ON CONFLICT (namespace, path, "key") DO UPDATE SET document = excluded.document,
    version = CASE WHEN {_HAS_EXPIRED} THEN 1 ELSE items.version + 1 END,
    created_at = CASE WHEN {_HAS_EXPIRED} THEN excluded.created_at ELSE items.created_at END,
    updated_at = excluded.updated_at, expires_at = excluded.expires_at, ttl = excluded.ttl
"""
PUT = SqlTemplate(_PUT)
PUT_ONE = SqlTemplate(f"{_PUT}RETURNING version, created_at")

# Read again if the acknowledgement of a put was lost.
TIMES = SqlTemplate("""
SELECT version, created_at FROM items WHERE namespace = :namespace AND path = :path AND "key" = :key
""")

VERSIONS = SqlTemplate(f"""
SELECT g."key", {_STORED_VERSION} FROM json_each(:rows) AS g
WHERE g.value ->> 3 <> coalesce({_STORED_VERSION}, 0) ORDER BY g."key" LIMIT 1
""")
"""The first entry whose version is not the stored one, and that."""

_SIZE = "(SELECT length(vector) FROM item_vectors WHERE namespace = :namespace AND model = :model LIMIT 1)"

# An entry has [path, key, field]; the vectors are one value, which is cut by index. All vectors of a namespace by one
# model have one size, so a look at any of them is enough.
_ADD_VECTORS = f"""
INSERT INTO item_vectors (namespace, item_seq, model, field, vector)
SELECT :namespace, i.seq, :model, g.value ->> 2, substr(:vectors, g."key" * :size + 1, :size)
FROM json_each(:rows) AS g CROSS JOIN items AS i ON {_NAMED.format("g")}
WHERE coalesce({_SIZE}, :size) = :size
"""
ADD_VECTORS = SqlTemplate(_ADD_VECTORS)
IMPORT_VECTORS = SqlTemplate(f"{_ADD_VECTORS}ON CONFLICT (item_seq, model, field) DO NOTHING")
# An entry has [path, key, field, model].
KNOWN_VECTORS = SqlTemplate(f"""
SELECT g."key" FROM json_each(:rows) AS g CROSS JOIN items AS i ON {_NAMED.format("g")}
WHERE EXISTS (SELECT 1 FROM item_vectors AS v
    WHERE v.item_seq = i.seq AND v.model = g.value ->> 3 AND v.field = g.value ->> 2)
""")
SIZE = SqlTemplate(f"SELECT {_SIZE}")
ABSENT = SqlTemplate(f"""
SELECT g."key" FROM json_each(:rows) AS g WHERE NOT EXISTS (SELECT 1 FROM items AS i WHERE {_NAMED.format("g")}) LIMIT 1
""")

# An entry has [path, key, ttl, version, created_at, updated_at, expires_at, document].
IMPORT = SqlTemplate("""
INSERT INTO items (namespace, path, "key", version, document, created_at, updated_at, expires_at, ttl)
SELECT :namespace, g.value ->> 0, g.value ->> 1, g.value ->> 3, g.value -> 7, g.value ->> 4, g.value ->> 5,
    g.value ->> 6, g.value ->> 2
FROM json_each(:rows) AS g WHERE true
ON CONFLICT (namespace, path, "key") DO NOTHING
""")
KNOWN = SqlTemplate(f"""
SELECT g."key" FROM json_each(:rows) AS g WHERE EXISTS (SELECT 1 FROM items AS i WHERE {_NAMED.format("g")})
""")

GIVEN_KEYS = '(i.path, i."key") IN (SELECT g.value ->> 0, g.value ->> 1 FROM json_each(:keys) AS g)'
DELETE = SqlTemplate(f"DELETE FROM items AS i WHERE i.namespace = :namespace AND {GIVEN_KEYS}")
# An item that has expired is deleted too, and not counted.
DELETE_COUNTED = SqlTemplate(
    f"DELETE FROM items AS i WHERE i.namespace = :namespace AND {GIVEN_KEYS} RETURNING {_WAS_LIVE}"
)
CLEAR = SqlTemplate(f"""
DELETE FROM items AS i WHERE i.namespace = :namespace AND i.path >= :lower AND i.path < :upper RETURNING {_WAS_LIVE}
""")
DELETE_EXPIRED = SqlTemplate("""
DELETE FROM items WHERE seq IN (
    SELECT seq FROM items WHERE namespace = :namespace AND expires_at <= :now ORDER BY expires_at LIMIT :limit)
RETURNING 1
""")

_CANDIDATES = f"""SELECT i.seq, i.path, i."key" FROM items AS i
    WHERE i.namespace = :namespace AND i.path < :upper AND (i.path, i."key") >= (:path, :key) AND {LIVE}{{conditions}}
    ORDER BY i.path, i."key" LIMIT :limit"""


@lru_cache(maxsize=64)
def page(conditions: Sequence[str]) -> SqlTemplate:
    """Return the statement for a page of items from (:path, :key) on. An item that does not fit has only these."""
    candidates = _CANDIDATES.format(conditions="".join(f" AND {one}" for one in conditions))
    size = "octet_length(t.document) + 100"
    return SqlTemplate(f"""
{cut_by_bytes(candidates, "items", size, 'path, "key"')}
SELECT {_ROW}, page.path, page."key" FROM page LEFT JOIN items AS i ON page.fits AND i.seq = page.seq
ORDER BY page.path, page."key"
""")


VECTOR_PAGE = SqlTemplate("""
SELECT v.seq, i.path, i."key", v.model, v.field, v.vector
FROM item_vectors AS v CROSS JOIN items AS i ON i.seq = v.item_seq
WHERE v.namespace = :namespace AND v.seq > :after AND (i.expires_at IS NULL OR i.expires_at > :now)
ORDER BY v.seq LIMIT :limit
""")


@lru_cache(maxsize=64)
def count(conditions: Sequence[str]) -> SqlTemplate:
    """Return the statement that counts the items below a path."""
    return SqlTemplate(f"SELECT count(*) FROM items AS i WHERE {_below('', conditions)}")


@lru_cache(maxsize=256)
def template(text: str) -> SqlTemplate:
    """Return a statement that was composed of parts."""
    return SqlTemplate(text)


# -- the parts of a read, by the number of the operation --------------------------------------------------------------

GET = f"""SELECT g.value ->> 2, 0, {_ROW}, NULL FROM json_each(:keys) AS g CROSS JOIN items AS i ON {_NAMED.format("g")}
WHERE {LIVE}"""
"""All items that a batch gets by their keys: an entry has [path, key, number of the operation]."""

REFRESH = f"""UPDATE items AS i SET expires_at = :now + i.ttl WHERE i.namespace = :namespace AND i.ttl IS NOT NULL
AND {LIVE} AND """
"""Begins a statement by which the time to live of items begins again."""


def _below(number: object, conditions: Sequence[str]) -> str:
    own = "".join(f" AND {one}" for one in conditions)
    return f"i.namespace = :namespace AND i.path >= :lower{number} AND i.path < :upper{number} AND {LIVE}{own}"


def listed(number: int, conditions: Sequence[str], *, newest_first: bool) -> str:
    """Return the SELECT of the `seq` of a page of items, with what they are sorted by."""
    order = "i.updated_at DESC, i.seq DESC" if newest_first else 'i.path, i."key"'
    return f"""SELECT i.seq, i.path, i."key", i.updated_at, NULL AS distance FROM items AS i
    WHERE {_below(number, conditions)} ORDER BY {order} LIMIT :limit{number} OFFSET :offset{number}"""


def nearest(number: int, conditions: Sequence[str]) -> str:
    """Return the SELECT of the `seq` of the items with the nearest vectors, by the nearest of each."""
    # A vector of another size cannot be compared: the engine would refuse the whole statement.
    # Materialized: else each mention of the distance would compute it again, which takes three times as long.
    # In the order of the rows: vectors are then read from one page after the other.
    return f"""WITH below AS MATERIALIZED (
        SELECT i.seq FROM items AS i WHERE {_below(number, conditions)} ORDER BY i.seq),
    compared AS MATERIALIZED (SELECT seq, (
            SELECT min(vector_distance_cos(v.vector, :vector{number})) FROM item_vectors AS v
            WHERE v.item_seq = below.seq AND v.model = :model{number} AND length(v.vector) = :size{number}) AS distance
        FROM below)
    SELECT seq, distance FROM compared
    WHERE distance IS NOT NULL ORDER BY distance, seq LIMIT :limit{number} OFFSET :offset{number}"""


def items_of(number: int, rows: str, order: str) -> str:
    """Return the part of a read that has the items of a page.

    Args:
        number: The number of the operation.
        rows: The SELECT of the page.
        order: How it is sorted.
    """
    # The documents are joined last: a sort would copy those of all candidates.
    return f"""SELECT {number}, p.position, {_ROW}, p.distance
FROM (SELECT seq, distance, row_number() OVER (ORDER BY {order}) AS position FROM ({rows})) AS p
CROSS JOIN items AS i ON i.seq = p.seq"""


def size_of(number: int) -> str:
    """Return the part of a read that has the size of the vectors of a model, at position 0."""
    return f"""SELECT {number}, 0, {_NO_ITEM}, (
    SELECT length(vector) FROM item_vectors WHERE namespace = :namespace AND model = :model{number} LIMIT 1)"""


def paths(number: int, *, is_cut: bool, patterns: Sequence[str]) -> str:
    """Return the part of a read that has distinct paths.

    Args:
        number: The number of the operation.
        is_cut: Whether only the first labels of longer paths are shown.
        patterns: Names of values, JSON arrays of labels that a path begins ("start") or ends ("end") with; null is any.
    """
    # From each path the next one is looked up in the index: as many steps as there are paths, not items.
    next_path = f"""SELECT i.path FROM items AS i WHERE i.namespace = :namespace AND i.path < :upper{number}
            AND i.path {{}} ORDER BY i.path LIMIT 1"""
    shown = f"substr(path, 1, {_END_OF_LABEL.format(number=number)})" if is_cut else "path"
    conditions = "".join(f" AND {_MATCHES[one].format(number=number)}" for one in patterns)
    return f"""SELECT {number}, row_number() OVER (ORDER BY path), path, {", ".join(["NULL"] * len(COLUMNS))}
FROM (WITH RECURSIVE listed (path) AS (
        SELECT ({next_path.format(f">= :lower{number}")})
        UNION ALL SELECT ({next_path.format("> listed.path")}) FROM listed WHERE path IS NOT NULL)
    SELECT DISTINCT {shown} AS path FROM listed WHERE path IS NOT NULL AND EXISTS (
        SELECT 1 FROM items AS i WHERE i.namespace = :namespace AND i.path = listed.path AND {LIVE}){conditions}
    ORDER BY path LIMIT :limit{number} OFFSET :offset{number})"""


# Labels are split by a recursion over the path of the row at hand.
_END_OF_LABEL = """(WITH RECURSIVE label (number, ends_at) AS (
        SELECT 0, 0 UNION ALL SELECT number + 1, ends_at + instr(substr(listed.path, ends_at + 1), char(1))
        FROM label WHERE number < :depth{number} AND ends_at < length(listed.path)) SELECT max(ends_at) FROM label)"""
_LABELS = """WITH RECURSIVE label (number, "text", rest) AS (
        SELECT 0, NULL, listed.path UNION ALL
        SELECT number + 1, substr(rest, 1, instr(rest, char(1)) - 1), substr(rest, instr(rest, char(1)) + 1)
        FROM label WHERE rest <> '')"""
_DEPTH = "length(listed.path) - length(replace(listed.path, char(1), ''))"
_MATCHES = {
    name: f"""({_LABELS} SELECT count(*) FROM json_each(:{name}{{number}}) AS w CROSS JOIN label
        ON label.number > 0 AND label.number = w."key" + 1 + {shift} WHERE w.value IS NULL OR label."text" = w.value
        ) = json_array_length(:{name}{{number}})"""
    for name, shift in (("start", "0"), ("end", f"{_DEPTH} - json_array_length(:end{{number}})"))
}
