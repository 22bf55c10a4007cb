"""The statements of records, which are the items at one path. Conditions are those of a filter, on items `i`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from memory_storage.repositories.items.rows import COLUMNS
from memory_storage.repositories.items.sql import LIVE
from memory_storage.sql.document_filters import readable
from memory_storage.sql.statement import SqlTemplate

_ROW = ", ".join(f"i.{name}" for name in COLUMNS)
_DOCUMENT = readable("i.document")
_CREATED, _SCOPE = (f"json_extract({_DOCUMENT}, '$.{name}')" for name in ("created", "scope_path"))
_FURTHER = "/* conditions */"
_IS_RECORD = f"i.namespace = :namespace AND i.path = :path AND {LIVE}"

# :ids is a JSON array. An item without a vector has one row too.
FIND = SqlTemplate(f"""
SELECT v.vector, {_ROW} FROM json_each(:ids) AS g
CROSS JOIN items AS i ON i."key" = g.value AND {_IS_RECORD}
LEFT JOIN item_vectors AS v ON v.item_seq = i.seq AND v.model = :model AND v.field = :field
ORDER BY g."key"
""")

DELETE = f"DELETE FROM items AS i WHERE {_IS_RECORD}{_FURTHER} RETURNING 1"
HAS_ID = 'i."key" IN (SELECT value FROM json_each(:ids))'

# The documents are joined last: a sort would copy those of all records.
NEWEST = f"""
SELECT {_ROW} FROM (
    SELECT i.seq, {_CREATED} AS created FROM items AS i WHERE {_IS_RECORD}{_FURTHER}
    ORDER BY 2 DESC, 1 DESC LIMIT :limit OFFSET :offset) AS p
CROSS JOIN items AS i ON i.seq = p.seq ORDER BY p.created DESC, p.seq DESC
"""

# A scope is cut after the first label below the parent: each child has a row, and so has the parent itself.
CHILDREN = f"""
SELECT substr(scope, 1, :length + instr(substr(scope, :length + 1), '/')), count(*), min(created), max(created)
FROM (SELECT {_SCOPE} AS scope, {_CREATED} AS created FROM items AS i WHERE {_IS_RECORD}{_FURTHER})
WHERE scope IS NOT NULL GROUP BY 1 ORDER BY 1
"""

CATEGORIES = f"""
SELECT c.value, count(DISTINCT i.seq)
FROM items AS i CROSS JOIN json_each({_DOCUMENT}, '$.categories') AS c WHERE {_IS_RECORD}{_FURTHER}
GROUP BY 1 ORDER BY 1
"""


@lru_cache(maxsize=256)
def composed(text: str, conditions: Sequence[str]) -> SqlTemplate:
    """Return one of the statements above with further conditions.

    Args:
        text: The statement.
        conditions: The conditions, a tuple.
    """
    return SqlTemplate(text.replace(_FURTHER, "".join(f" AND {one}" for one in conditions)))
