"""The tables, as SQLAlchemy Core; the revisions in `migrations/` make them, with what Core cannot describe.

Every row of a user is one JSON `document`, written and read by pydantic, next to columns for what is filtered, sorted
or counted. Times are integer microseconds since the epoch, UTC. `seq` is the local row number that the indexes use;
`(namespace, id)` is the name that clients know. The comments are the reference of the schema: see
`tests/schema/reference.py`.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Float,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

metadata = MetaData()

episodes = Table(
    "episodes",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number, which the indexes use"),
    Column("namespace", Text, nullable=False, comment="Tenant, agent or project that owns the row"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client"),
    Column(
        "version", Integer, nullable=False, comment="Version for optimistic locking; each save and completion adds 1"
    ),
    Column(
        "task_type",
        Text,
        nullable=False,
        comment="`code_generation`, `debugging`, `refactoring`, `testing`, `analysis`, `documentation` or `other`",
    ),
    Column("domain", Text, nullable=False, comment="Domain of the task's context"),
    Column("language", Text, comment="Programming language of the context"),
    Column("framework", Text, comment="Framework of the context"),
    Column("complexity", Text, nullable=False, comment="`simple`, `moderate` or `complex`"),
    Column(
        "outcome",
        Text,
        comment="Kind of outcome: `success`, `partial_success`, `failure` or `abstained`; NULL while it is open",
    ),
    Column("reward", Float, comment="Total reward"),
    Column("started_at", Integer, nullable=False, comment="Start of the task"),
    Column("completed_at", Integer, comment="End of the task"),
    Column("created_at", Integer, nullable=False, comment="First save"),
    Column("updated_at", Integer, nullable=False, comment="Latest save or completion"),
    Column("archived_at", Integer, comment="When it was archived; NULL if it is not"),
    Column(
        "document",
        Text,
        nullable=False,
        comment="JSON of what the other columns and `steps` lack of the `Episode`; of older versions more than that",
    ),
    Column(
        "words",
        Text,
        comment="JSON of the texts that the full-text index has in another spelling; NULL where it has them as written",
    ),
    UniqueConstraint("namespace", "id"),
    # Nearly every query leaves out archived rows: with this column the index alone is enough.
    Index("ix_episodes_started", "namespace", "started_at", "archived_at"),
    Index("ix_episodes_task_type", "namespace", "task_type", "started_at", "archived_at"),
    Index("ix_episodes_domain", "namespace", "domain", "started_at", "archived_at"),
    Index("ix_episodes_language", "namespace", "language", "started_at", "archived_at"),
    Index("ix_episodes_framework", "namespace", "framework", "started_at", "archived_at"),
    Index("ix_episodes_complexity", "namespace", "complexity", "started_at", "archived_at"),
    Index("ix_episodes_outcome", "namespace", "outcome", "started_at", "archived_at"),
    Index("ix_episodes_reward", "namespace", "reward", "archived_at"),
    Index("ix_episodes_completed", "namespace", "completed_at", "archived_at"),
    Index("ix_episodes_archived", "namespace", "started_at", sqlite_where=text("archived_at IS NOT NULL")),
    comment="One task of an agent, from its start to its end.",
)

steps = Table(
    "steps",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of the episode"),
    Column("episode_id", Text, nullable=False, comment="Episode that the step belongs to"),
    Column("step_number", Integer, nullable=False, comment="Position in the episode, from 1"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client"),
    Column("tool", Text, nullable=False, comment="Name of the tool"),
    Column("status", Text, comment="`ok`, `error` or `timeout`; NULL without a result"),
    Column("latency_ms", Integer, nullable=False, comment="Duration in milliseconds"),
    Column("tokens_used", Integer, comment="Tokens that the step used"),
    Column("started_at", Integer, nullable=False, comment="Start of the step"),
    Column(
        "output",
        Text,
        comment="Output of an `ok` result, or message of an `error`; not in `document`, where JSON would escape it",
    ),
    Column(
        "document",
        Text,
        nullable=False,
        comment="JSON of what the other columns lack of the `Step`; of older versions more than that",
    ),
    Column("words", Text, comment="As in `episodes`"),
    UniqueConstraint("namespace", "episode_id", "step_number"),
    UniqueConstraint("namespace", "id"),
    ForeignKeyConstraint(["namespace", "episode_id"], ["episodes.namespace", "episodes.id"], ondelete="CASCADE"),
    Index("ix_steps_tool", "namespace", "tool", "status"),
    comment="One tool call or action of an episode.",
)

patterns = Table(
    "patterns",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Tenant, agent or project that owns the row"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client; of mined patterns a UUIDv5 of the content"),
    Column("version", Integer, nullable=False, comment="Version for optimistic locking"),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="`tool_sequence`, `decision_point`, `error_recovery`, `context_pattern`, `heuristic` or `playbook`",
    ),
    Column("domain", Text, nullable=False, comment="Domain of the context"),
    Column("language", Text, comment="Programming language of the context"),
    Column("success_rate", Float, nullable=False, comment="Share of successes, from 0 to 1"),
    Column("occurrence_count", Integer, nullable=False, comment="Number of observations"),
    Column("times_retrieved", Integer, nullable=False, comment="Number of retrievals"),
    Column("times_applied", Integer, nullable=False, comment="Number of applications"),
    Column("success_when_applied", Integer, nullable=False, comment="Applications that succeeded"),
    Column("failure_when_applied", Integer, nullable=False, comment="Applications that failed"),
    Column("avg_reward_delta", Float, nullable=False, comment="Mean change of the reward, over the applications"),
    Column("last_used_at", Integer, comment="Latest retrieval or application"),
    Column("created_at", Integer, nullable=False, comment="First save"),
    Column("updated_at", Integer, nullable=False, comment="Latest save or merge"),
    Column(
        "document",
        Text,
        nullable=False,
        comment="JSON of the pattern, but for `version`, `effectiveness` (the counters) and the times of the store",
    ),
    Column("words", Text, comment="As in `episodes`"),
    UniqueConstraint("namespace", "id"),
    Index("ix_patterns_success_rate", "namespace", "success_rate"),
    Index("ix_patterns_kind", "namespace", "kind", "success_rate"),
    Index("ix_patterns_domain", "namespace", "domain", "success_rate"),
    Index("ix_patterns_language", "namespace", "language", "success_rate"),
    Index("ix_patterns_occurrences", "namespace", "occurrence_count"),
    comment="One thing learned from episodes.",
)

embeddings = Table(
    "embeddings",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of the owner"),
    Column("owner_type", Text, nullable=False, comment="`episode`, `step` or `pattern`"),
    Column("owner_id", Text, nullable=False, comment="Episode, step or pattern"),
    Column("model", Text, nullable=False, comment="Name of the embedding model"),
    Column("vector_seq", Integer, nullable=False, comment="Row of the vector in the table of its vector space"),
    Column(
        "item_seq",
        Integer,
        nullable=False,
        comment="`seq` of the episode or pattern that a search finds by it: of a step, its episode",
    ),
    Column("created_at", Integer, nullable=False, comment="First time that the owner got a vector by the model"),
    Column("updated_at", Integer, nullable=False, comment="Latest change of the vector"),
    Column(
        "space",
        Text,
        nullable=False,
        server_default="",
        comment="`token` of the vector space; all embeddings of a namespace by one model are in one space",
    ),
    Column("text_digest", Text, comment="Digest of the text that was embedded; NULL if the caller stored the vector"),
    Column("text_version", Integer, comment="Version that the episode or pattern had then"),
    UniqueConstraint("namespace", "owner_type", "owner_id", "model"),
    Index("ix_embeddings_item", "item_seq", "model", "owner_type", "vector_seq"),
    Index("ix_embeddings_model", "namespace", "model", "owner_type"),
    Index("ix_embeddings_vector", "model", "vector_seq", "namespace", "owner_type", "item_seq"),
    comment="One vector of one episode, step or pattern, by one model; its floats are in the table of the space.",
)

vector_models = Table(
    "vector_models",
    metadata,
    Column(
        "token",
        Text,
        primary_key=True,
        nullable=False,
        comment="Digest of the model's name, which the names of the space's table, indexes and triggers have in common",
    ),
    Column("name", Text, nullable=False, comment="Name of the embedding model"),
    Column("dimension", Integer, nullable=False, comment="Number of floats of each vector"),
    Column("metric", Text, nullable=False, comment="`cosine`"),
    Column(
        "preset", Text, nullable=False, comment="Settings of the DiskANN index: `compact`, `balanced` or `accurate`"
    ),
    Column(
        "vectors", Integer, nullable=False, server_default="0", comment="Number of distinct vectors, in all namespaces"
    ),
    Column("indexed", Integer, nullable=False, server_default="0", comment="How many of them are in the DiskANN index"),
    Column(
        "removed",
        Integer,
        nullable=False,
        server_default="0",
        comment="How many were removed from the DiskANN index since it was built",
    ),
    Column("created_at", Integer, nullable=False, comment="First vector of the space"),
    UniqueConstraint("name", "dimension"),
    comment="The vector spaces, one for each model and dimension. The table of a space is made with its first vector.",
)

spatiotemporal_index = Table(
    "spatiotemporal_index",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of the owner"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client"),
    Column("owner_type", Text, nullable=False, comment="`episode` or `step`"),
    Column("owner_id", Text, nullable=False, comment="Episode or step"),
    Column("episode_seq", Integer, nullable=False, comment="`seq` of the owner, or of the step's episode"),
    Column("latitude", Float, comment="Degrees north (WGS 84)"),
    Column("longitude", Float, comment="Degrees east"),
    Column("x", Float, comment="Position on the unit sphere: SQL compares distances by it, without a sine"),
    Column("y", Float, comment="Position on the unit sphere"),
    Column("z", Float, comment="Position on the unit sphere"),
    Column("place_name", Text, comment="Name of the place"),
    Column("starts_at", Integer, comment="Start of the interval"),
    Column(
        "ends_at", Integer, comment="End of the interval, exclusive; NULL for a point in time, and while it is ongoing"
    ),
    Column(
        "until_at",
        Integer,
        comment="End for comparisons: a microsecond after a point in time, beyond the year 9999 while it is ongoing",
    ),
    Column("created_at", Integer, nullable=False, comment="First save"),
    Column("document", Text, nullable=False, comment="JSON of the `SpatiotemporalEntry`"),
    UniqueConstraint("namespace", "id"),
    Index("ix_spatiotemporal_owner", "namespace", "owner_type", "owner_id"),
    Index("ix_spatiotemporal_starts", "namespace", "starts_at"),
    Index("ix_spatiotemporal_place", "namespace", "place_name"),
    Index("ix_spatiotemporal_episode", "episode_seq", "starts_at"),
    comment="One where-and-when of an episode or a step.",
)

facets = Table(
    "facets",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace of the owner"),
    Column("owner_type", Text, primary_key=True, nullable=False, comment="`episode` or `pattern`"),
    Column(
        "name",
        Text,
        primary_key=True,
        nullable=False,
        comment="`tag`, `evidence`, `recalled`, `used`, or `metadata.` and a key",
    ),
    Column(
        "value",
        Text,
        primary_key=True,
        nullable=False,
        comment="Tag, id of an episode or pattern, or metadata as JSON, of which the first 256 characters",
    ),
    Column("at", Integer, primary_key=True, nullable=False, comment="`started_at` of the episode; 0 of a pattern"),
    Column("owner_seq", Integer, primary_key=True, nullable=False, comment="`seq` of the episode or pattern"),
    sqlite_with_rowid=False,
    comment="Tags and scalar metadata of episodes and patterns, evidence of patterns, and what episodes were shown and"
    " have used; see `episode_changes`",
)

namespaces = Table(
    "namespaces",
    metadata,
    Column("number", Integer, primary_key=True, comment="Stands for the namespace in the numbers of its texts"),
    Column("name", Text, nullable=False, unique=True, comment="The namespace"),
    Column("episode_texts", Integer, nullable=False, server_default="0", comment="Number of rows in `episode_texts`"),
    Column("pattern_texts", Integer, nullable=False, server_default="0", comment="Number of rows in `pattern_texts`"),
    comment="The namespaces that have texts in the full-text indexes.",
)

episode_texts = Table(
    "episode_texts",
    metadata,
    Column(
        "doc",
        Integer,
        primary_key=True,
        comment="Number of the text: 21 bits of the namespace, 32 of the episode's `seq`, 10 of the part, from 0",
    ),
    Column("first_step", Integer, comment="Lowest `seq` of the steps in the text; NULL for the head of an episode"),
    Column("last_step", Integer, comment="Highest `seq` of the steps in the text"),
    comment="The texts in `episode_words`: the head of an episode, or steps of it. Triggers index what is added here.",
)

pattern_texts = Table(
    "pattern_texts",
    metadata,
    Column("doc", Integer, primary_key=True, comment="Number of the text, as in `episode_texts`"),
    comment="The texts in `pattern_words`: one for each pattern.",
)

episode_changes = Table(
    "episode_changes",
    metadata,
    Column("mark", Integer, primary_key=True, comment="Position in the log"),
    Column("episode_seq", Integer, comment="`seq` of an episode whose words or facets may not be indexed yet, or NULL"),
    comment="Log of episodes that have changed since their words and facets were indexed.",
)

receipts = Table(
    "receipts",
    metadata,
    Column("id", LargeBinary, primary_key=True, nullable=False, comment="Time and random bytes, chosen by the client"),
    Column(
        "changed",
        Integer,
        nullable=False,
        comment="Number of rows that the write changed; -1 is a fence: the write must fail",
    ),
    sqlite_with_rowid=False,
    comment="Writes over a network of the last day: they resolve the outcome of one whose acknowledgement was lost.",
)

forgotten = Table(
    "forgotten",
    metadata,
    Column("digest", LargeBinary, primary_key=True, nullable=False, comment="Digest of namespace and id"),
    Column(
        "episode_seq",
        Integer,
        comment="`seq` of an episode that is removed in part only, so that a later run resumes; else NULL",
    ),
    Index("ix_forgotten_unfinished", "episode_seq", sqlite_where=text("episode_seq IS NOT NULL")),
    sqlite_with_rowid=False,
    comment="Tombstones of episodes and patterns that were erased or removed by retention: they cannot come back.",
)

sync_state = Table(
    "sync_state",
    metadata,
    Column("id", Integer, primary_key=True, comment="1: the table has one row, or none while sync is off"),
    Column(
        "mode",
        Integer,
        nullable=False,
        comment="1 of a server, 2 of a replica, 3 while a replica applies what it pulled",
    ),
    Column("epoch", LargeBinary, comment="Random identity of the server's log; of a replica, that of its server"),
    Column("session", LargeBinary, comment="Identity of the opening that counts patterns now, and the generation"),
    Column(
        "generation",
        Integer,
        nullable=False,
        server_default="0",
        comment="How often totals in sync_counts were removed",
    ),
    Column("since", Integer, nullable=False, server_default="0", comment="The number up to which a replica has pulled"),
    Column("progress", Text, comment="JSON: what of the first sync is left, and the options of the replica"),
    Column("writer", Text, comment="Of a server, while a replica pushes: its name"),
    Column("synced_at", Integer, comment="When the latest sync ended"),
    comment="What this database is to others: a server that logs changes, or a replica of one.",
)

sync_changes = Table(
    "sync_changes",
    metadata,
    Column("number", Integer, primary_key=True, comment="Grows in the order of the commits; never given twice"),
    Column("namespace", Text, nullable=False, comment="Namespace of the row; empty for a digest"),
    Column(
        "kind",
        Integer,
        nullable=False,
        comment="1 episode, 2 step, 3 pattern, 4 embedding, 5 place, 6 digest of something erased",
    ),
    Column("seq", Integer, comment="`seq` of the row; NULL of a tombstone"),
    Column("key", Text, comment="Id of a deleted row, or a digest; of an embedding its owner and model"),
    Column("created_at", Integer, comment="`created_at` of a deleted row: another one may have its id later"),
    Column("deleted_at", Integer, comment="When it was deleted, in seconds"),
    Column("writer", Text, comment="Name of the replica that pushed it; NULL if it was written here"),
    Column("sent", Integer, comment="Of a replica: the number under which it was pushed, until that is acknowledged"),
    Index("ux_sync_changes_row", "kind", "seq", unique=True, sqlite_where=text("seq IS NOT NULL")),
    Index("ux_sync_changes_key", "kind", "namespace", "key", unique=True, sqlite_where=text('"key" IS NOT NULL')),
    sqlite_autoincrement=True,
    comment="The latest change of each row since sync is on; of a replica, what it has not pushed yet.",
)

sync_bases = Table(
    "sync_bases",
    metadata,
    Column("kind", Integer, primary_key=True, nullable=False, comment="As in `sync_changes`"),
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace of the row"),
    Column("key", Text, primary_key=True, nullable=False, comment="Id of the row, as in `sync_changes`"),
    Column(
        "sent",
        Integer,
        primary_key=True,
        nullable=False,
        comment="0 of the row as it was in sync; else the number under which it was pushed",
    ),
    Column("columns", Text, nullable=False, comment="JSON array of columns"),
    Column("document", Text, nullable=False, comment="Its document"),
    Column("output", Text, comment="Output of a step"),
    sqlite_with_rowid=False,
    comment="Rows as they were before a replica changed them: the base of a three-way merge.",
)

sync_counts = Table(
    "sync_counts",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace of the pattern"),
    Column("pattern_id", Text, primary_key=True, nullable=False, comment="The pattern"),
    Column("session", LargeBinary, primary_key=True, nullable=False, comment="Who counted: see `sync_state`"),
    Column(
        "acknowledged",
        Integer,
        primary_key=True,
        nullable=False,
        comment="0 of what was counted; 1 of what the server has added",
    ),
    Column("retrieved", Integer, nullable=False, comment="Retrievals"),
    Column("applied", Integer, nullable=False, comment="Applications"),
    Column("succeeded", Integer, nullable=False, comment="Applications that succeeded"),
    Column("failed", Integer, nullable=False, comment="Applications that failed"),
    Column("reward_sum", Float, nullable=False, comment="Sum of the changes of the reward"),
    Column("last_used_at", Integer, comment="Latest retrieval or application"),
    Column("counted_at", Integer, nullable=False, comment="When the row was made or added, in seconds"),
    sqlite_with_rowid=False,
    comment="Totals of what each session has counted: the server adds what it has not added yet, once.",
)

sync_conflicts = Table(
    "sync_conflicts",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("id", Text, nullable=False, comment="UUID of the conflict"),
    Column("namespace", Text, nullable=False, comment="Namespace of the row"),
    Column("kind", Text, nullable=False, comment="`episode`, `step`, `pattern`, `embedding` or `place`"),
    Column("object_id", Text, nullable=False, comment="Id of the row"),
    Column("episode_id", Text, comment="The episode of a step, an embedding or a place"),
    Column("fields", Text, nullable=False, comment="JSON array of the fields that both sides have changed"),
    Column("base", Text, comment="JSON of the row before both changes"),
    Column("mine", Text, comment="JSON of the row as it was here; NULL if it was deleted here"),
    Column("theirs", Text, comment="JSON of the row at the server; NULL if it was deleted there"),
    Column("my_writer", Text, comment="Name of this replica"),
    Column("their_writer", Text, comment="Name of the replica that pushed the server's version"),
    Column("detected_at", Integer, nullable=False, comment="When the conflict was found"),
    UniqueConstraint("namespace", "id"),
    Index("ix_sync_conflicts_object", "namespace", "object_id"),
    Index("ix_sync_conflicts_episode", "namespace", "episode_id"),
    comment="What could not be merged: the server's version stands, and the local one is kept here.",
)

sync_wanted = Table(
    "sync_wanted",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace of the episode"),
    Column("episode_id", Text, primary_key=True, nullable=False, comment="The episode"),
    sqlite_with_rowid=False,
    comment="Episodes that a replica pulls as a whole next, since a step of them came without them.",
)

relationships = Table(
    "relationships",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of both episodes"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client"),
    Column("from_id", Text, nullable=False, comment="Episode at which it begins"),
    Column("to_id", Text, nullable=False, comment="Episode at which it ends"),
    Column(
        "kind",
        Text,
        nullable=False,
        comment="`parent_child`, `depends_on`, `follows`, `related_to`, `blocks`, `duplicates`, `references`, or"
        " another name",
    ),
    Column("weight", Float, comment="Strength, from 0"),
    Column("created_at", Integer, nullable=False, comment="First save"),
    Column("document", Text, nullable=False, comment="JSON of the metadata"),
    UniqueConstraint("namespace", "id"),
    UniqueConstraint("namespace", "from_id", "kind", "to_id"),
    ForeignKeyConstraint(["namespace", "from_id"], ["episodes.namespace", "episodes.id"], ondelete="CASCADE"),
    ForeignKeyConstraint(["namespace", "to_id"], ["episodes.namespace", "episodes.id"], ondelete="CASCADE"),
    Index("ix_relationships_to", "namespace", "to_id", "kind", "from_id"),
    comment="One relationship from one episode to another.",
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of the episode"),
    Column("id", Text, nullable=False, comment="UUID, chosen by the client"),
    Column("episode_id", Text, nullable=False, comment="Episode that it belongs to"),
    Column("step_number", Integer, nullable=False, comment="Number of the last step before it; 0 before the first"),
    Column("label", Text, nullable=False, comment="What it is called"),
    Column("created_at", Integer, nullable=False, comment="When it was made"),
    Column("document", Text, nullable=False, comment="JSON of the state"),
    UniqueConstraint("namespace", "id"),
    ForeignKeyConstraint(["namespace", "episode_id"], ["episodes.namespace", "episodes.id"], ondelete="CASCADE"),
    Index("ix_checkpoints_episode", "namespace", "episode_id", "created_at"),
    comment="A state of an episode from which its work can be resumed.",
)

learning = Table(
    "learning",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace that has been learned"),
    Column("revision", Integer, nullable=False, comment="Grows with each portion: one learner at a time"),
    Column("next_number", Integer, nullable=False, comment="The next `number` in `sequences`"),
    Column("is_built", Integer, nullable=False, comment="1 if all episodes were counted once, else 0"),
    sqlite_with_rowid=False,
    comment="How far the episodes of a namespace are learned.",
)

sequences = Table(
    "sequences",
    metadata,
    Column("namespace", Text, primary_key=True, nullable=False, comment="Namespace of the episodes"),
    Column("kind", Integer, primary_key=True, nullable=False, comment="0 tools in order, 1 recovery from an error"),
    Column(
        "content",
        Text,
        primary_key=True,
        nullable=False,
        comment="JSON array: tools; or the tool that failed, the class of the error, and the tools after it",
    ),
    Column("domain", Text, primary_key=True, nullable=False, comment="Domain of the episodes"),
    Column("language", Text, primary_key=True, nullable=False, comment="Language; empty for none"),
    Column("framework", Text, primary_key=True, nullable=False, comment="Framework; empty for none"),
    Column("task_type", Text, primary_key=True, nullable=False, comment="Task type"),
    Column("number", Integer, nullable=False, comment="Stands for the row in `learned`"),
    Column("episodes", Integer, nullable=False, comment="How many episodes have it"),
    Column("successes", Integer, nullable=False, comment="How many of them succeeded"),
    Column("weight", Float, nullable=False, comment="Sum of their weights, which grow with the time of their end"),
    Column("success_weight", Float, nullable=False, comment="Sum of the weights of those that succeeded"),
    Column("evidence", Text, nullable=False, comment="`seq` of some that succeeded, each between commas"),
    Column("counterexamples", Text, nullable=False, comment="`seq` of some that did not, each between commas"),
    Index("ux_sequences_number", "namespace", "number", unique=True),
    sqlite_with_rowid=False,
    comment="How many episodes of a context have something in common, and how many of them succeeded.",
)

learned = Table(
    "learned",
    metadata,
    Column("episode_seq", Integer, primary_key=True, comment="`seq` of the episode"),
    Column("namespace", Text, nullable=False, comment="Namespace of the episode"),
    Column("success", Integer, nullable=False, comment="1 if it succeeded when it was learned, else 0"),
    Column("weight", Float, nullable=False, comment="Its weight in `sequences`"),
    Column("numbers", Text, nullable=False, comment="JSON array: the rows of `sequences` that it is counted in"),
    Index("ix_learned_namespace", "namespace"),
    comment="What each episode was counted for. Its deletion takes that back.",
)

unlearned = Table(
    "unlearned",
    metadata,
    Column("episode_seq", Integer, primary_key=True, comment="`seq` of the episode"),
    Column("namespace", Text, nullable=False, comment="Namespace of the episode"),
    Column("mark", Integer, nullable=False, comment="Another random number after each change"),
    Index("ix_unlearned_namespace", "namespace"),
    comment="Episodes that have changed since they were learned.",
)

items = Table(
    "items",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Tenant, agent or project that owns the row"),
    Column(
        "path",
        Text,
        nullable=False,
        comment="Labels of the path, each ending with U+0001; within a label U+0001 and U+0002 are U+0002 U+0002 and"
        " U+0002 U+0003",
    ),
    Column("key", Text, nullable=False, comment="Name of the item within its path"),
    Column("version", Integer, nullable=False, comment="Version for optimistic locking; each put adds 1"),
    Column("document", Text, nullable=False, comment="JSON of the value"),
    Column("created_at", Integer, nullable=False, comment="First put"),
    Column("updated_at", Integer, nullable=False, comment="Latest put"),
    Column("expires_at", Integer, comment="From when on it is not returned; NULL for never"),
    Column("ttl", Integer, comment="Microseconds from a put, or a read that refreshes it, to `expires_at`"),
    UniqueConstraint("namespace", "path", "key"),
    Index("ix_items_expires", "namespace", "expires_at", sqlite_where=text("expires_at IS NOT NULL")),
    comment="One JSON value under a path and a key.",
)

item_vectors = Table(
    "item_vectors",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of the item"),
    Column("item_seq", Integer, nullable=False, comment="`seq` of the item"),
    Column("model", Text, nullable=False, comment="Name of the embedding model"),
    Column("field", Text, nullable=False, comment="The part of the value that the vector stands for"),
    Column("vector", LargeBinary, nullable=False, comment="The floats, 4 bytes each, little-endian"),
    UniqueConstraint("item_seq", "model", "field"),
    ForeignKeyConstraint(["item_seq"], ["items.seq"], ondelete="CASCADE"),
    Index("ix_item_vectors_model", "namespace", "model"),
    comment="Vectors of items; all of a namespace by one model have one dimension.",
)

logs = Table(
    "logs",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Tenant, agent or project that owns the row"),
    Column("log", Text, nullable=False, comment="Name of the log"),
    Column("number", Integer, nullable=False, comment="Position in the log, from 1"),
    Column("id", Text, comment="Id of the record, chosen by the client: an append of a known one changes nothing"),
    Column("document", Text, nullable=False, comment="JSON of the value"),
    Column("created_at", Integer, nullable=False, comment="When it was appended"),
    UniqueConstraint("namespace", "log", "number"),
    Index("ux_logs_id", "namespace", "log", "id", unique=True, sqlite_where=text("id IS NOT NULL")),
    comment="One record of a log.",
)

recalls = Table(
    "recalls",
    metadata,
    Column("seq", Integer, primary_key=True, comment="Local row number"),
    Column("namespace", Text, nullable=False, comment="Namespace of what was recalled"),
    Column("id", Text, nullable=False, comment="UUID of the recall"),
    Column("number", Integer, nullable=False, comment="Position in the namespace, from 1: the oldest are removed"),
    Column("created_at", Integer, nullable=False, comment="When it was made"),
    Column("document", Text, nullable=False, comment="JSON: the kind and the id of each record that was shown"),
    UniqueConstraint("namespace", "id"),
    UniqueConstraint("namespace", "number"),
    comment="Receipts of recalls that were kept, the newest 10,000 of a namespace: any process can complete with one.",
)
