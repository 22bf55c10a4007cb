"""The statements of the step repository, and the one that appends a step to an episode."""

from __future__ import annotations

from memory_storage.sql.episode_rows import STEP_COLUMNS, STEP_ROW
from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate, bytes_of_step

_NAMES = ", ".join(STEP_COLUMNS)
_VALUES = ", ".join("next.number" if name == "step_number" else f":{name}" for name in STEP_COLUMNS)

# The number is read from the index and assigned under the write lock: it costs the same for every step. Constraints
# refuse an existing id and a missing episode: looking for both first costs a third more.
APPEND = SqlTemplate(f"""
INSERT INTO steps ({_NAMES})
SELECT {_VALUES}
FROM (SELECT coalesce(max(step_number), 0) + 1 AS number FROM steps
    WHERE namespace = :namespace AND episode_id = :episode_id) AS next
WHERE next.number <= :limit
RETURNING step_number
""")

# After a refused append: whether the id is taken, and by the same step.
COMPARED = [name for name in STEP_COLUMNS if name not in {"namespace", "id", "step_number", "words"}]
STORED_STEP = SqlTemplate(f"""
SELECT step_number, {" AND ".join(f"{name} IS :{name}" for name in COMPARED)}
FROM steps WHERE namespace = :namespace AND id = :id
""")

# Read again if the acknowledgement of an append was lost.
STEP_NUMBER = SqlTemplate("SELECT step_number FROM steps WHERE namespace = :namespace AND id = :id")

_ROW = ", ".join(STEP_ROW)

GET = SqlTemplate(f"SELECT {_ROW} FROM steps WHERE namespace = :namespace AND id = :id")

GET_MANY = SqlTemplate(f"""
SELECT {_ROW} FROM steps WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
""")

RANGE = SqlTemplate(f"""
SELECT {_ROW} FROM steps
WHERE namespace = :namespace AND episode_id = :episode_id AND step_number BETWEEN :first AND :last
ORDER BY step_number LIMIT :limit
""")

# Like RANGE from :first on, but a page is also limited by bytes: a step that does not fit has only a number.
_CANDIDATES = """SELECT seq, step_number FROM steps
    WHERE namespace = :namespace AND episode_id = :episode_id AND step_number >= :first
    ORDER BY step_number LIMIT :limit"""
PAGE = SqlTemplate(f"""
{cut_by_bytes(_CANDIDATES, "steps", bytes_of_step("t"), "step_number")}
SELECT {", ".join(f"s.{name}" for name in STEP_ROW)}, page.step_number
FROM page LEFT JOIN steps AS s ON page.fits AND s.seq = page.seq
ORDER BY page.step_number
""")

# In descending order, so that LIMIT stops the scan of the index; the repository reverses the rows.
LATEST = SqlTemplate(f"""
SELECT {_ROW} FROM steps WHERE namespace = :namespace AND episode_id = :episode_id
ORDER BY step_number DESC LIMIT :limit
""")

COUNT = SqlTemplate("SELECT count(*) FROM steps WHERE namespace = :namespace AND episode_id = :episode_id")

COUNT_ALL = SqlTemplate("SELECT count(*) FROM steps WHERE namespace = :namespace")

# Two lookups by index; OR would scan all steps of the namespace.
CONFLICTING_STEPS = SqlTemplate("""
SELECT id, episode_id FROM steps WHERE namespace = :namespace AND id IN (SELECT value FROM json_each(:ids))
UNION SELECT id, episode_id FROM steps WHERE namespace = :namespace
    AND (episode_id, step_number) IN (SELECT value ->> 0, value ->> 1 FROM json_each(:numbers))
""")

# Runs before the step is deleted, because it finds the episode by the step. A copy of the episode that still has the
# step is stale from here on.
INCREMENT_VERSION = SqlTemplate("""
UPDATE episodes SET version = version + 1, updated_at = :now
WHERE namespace = :namespace
    AND id = (SELECT episode_id FROM steps WHERE steps.namespace = :namespace AND steps.id = :id)
""")

DELETE = SqlTemplate("DELETE FROM steps WHERE namespace = :namespace AND id = :id RETURNING id")
