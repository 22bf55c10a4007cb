"""The SQL of embeddings and vector tables. Each vector space is a table, with its own statements.

`rows` is a JSON array of [owner's id, created_at, updated_at, text_digest, text_version]; `digests` and `vectors` are
their digests and vectors, concatenated: a thousand vectors are two bound values.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

from memory_storage.schema.vector_tables import EXACT_SCAN_MAX, VectorSpace
from memory_storage.sql.statement import SqlTemplate

from .candidates import OWN_SPACE, last_seq

# The tables of an owner, and the row that a search returns for its vector: for a step, its episode.
_OWNERS = {
    "episode": ("episodes AS o ON o.namespace = :namespace AND o.id = given.id", "o.seq"),
    "step": (
        "steps AS o ON o.namespace = :namespace AND o.id = given.id"
        " CROSS JOIN episodes AS e ON e.namespace = o.namespace AND e.id = o.episode_id",
        "e.seq",
    ),
    "pattern": ("patterns AS o ON o.namespace = :namespace AND o.id = given.id", "o.seq"),
}
_ONE = "namespace = :namespace AND owner_type = :owner_type AND owner_id = :owner_id AND model = :model"
_DO_UPDATE = """UPDATE SET vector_seq = excluded.vector_seq, item_seq = excluded.item_seq,
    updated_at = excluded.updated_at, space = excluded.space, text_digest = excluded.text_digest,
    text_version = excluded.text_version"""
# Another writer may have stored the vector of a newer text, or a vector supplied by the caller.
_DO_REFRESH = f"""{_DO_UPDATE}
    WHERE embeddings.text_digest IS NOT NULL AND embeddings.text_version <= excluded.text_version"""
_DO_REPLACE = f"""{_DO_UPDATE}
    WHERE embeddings.text_digest IS NULL OR embeddings.text_version <= excluded.text_version"""

TABLES = {"episode": "episodes", "step": "steps", "pattern": "patterns"}

# Two writers may register a model at once: the first row stays, and the second writer uses it.
REGISTER = SqlTemplate("""
INSERT INTO vector_models (token, name, dimension, metric, preset, created_at)
VALUES (:space, :model, :dimension, 'cosine', :preset, :now) ON CONFLICT DO NOTHING
""")
# An UPDATE that changes nothing: its row count rolls the batch back, which the result of a SELECT could not.
# Changes a row if the namespace has no vectors of the model in another space.
ADMIT = SqlTemplate(f"""
UPDATE vector_models SET dimension = dimension
WHERE token = :space AND dimension = :dimension AND coalesce({OWN_SPACE}, token) = token
""")
# The columns of `vector_models` after the token, in the order of `EmbeddingModel`. Triggers keep the three counters.
MODEL_FACTS = ("name", "dimension", "metric", "preset", "vectors", "indexed", "removed")
_MODEL = f"SELECT token, {', '.join(MODEL_FACTS)}, created_at FROM vector_models"
MODELS = SqlTemplate(f"{_MODEL} ORDER BY name, dimension")
MODELS_NAMED = SqlTemplate(f"{_MODEL} WHERE name = :model ORDER BY dimension")
MODEL = SqlTemplate(f"{_MODEL} WHERE token = :space")
SPACES = SqlTemplate(f"SELECT token, name, dimension, token IS {OWN_SPACE} FROM vector_models WHERE name = :model")
# One index lookup for each model: `vector_models` has few rows, `embeddings` may have millions.
USED = SqlTemplate("""
SELECT name, dimension, token FROM vector_models
WHERE EXISTS (SELECT 1 FROM embeddings WHERE namespace = :namespace AND model = name AND space = token)
ORDER BY name
""")
EMPTIED = SqlTemplate("UPDATE vector_models SET removed = 0, preset = :preset WHERE token = :space")
# DiskANN stores the parameters of an index, among them the size of the candidate list, as a blob in a shadow table.
METADATA = SqlTemplate("SELECT metadata FROM libsql_vector_meta_shadow WHERE name = :index")
SET_METADATA = SqlTemplate("UPDATE libsql_vector_meta_shadow SET metadata = :metadata WHERE name = :index")
# RETURNING tells whether there was one.
DELETE = SqlTemplate(f"DELETE FROM embeddings WHERE {_ONE} RETURNING model")
COUNT = SqlTemplate("SELECT count(*) FROM embeddings WHERE namespace = :namespace")
COUNT_OF = SqlTemplate("SELECT count(*) FROM embeddings WHERE namespace = :namespace AND model = :model")
KNOWN = SqlTemplate("""
SELECT owner_type, owner_id, model FROM embeddings
WHERE namespace = :namespace AND (owner_type, owner_id, model) IN (
    SELECT value ->> '$[0]', value ->> '$[1]', value ->> '$[2]' FROM json_each(:keys))
""")
# The first owner that is not stored, for the message of the error.
ABSENT = {
    owner: SqlTemplate(f"""
SELECT value ->> 0 FROM json_each(:rows) WHERE NOT EXISTS (
    SELECT 1 FROM {table} WHERE namespace = :namespace AND id = value ->> 0) LIMIT 1
""")
    for owner, table in TABLES.items()
}
UNCHANGED = SqlTemplate("""
UPDATE embeddings AS m SET text_version = given.value ->> 2 FROM json_each(:rows) AS given
WHERE m.namespace = :namespace AND m.owner_type = :owner_type AND m.owner_id = given.value ->> 0 AND m.model = :model
    AND m.text_digest = given.value ->> 1 AND m.text_version < given.value ->> 2
""")
"""Record that a newer version of the owner has the same text: `rows` is a JSON array of [owner id, digest, version]."""


class Statements:
    """The statements of one vector space."""

    def __init__(self, space: VectorSpace) -> None:
        self._space, self._table, self._index = space, space.table, space.index
        # Equal vectors are stored once, by digest. A batch is bound as two blobs, of digests and of vectors, cut by
        # index: two values in all instead of two for each vector.
        self.add = SqlTemplate(f"""
INSERT INTO {space.table} (digest, vector)
SELECT substr(:digests, key * 16 + 1, 16), substr(:vectors, key * :size + 1, :size) FROM json_each(:rows)
WHERE true ON CONFLICT (digest) DO NOTHING
""")
        self.put = {owner: self._put(owner, _DO_UPDATE) for owner in _OWNERS}
        self.copy = {owner: self._put(owner, "NOTHING") for owner in _OWNERS}
        self.refresh = {owner: self._put(owner, _DO_REFRESH) for owner in _OWNERS}
        self.replace = {owner: self._put(owner, _DO_REPLACE) for owner in _OWNERS}

    @cached_property
    def discard(self) -> SqlTemplate:
        """Delete vectors without an embedding: their owners were deleted concurrently."""
        return SqlTemplate(f"""
DELETE FROM {self._table} AS v
WHERE v.digest IN (SELECT substr(:digests, key * 16 + 1, 16) FROM json_each(:rows)) AND NOT EXISTS (
    SELECT 1 FROM embeddings WHERE model = :model AND vector_seq = v.seq AND space = :space)
""")

    @cached_property
    def stored(self) -> SqlTemplate:
        """Read the model, and the number of owners whose stored vector is the bound one."""
        return SqlTemplate(f"""
SELECT token, {", ".join(MODEL_FACTS)}, created_at, (
    SELECT count(*) FROM (SELECT key, value ->> 0 AS id FROM json_each(:rows)) AS given
    CROSS JOIN embeddings AS m ON m.namespace = :namespace AND m.owner_type = :owner_type AND m.owner_id = given.id
        AND m.model = :model AND m.space = :space
    CROSS JOIN {self._table} AS v ON v.seq = m.vector_seq AND v.digest = substr(:digests, given.key * 16 + 1, 16))
FROM vector_models WHERE token = :space
""")

    @cached_property
    def index_some(self) -> SqlTemplate:
        """Index up to `limit` pending vectors, oldest first, unless the table is small or has no index."""
        # The DiskANN index is partial, on `indexed = 1`: setting the flag inserts the vector into it.
        return SqlTemplate(f"""
UPDATE {self._table} SET indexed = 1 WHERE seq IN (SELECT seq FROM {self._table} WHERE indexed = 0 ORDER BY seq
    LIMIT CASE WHEN (SELECT vectors FROM vector_models WHERE token = :space) > {EXACT_SCAN_MAX}
        AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = '{self._index}') THEN :limit ELSE 0 END)
""")

    @cached_property
    def get(self) -> SqlTemplate:
        """Read the vectors of some owners, and one more row with the namespace's space in the first column."""
        # The extra row shows, without a second round trip, whether the guessed space is the namespace's.
        return SqlTemplate(f"""
SELECT m.owner_type, m.owner_id, m.model, v.vector, m.created_at, m.updated_at
FROM json_each(:owners) AS given CROSS JOIN embeddings AS m ON m.namespace = :namespace
    AND m.owner_type = :owner_type AND m.owner_id = given.value AND m.model = :model AND m.space = :space
CROSS JOIN {self._table} AS v ON v.seq = m.vector_seq
UNION ALL SELECT {OWN_SPACE}, NULL, NULL, NULL, NULL, NULL
""")

    @cached_property
    def page(self) -> SqlTemplate:
        """Read the next page, ordered by owner."""
        return SqlTemplate(f"""
SELECT m.owner_type, m.owner_id, m.model, v.vector, m.created_at, m.updated_at
FROM embeddings AS m CROSS JOIN {self._table} AS v ON v.seq = m.vector_seq
WHERE m.namespace = :namespace AND m.model = :model AND m.space = :space
    AND (m.owner_type, m.owner_id) > (:owner_type, :owner_id)
ORDER BY m.owner_type, m.owner_id LIMIT :limit
""")

    @cached_property
    def nodes(self) -> SqlTemplate:
        """Count the nodes of the index in its shadow table."""
        return SqlTemplate(f"SELECT count(*) FROM {self._index}_shadow")

    @cached_property
    def is_whole(self) -> SqlTemplate:
        """Check that the index exists, and is empty only if no vector is marked `indexed`."""
        # A missing shadow table is an error of the statement, which the caller takes for "no".
        return SqlTemplate(f"""
SELECT (EXISTS (SELECT 1 FROM {self._index}_shadow) OR NOT :indexed)
    AND EXISTS (SELECT 1 FROM sqlite_master WHERE name = :index)
    AND EXISTS (SELECT 1 FROM libsql_vector_meta_shadow WHERE name = :index)
""")

    @cached_property
    def sample(self) -> SqlTemplate:
        """Sample the indexed vectors."""
        return SqlTemplate(f"SELECT seq FROM {self._table} WHERE indexed = 1 ORDER BY random() LIMIT :limit")

    @cached_property
    def found(self) -> SqlTemplate:
        """Count how many of the nearest neighbors of a vector the index finds, and how many exist."""
        # Compared with an exact scan of the indexed vectors only: pending ones are not the index's fault.
        vector = f"(SELECT vector FROM {self._table} WHERE seq = :seq)"
        return SqlTemplate(f"""
WITH nearest AS MATERIALIZED (SELECT seq FROM {self._table} WHERE indexed = 1
    ORDER BY vector_distance_cos(vector, {vector}) LIMIT :limit)
SELECT count(*), (SELECT count(*) FROM nearest) FROM vector_top_k(:index, {vector}, :limit)
WHERE id IN (SELECT seq FROM nearest)
""")

    @cached_property
    def state(self) -> SqlTemplate:
        """Read the dimension, the number of vectors, and the last row number."""
        last = last_seq(self._space)
        return SqlTemplate(f"SELECT dimension, vectors, coalesce({last}, 0) FROM vector_models WHERE token = :space")

    @cached_property
    def behind(self) -> SqlTemplate:
        """Count the vectors after a row number."""
        # NOT INDEXED keeps SQLite on the range of row numbers: otherwise a count reads all of the smaller digest index.
        return SqlTemplate(f"SELECT count(*) FROM {self._table} NOT INDEXED WHERE seq > :mark")

    @cached_property
    def after(self) -> SqlTemplate:
        """Read the vectors after a row number."""
        return SqlTemplate(f"SELECT seq, vector FROM {self._table} WHERE seq > :mark ORDER BY seq LIMIT :limit")

    @cached_property
    def digests(self) -> SqlTemplate:
        """Read the digests of some vectors."""
        return SqlTemplate(f"""
SELECT seq, lower(hex(digest)) FROM json_each(:seqs) AS given CROSS JOIN {self._table} ON seq = given.value
""")

    @cached_property
    def some(self) -> SqlTemplate:
        """Sample the vectors up to a row number."""
        return SqlTemplate(f"SELECT vector FROM {self._table} WHERE seq <= :mark ORDER BY random() LIMIT :limit")

    @cached_property
    def nearest(self) -> SqlTemplate:
        """Read the exact nearest neighbors up to a row number."""
        return SqlTemplate(f"""
SELECT seq FROM {self._table} WHERE seq <= :mark ORDER BY vector_distance_cos(vector, :vector) LIMIT :limit
""")

    @cached_property
    def present(self) -> SqlTemplate:
        """Count the rows up to a row number, and those with one of the bound numbers."""
        return SqlTemplate(f"""
SELECT (SELECT count(*) FROM {self._table} NOT INDEXED WHERE seq <= :mark),
    (SELECT count(*) FROM json_each(:seqs) AS given CROSS JOIN {self._table} ON seq = given.value)
""")

    def _put(self, owner: str, conflict: str) -> SqlTemplate:
        # Joining the owner makes an embedding of a deleted owner impossible, and gives the row that a search returns.
        # Joining the vector by digest finds its number, whichever writer inserted it.
        owners, item = _OWNERS[owner]
        return SqlTemplate(f"""
INSERT INTO embeddings (namespace, owner_type, owner_id, model, vector_seq, item_seq, created_at, updated_at,
    space, text_digest, text_version)
SELECT o.namespace, '{owner}', o.id, :model, v.seq, {item}, given.created_at, given.updated_at,
    :space, given.text_digest, given.text_version
FROM (SELECT key, value ->> 0 AS id, value ->> 1 AS created_at, value ->> 2 AS updated_at,
        value ->> 3 AS text_digest, value ->> 4 AS text_version
    FROM json_each(:rows)) AS given
CROSS JOIN {owners}
CROSS JOIN {self._table} AS v ON v.digest = substr(:digests, given.key * 16 + 1, 16)
WHERE true ON CONFLICT (namespace, owner_type, owner_id, model) DO {conflict}
""")


@lru_cache(maxsize=64)
def of(space: VectorSpace) -> Statements:
    """Return the statements of a vector space, cached."""
    return Statements(space)
