"""The limit of episodes in a namespace: statements that end a save, and evict or refuse."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from memory_storage.dbapi import BatchStep
from memory_storage.errors import ValidationError
from memory_storage.repositories.retention.sql import IS_PATTERN_SOURCE
from memory_storage.repositories.retention.tombstones import EVICTED_KEY, eviction_prefix
from memory_storage.sql.session import SessionProtocol, ids_as_json
from memory_storage.sql.statement import SqlTemplate

# The tombstones come first, so that a stale copy of an evicted episode is not saved as a new one, which would evict
# another.
_ADD_EVICTION_KEYS = SqlTemplate(f"""
INSERT INTO forgotten (digest, episode_seq)
SELECT {EVICTED_KEY.format(id="e.id")}, e.seq FROM episodes AS e
WHERE e.namespace = :namespace AND e.id NOT IN (SELECT value FROM json_each(:ids)) AND NOT {IS_PATTERN_SOURCE}
ORDER BY e.started_at, e.id
LIMIT max(0, (SELECT count(*) FROM episodes WHERE namespace = :namespace) - :max_episodes)
ON CONFLICT (digest) DO UPDATE SET episode_seq = excluded.episode_seq
""")
# A trigger then removes the row's number from the tombstone.
_EVICT = SqlTemplate("""
DELETE FROM episodes WHERE namespace = :namespace AND seq IN (
    SELECT episode_seq FROM forgotten WHERE episode_seq IS NOT NULL AND length(digest) > 16)
""")
# Changes no row while the quota is kept. If there are too many episodes, it changes one, and the changed row count
# rolls the save back.
_CHECK_QUOTA = SqlTemplate("""
UPDATE episodes SET version = version WHERE seq = (
    SELECT seq FROM episodes WHERE namespace = :namespace ORDER BY started_at LIMIT 1 OFFSET :max_episodes)
""")


def quota_statements(session: SessionProtocol, ids: Sequence[UUID]) -> list[BatchStep]:
    """Return the statements that follow the insertion of new episodes; the last of them must change no row."""
    limits, namespace = session.limits, session.namespace
    if limits.max_episodes is None or not ids:
        return []
    check = _CHECK_QUOTA.bind(0, namespace=namespace, max_episodes=limits.max_episodes)
    if limits.when_full == "refuse":
        return [check]
    saved = ids_as_json([str(one) for one in ids])
    add_eviction_keys = _ADD_EVICTION_KEYS.bind(
        namespace=namespace, prefix=eviction_prefix(namespace), ids=saved, max_episodes=limits.max_episodes
    )
    return [add_eviction_keys, _EVICT.bind(namespace=namespace), check]


def quota_error(session: SessionProtocol, new: int) -> ValidationError:
    """Return the error of a save that was rolled back by the last of the quota statements."""
    advice = "delete some, by storage.retention or one by one"
    limit = f"at most {session.limits.max_episodes:,} in a namespace: {advice}"
    return ValidationError("episodes", limit, f"{new:,} more", setting="limits.max_episodes")
