"""The statements of logs. `rows` is a JSON array of [id, document]."""

from __future__ import annotations

from memory_storage.sql.paging import cut_by_bytes
from memory_storage.sql.statement import SqlTemplate

_OF_LOG = "namespace = :namespace AND log = :log"

# The numbers are assigned under the write lock, and follow the order of the rows. Ids that are stored are left out.
APPEND = SqlTemplate(f"""
INSERT INTO logs (namespace, log, number, id, document, created_at)
SELECT :namespace, :log, last.number + row_number() OVER (ORDER BY g."key"), g.value ->> 0, g.value -> 1, :now
FROM json_each(:rows) AS g
CROSS JOIN (SELECT coalesce(max(number), 0) AS number FROM logs WHERE {_OF_LOG}) AS last
WHERE NOT EXISTS (SELECT 1 FROM logs AS l WHERE l.namespace = :namespace AND l.log = :log AND l.id = g.value ->> 0)
""")
NUMBERS = SqlTemplate(f"""
SELECT id, number FROM logs WHERE {_OF_LOG} AND id IN (SELECT value FROM json_each(:ids))
""")

# An entry has [log, number, id, created_at, document].
IMPORT = SqlTemplate("""
INSERT INTO logs (namespace, log, number, id, document, created_at)
SELECT :namespace, g.value ->> 0, g.value ->> 1, g.value ->> 2, g.value -> 4, g.value ->> 3
FROM json_each(:rows) AS g WHERE true ON CONFLICT DO NOTHING
""")
KNOWN = SqlTemplate("""
SELECT g."key" FROM json_each(:rows) AS g WHERE EXISTS (
    SELECT 1 FROM logs AS l WHERE l.namespace = :namespace AND l.log = g.value ->> 0 AND l.number = g.value ->> 1)
    OR EXISTS (
    SELECT 1 FROM logs AS l WHERE l.namespace = :namespace AND l.log = g.value ->> 0 AND l.id = g.value ->> 2)
""")

_ROW = "log, number, id, document, created_at"

RANGE = SqlTemplate(f"""
SELECT {_ROW} FROM logs WHERE {_OF_LOG} AND number BETWEEN :first AND :last ORDER BY number LIMIT :limit
""")
# In descending order, so that LIMIT stops the scan of the index; the repository reverses the rows.
LATEST = SqlTemplate(f"""
SELECT {_ROW} FROM logs WHERE {_OF_LOG} AND number <= :last ORDER BY number DESC LIMIT :limit
""")

# `number` is the name of a column of `cut_by_bytes`.
_CANDIDATES = """SELECT seq, log, number AS place FROM logs
    WHERE namespace = :namespace AND (log, number) >= (:log, :first) AND log <= :last_log AND number <= :last
    ORDER BY log, number LIMIT :limit"""
# A record that does not fit has only its log and number.
PAGE = SqlTemplate(f"""
{cut_by_bytes(_CANDIDATES, "logs", "octet_length(t.document) + 100", "log, place")}
SELECT l.log, l.number, l.id, l.document, l.created_at, page.log, page.place
FROM page LEFT JOIN logs AS l ON page.fits AND l.seq = page.seq ORDER BY page.log, page.place
""")

POP = SqlTemplate(f"""
DELETE FROM logs WHERE seq = (SELECT seq FROM logs WHERE {_OF_LOG} ORDER BY number DESC LIMIT 1) RETURNING {_ROW}
""")
CLEAR = SqlTemplate(f"DELETE FROM logs WHERE {_OF_LOG} RETURNING 1")

COUNT = SqlTemplate(f"SELECT count(*) FROM logs WHERE {_OF_LOG}")
COUNT_ALL = SqlTemplate("SELECT count(*) FROM logs WHERE namespace = :namespace")

# From each log the next one is looked up in the index: as many steps as there are logs, not records.
_NEXT = """SELECT log FROM logs WHERE namespace = :namespace AND log < :upper AND log {} ORDER BY log LIMIT 1"""
LIST = SqlTemplate(f"""
WITH RECURSIVE listed (name, place) AS (
    SELECT ({_NEXT.format(">= :lower")}), 1
    UNION ALL SELECT ({_NEXT.format("> listed.name")}), place + 1 FROM listed
    WHERE name IS NOT NULL AND place < :limit + :offset)
SELECT l.log, l.number, l.created_at FROM listed CROSS JOIN logs AS l ON l.seq = (
    SELECT seq FROM logs WHERE namespace = :namespace AND log = listed.name ORDER BY number DESC LIMIT 1)
WHERE listed.place > :offset ORDER BY listed.place
""")
