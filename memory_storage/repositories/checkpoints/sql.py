"""The statements of checkpoints. The document of one is its state."""

from __future__ import annotations

from functools import lru_cache

from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, micros

ROW = "c.id, c.episode_id, c.step_number, c.label, c.created_at, c.document"
_BYTES = "octet_length(t.document) + 300"

# The number of the last step is read under the write lock. No row is inserted for a missing episode or step; which of
# them it is, EXISTS says afterwards.
ADD = SqlTemplate("""
INSERT INTO checkpoints (namespace, id, episode_id, step_number, label, created_at, document)
SELECT :namespace, :id, e.id, coalesce(:step_number, (
        SELECT max(step_number) FROM steps WHERE namespace = :namespace AND episode_id = :episode_id), 0),
    :label, :now, :document
FROM episodes AS e WHERE e.namespace = :namespace AND e.id = :episode_id
    AND (:step_number IS NULL OR :step_number = 0 OR EXISTS (
        SELECT 1 FROM steps
        WHERE namespace = :namespace AND episode_id = :episode_id AND step_number = :step_number))
RETURNING step_number
""")
STEP_NUMBER = SqlTemplate("SELECT step_number FROM checkpoints WHERE namespace = :namespace AND id = :id")
EPISODE = SqlTemplate("SELECT 1 FROM episodes WHERE namespace = :namespace AND id = :episode_id")

GET = SqlTemplate(f"SELECT {ROW} FROM checkpoints AS c WHERE c.namespace = :namespace AND c.id = :id")
LATEST = SqlTemplate(f"""
SELECT {ROW} FROM checkpoints AS c WHERE c.namespace = :namespace AND c.episode_id = :episode_id
ORDER BY c.created_at DESC, c.seq DESC LIMIT 1
""")
DELETE = SqlTemplate("DELETE FROM checkpoints WHERE namespace = :namespace AND id = :id RETURNING id")
COUNT = SqlTemplate("""
SELECT count(*) FROM checkpoints WHERE namespace = :namespace AND (:episode_id IS NULL OR episode_id = :episode_id)
""")

# `rows` is a JSON array of checkpoints. The join leaves out those of a missing episode, and the conflict those that are
# stored: the row count shows both. `->` keeps the digits of a number as they are written.
IMPORT = SqlTemplate(f"""
INSERT INTO checkpoints (namespace, id, episode_id, step_number, label, created_at, document)
SELECT :namespace, given.value ->> '$.id', e.id, given.value ->> '$.step_number', given.value ->> '$.label',
    coalesce({micros("(given.value ->> '$.created_at')")}, :now), given.value -> '$.state'
FROM json_each(:rows) AS given CROSS JOIN episodes AS e
    ON e.namespace = :namespace AND e.id = given.value ->> '$.episode_id'
WHERE true
ON CONFLICT (namespace, id) DO NOTHING
""")
# After a wrong row count: which of them are stored, and of which the episode is missing.
STATE = SqlTemplate("""
SELECT given."key",
    EXISTS (SELECT 1 FROM checkpoints WHERE namespace = :namespace AND id = given.value ->> 0),
    EXISTS (SELECT 1 FROM episodes WHERE namespace = :namespace AND id = given.value ->> 1)
FROM json_each(:ids) AS given
""")

_CANDIDATES = """SELECT seq, id FROM checkpoints
    WHERE namespace = :namespace AND id > :after ORDER BY id LIMIT :limit"""
PAGE = SqlTemplate(f"""
{cut_by_bytes(_CANDIDATES, "checkpoints", _BYTES, "id")}
SELECT page.id, {ROW} FROM page LEFT JOIN checkpoints AS c ON page.fits AND c.seq = page.seq ORDER BY page.id
""")


@lru_cache(maxsize=8)
def query(order: str, conditions: tuple[str, ...]) -> SqlTemplate:
    """Return the statement of a page of an episode's checkpoints: sort key, `seq` and columns.

    A page also ends by bytes: a checkpoint that does not fit has no ID.
    """
    where = " AND ".join(("namespace = :namespace", "episode_id = :episode_id", *conditions))
    candidates = f"SELECT seq, created_at FROM checkpoints WHERE {where} ORDER BY {order} LIMIT :limit"
    return SqlTemplate(f"""
{cut_by_bytes(candidates, "checkpoints", _BYTES, order)}
SELECT page.created_at, page.seq, {ROW} FROM page LEFT JOIN checkpoints AS c ON page.fits AND c.seq = page.seq
ORDER BY page.number
""")
