"""The statements of the summary repository. A summary is a field of the episode's document."""

from __future__ import annotations

from memory_storage.sql.statement import SqlTemplate

# No change of `version`, and by that no new vector, if only the time would differ: a write can be repeated.
_IS_NEW = """(json_remove(document -> '$.summary', '$.created_at')
        IS NOT json_remove(json(:summary), '$.created_at'))"""

PUT = SqlTemplate(f"""
UPDATE episodes SET
    version = version + {_IS_NEW}, updated_at = iif({_IS_NEW}, :now, updated_at),
    document = iif({_IS_NEW}, json_set(document, '$.summary', json(:summary)), document),
    words = nullif(json_patch(coalesce(words, '{{}}'), :words), '{{}}')
WHERE namespace = :namespace AND id = :id
""")

DELETE = SqlTemplate("""
UPDATE episodes SET
    version = version + 1, updated_at = :now, document = json_remove(document, '$.summary'),
    words = nullif(json_patch(coalesce(words, '{}'), :words), '{}')
WHERE namespace = :namespace AND id = :id AND json_type(document, '$.summary') = 'object'
RETURNING id
""")

# The summary of the database: its time, if it was stored before.
GET = SqlTemplate("SELECT document -> '$.summary' FROM episodes WHERE namespace = :namespace AND id = :id")

# Appending a step does not change the version, and deleting one does: an episode is as it was read if its version and
# its last step are. The size is that of the changed document, whose field begins with 11 characters.
PUT_MANY = SqlTemplate("""
WITH given AS MATERIALIZED (
    SELECT value ->> '$.id' AS id, value ->> '$.version' AS version, value ->> '$.last_step' AS last_step,
        value -> '$.summary' AS summary, value -> '$.words' AS patch
    FROM json_each(:rows))
UPDATE episodes SET
    version = episodes.version + 1, updated_at = :now,
    document = json_set(document, '$.summary', json(given.summary)),
    words = nullif(json_patch(coalesce(words, '{}'), given.patch), '{}')
FROM given
WHERE episodes.namespace = :namespace AND episodes.id = given.id AND episodes.version = given.version
    AND octet_length(json_remove(document, '$.summary')) + octet_length(given.summary) + 11 <= :most
    AND given.last_step = coalesce((
        SELECT max(step_number) FROM steps AS s WHERE s.namespace = :namespace AND s.episode_id = given.id), 0)
RETURNING id
""")

# What `PUT_MANY` has stored, if its acknowledgement is lost.
STORED = SqlTemplate("""
SELECT episodes.id FROM json_each(:rows) AS given CROSS JOIN episodes
    ON episodes.namespace = :namespace AND episodes.id = given.value ->> '$.id'
WHERE episodes.version = (given.value ->> '$.version') + 1
    AND document -> '$.summary' IS json(given.value -> '$.summary')
""")
