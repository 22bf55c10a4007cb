"""The requests of a replica to its server, each one round trip: its state, changes, rows, a push.

A server is a database of this package's schema, at any libSQL server. A request is one transaction there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from memory_storage._execution import Executor
from memory_storage.dbapi import BatchStep, RowCountError, traffic
from memory_storage.errors import ConfigurationError, SchemaError
from memory_storage.repositories.retention.tombstones import ADD_TOMBSTONES, FIND_TOMBSTONES, digest_of, erase_traces
from memory_storage.schema import HEAD
from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.sql.statement import SqlTemplate

from .counts import Count, push_counts, stored_counts
from .pace import Pace
from .rows import (
    CHECKPOINT,
    EMBEDDING,
    EPISODE,
    KINDS,
    PATTERN,
    PLACE,
    RELATIONSHIP,
    STEP,
    Change,
    bytes_of,
    is_named,
    read_rows,
    select_rows,
)
from .writing import Pushed, delete_named, push_embeddings, push_rows

PAGE_ROWS = 2_000
PAGE_BYTES = 1_500_000
"""Of documents in one answer: sqld's has at most 10 MB, and a row, which may have 5, is not cut."""

_HEADS = 250  # episodes whose steps are looked at for one page
_END = "\U0010ffff"  # no namespace sorts after it
_LATEST = 2**62
_BEGINNING = -(2**62)

_LAST = "coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'sync_changes'), 0)"
"""SQL for the number of the latest change, also of one that is gone."""

# One column: each has its name and its type in the answer, and this one is read by each sync.
_STATE = (
    "SELECT json_array(mode,hex(epoch),q.seq,version_num)s FROM alembic_version LEFT JOIN sync_state "
    "LEFT JOIN sqlite_sequence q ON q.name='sync_changes'"
)
_JOIN = (
    "INSERT INTO sync_state (id, mode, epoch) SELECT 1, 1, randomblob(16) WHERE NOT EXISTS (SELECT 1 FROM sync_state)"
)
_SPACES = "SELECT token, name, dimension FROM vector_models"


class State(NamedTuple):
    """What a server says of itself.

    Attributes:
        epoch: The identity of its log; None if it has none yet.
        last: The number of the latest change.
    """

    epoch: bytes | None
    last: int


@dataclass
class Page:
    """Changes of a server.

    Attributes:
        changes: The changes, in the order of their numbers.
        vectors: The vectors of the embeddings among them, by space and number.
        end: The number up to which the page has all changes.
        is_last: Whether there are no more.
        last: The number of the latest change, after what was pushed with the request.
        epoch: The identity of the log.
    """

    changes: list[Change] = field(default_factory=list)
    vectors: dict[tuple[str, int], bytes] = field(default_factory=dict)
    end: int = 0
    is_last: bool = True
    last: int = 0
    epoch: bytes | None = None


@dataclass
class Push:
    """What a replica pushes in one request.

    Attributes:
        rows: The rows by kind, without embeddings.
        embeddings: Embeddings with their vectors, by space.
        deleted: Tombstones: kind, namespace, key, and the creation of the row.
        digests: Digests of what was erased.
        erased: The namespaces and ids of what was erased, of which the digests are.
        counts: Totals of counters.
    """

    rows: dict[int, list[Pushed]] = field(default_factory=dict)
    embeddings: dict[VectorSpace, list[tuple[Pushed, bytes]]] = field(default_factory=dict)
    deleted: list[tuple[int, str, str, int | None]] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    erased: list[tuple[str, str]] = field(default_factory=list)
    counts: list[Count] = field(default_factory=list)


@dataclass
class Answer:
    """The answer to a push.

    Attributes:
        page: What was new at the server before the push.
        accepted: The keys of the rows that were stored, by kind and namespace, with the number of a step.
        counts: See `counts.stored_counts`.
    """

    page: Page
    accepted: dict[tuple[int, str, str], int | None]
    counts: list[Sequence[Any]]


class Position(NamedTuple):
    """Where the first sync is: the kind of the rows that it pulls, and the row after which it continues.

    Attributes:
        kind: EPISODE (with steps), PATTERN, EMBEDDING, PLACE, RELATIONSHIP or CHECKPOINT.
        namespace: The namespace of the row.
        key: Of an episode its start, its number and the step; else the columns that name the row.
    """

    kind: int
    namespace: str
    key: tuple[Any, ...]

    @classmethod
    def first(cls, kind: int) -> Position:
        """Return the position before all rows of a kind."""
        if kind == EPISODE:
            return cls(kind, _END, (_LATEST, _LATEST, -1))
        return cls(kind, "", ("",) * len(KINDS[kind].key))

    @property
    def next_kind(self) -> int | None:
        """The kind that is pulled after this one; None after the last."""
        order = (EPISODE, PATTERN, EMBEDDING, PLACE, RELATIONSHIP, CHECKPOINT, None)
        return order[order.index(self.kind) + 1]


class Server:
    """The server of a replica.

    Args:
        executor: Runs the requests.
        writer: The name under which the replica pushes.
        namespaces: Those that are pulled; None for all.
    """

    def __init__(self, executor: Executor, writer: str, namespaces: Sequence[str] | None) -> None:
        self._executor, self._writer = executor, writer
        self._namespaces = None if namespaces is None else json.dumps(list(namespaces))
        self._spaces: dict[str, VectorSpace] = {}
        self._dimensions: dict[str, int] = {}
        self.pace = Pace()
        self.round_trips = self.bytes_sent = self.bytes_received = 0

    def state(self) -> State:
        """Ask for the state of the server.

        Raises:
            SchemaError: Its schema is not this version's.
            ConfigurationError: It is a replica itself.
        """
        try:
            (rows,) = self._request([BatchStep(_STATE)], reads_only=True)
        except SchemaError as error:
            raise _schema_error(None) from error
        if len(rows) != 1:
            raise _schema_error(None)
        return _state_of(rows[0])

    def join(self) -> State:
        """Have the server log its changes from now on, unless it does, and return its state."""
        _, (row,) = self._request([BatchStep(_JOIN), BatchStep(_STATE)])
        return _state_of(row)

    def changes(self, since: int, oldest: int) -> Page:
        """Ask for what has changed after a number, without episodes that began before `oldest`."""
        results = self._request(self._page(since, oldest), reads_only=True)
        return self._with_vectors(self._page_of(results, since))

    def rows(self, position: Position, oldest: int) -> tuple[Page, Position | None]:
        """Ask for existing rows, the newest episodes first; and for the position after them, None at the end."""
        select = _snapshot_of_episodes if position.kind == EPISODE else _snapshot_of
        sizes = {"page_rows": self.pace.of(PAGE_ROWS), "page_bytes": self.pace.of(PAGE_BYTES)}
        step = select(position, self._namespaces, oldest, sizes)
        (rows,) = self._request([step], reads_only=True)
        changes, end = read_rows(rows)
        page, after = Page(changes), None
        if end is not None and end[4]:
            after = Position(position.kind, end[2], tuple(end[3]))
        if after is None and position.next_kind is not None:
            after = Position.first(position.next_kind)
        return self._with_vectors(page), after

    def fetch(self, keys: Sequence[tuple[int, str, str]], episodes: Sequence[tuple[str, str]]) -> Page:
        """Ask for rows by their keys, and for whole episodes with all that is theirs. What is missing is left out.

        Args:
            keys: Kind, namespace and key of each row.
            episodes: Namespace and id of each episode.
        """
        steps = [_fetch(json.dumps(keys))] if keys else []
        steps += [_fetch_episodes(json.dumps(episodes))] if episodes else []
        page = Page()
        for rows in self._request(steps, reads_only=True):
            page.changes += read_rows(rows)[0]
        return self._with_vectors(page)

    def erased_among(self, digests: Sequence[str]) -> set[str]:
        """Return which of these tombstones, in hexadecimal, the server has."""
        (rows,) = self._request([FIND_TOMBSTONES.bind(digests=json.dumps(digests))], reads_only=True)
        return {row[0].lower() for row in rows}

    def push(self, push: Push, since: int, epoch: bytes, oldest: int) -> Answer | None:
        """Push, and pull what was new before; None if the server is no longer the one of this epoch."""
        page_steps = self._page(since, oldest)
        first = [
            BatchStep("UPDATE sync_state SET writer = ? WHERE mode = 1 AND epoch = ?", (self._writer, epoch), 1),
            *page_steps,
        ]
        changes = [*_deletions(push), *self._pushed_rows(push, since), *push_counts(push.counts)]
        keys = [(one.namespace, one.pattern_id, one.session) for one in push.counts]
        counts = [stored_counts(keys)] if keys else []
        last = [BatchStep("UPDATE sync_state SET writer = NULL"), BatchStep(f"SELECT {_LAST}")]
        try:
            results = self._request([*first, *changes, *counts, *last])
        except RowCountError:
            return None
        page = self._page_of(results[1 : 1 + len(page_steps)], since)
        page.last = results[-1][0][0]
        accepted = {}
        for rows in results[len(first) : len(first) + len(changes)]:
            accepted.update({(row[0], row[1], row[2]): row[3] for row in rows})
        return Answer(self._with_vectors(page), accepted, list(results[-3]) if keys else [])

    def space(self, model: str, dimension: int) -> VectorSpace | None:
        """Return where the server has the vectors of a model and dimension; None if it is not known to have any."""
        for token, space in self._spaces.items():
            if space.model == model and self._dimensions[token] == dimension:
                return space
        return None

    def dimension(self, token: str) -> tuple[VectorSpace, int]:
        """Return a space that vectors have come from, and its dimension."""
        return self._spaces[token], self._dimensions[token]

    def learn_spaces(self) -> None:
        """Read which spaces the server has."""
        (rows,) = self._request([BatchStep(_SPACES)], reads_only=True)
        self._dimensions = {token: dimension for token, _, dimension in rows}
        self._spaces = {token: VectorSpace.of(token, name, dimension) for token, name, dimension in rows}

    def _page(self, since: int, oldest: int) -> list[BatchStep]:
        """Return the statements that read a page of changes: the rows, and the vectors of each known space."""
        filters = (self._namespaces is not None, oldest > _BEGINNING)
        namespaces, age = (self._namespaces,) if filters[0] else (), (oldest,) if filters[1] else ()
        rows, size = self.pace.of(PAGE_ROWS), self.pace.of(PAGE_BYTES)
        values = (since, *namespaces, rows, size, rows, *age)
        return [
            BatchStep(_changes(*filters), values),
            *(BatchStep(_vectors_of_changes(space, *filters), values) for space in self._spaces.values()),
        ]

    def _page_of(self, results: Sequence[Sequence[Any]], since: int) -> Page:
        changes, end = read_rows(results[0])
        page = Page(changes, end=since)
        if end is not None:
            page.end, page.last, page.is_last = end[0] or since, end[2], not end[4]
            page.epoch = bytes.fromhex(end[3] or "")
        page.changes.sort()
        for space, rows in zip(self._spaces, results[1:], strict=False):
            page.vectors.update({(space, seq): vector for seq, vector in rows})
        return page

    def _with_vectors(self, page: Page) -> Page:
        """Return the page with the vectors that it lacks."""
        embedding = KINDS[EMBEDDING]
        space, seq = embedding.place("space"), embedding.place("vector_seq")
        missing: dict[str, list[int]] = {}
        for change in page.changes:
            if change.kind == EMBEDDING and change.values is not None:
                key = change.values[space], change.values[seq]
                if key not in page.vectors:
                    missing.setdefault(key[0], []).append(key[1])
        if not missing.keys() <= self._spaces.keys():
            self.learn_spaces()
        tokens = [token for token in missing if token in self._spaces]
        steps = [
            BatchStep(
                f"SELECT seq, vector FROM {self._spaces[token].table} WHERE seq IN (SELECT value FROM json_each(?))",
                (json.dumps(missing[token]),),
            )
            for token in tokens
        ]
        if steps:
            for token, rows in zip(tokens, self._request(steps, reads_only=True), strict=True):
                page.vectors.update({(token, number): vector for number, vector in rows})
        return page

    def _pushed_rows(self, push: Push, since: int) -> Iterator[BatchStep]:
        for kind in (EPISODE, STEP, PATTERN, PLACE, RELATIONSHIP, CHECKPOINT):
            if rows := push.rows.get(kind):
                yield from push_rows(kind, rows, since)
        for space, embeddings in push.embeddings.items():
            yield from push_embeddings(space, embeddings, since)

    def _request(self, steps: Sequence[BatchStep], *, reads_only: bool = False) -> list[Sequence[Any]]:
        self.round_trips += 1
        sent, received = traffic.sent, traffic.received
        try:
            return self._executor.exchange(steps, reads_only=reads_only)
        finally:
            self.bytes_sent += traffic.sent - sent
            self.bytes_received += traffic.received - received


def _state_of(row: Sequence[Any]) -> State:
    mode, epoch, last, revision = json.loads(row[0])
    if revision != HEAD:
        raise _schema_error(revision)
    if mode not in (None, 1):
        raise ConfigurationError("sync_url: this database is a replica of another server; name that one")
    return State(bytes.fromhex(epoch) if epoch else None, last or 0)


def _schema_error(revision: str | None) -> SchemaError:
    if revision is not None and revision > HEAD:
        advice = "nothing was synchronized; upgrade this package, as the program that upgraded the server was"
    else:
        advice = "nothing was changed there; upgrade it with sync(migrate=True), once no older program needs it"
    found = "none" if revision is None else revision
    return SchemaError(
        f"sync_url: the server's schema is {found}, and this version works with {HEAD}: {advice}",
        found=revision,
        expected=HEAD,
    )


def _deletions(push: Push) -> Iterator[BatchStep]:
    """Yield the statements that delete at the server, and leave a tombstone also of what it never had."""
    if push.digests:
        yield ADD_TOMBSTONES.bind(digests=json.dumps([one.hex() for one in push.digests]))
    if push.erased:
        yield from delete_named(push.erased)
        yield from erase_traces(push.erased)
    if not push.deleted:
        return
    # With the digest of the row, or of an embedding's owner: of what is erased, no name is kept.
    tombstones = json.dumps(
        [
            [kind, namespace, key, created_at, digest_of(namespace, key.split(" ")[1] if kind == EMBEDDING else key)]
            for kind, namespace, key, created_at in push.deleted
        ]
    )
    for number in sorted({one[0] for one in push.deleted}):
        kind = KINDS[number]
        created = "" if number == STEP else " AND r.created_at = value ->> 3"
        yield BatchStep(
            f"""DELETE FROM {kind.table} WHERE seq IN (
    SELECT r.seq FROM json_each(?) CROSS JOIN {kind.table} AS r ON {is_named(kind)}{created}
    WHERE value ->> 0 = {number})""",
            (tombstones,),
        )
    # A put that is still on its way must not bring back what is deleted, also if the server never had it.
    yield BatchStep(
        """INSERT INTO sync_changes (writer, namespace, kind, "key", created_at, deleted_at)
SELECT writer, value ->> 1, value ->> 0, value ->> 2, value ->> 3, unixepoch()
FROM sync_state CROSS JOIN json_each(?)
WHERE NOT EXISTS (SELECT 1 FROM sync_changes AS t
    WHERE t.kind = value ->> 0 AND t.namespace = value ->> 1 AND t."key" = value ->> 2)
AND NOT EXISTS (SELECT 1 FROM forgotten WHERE digest = unhex(value ->> 4))""",
        (tombstones,),
    )


_RAW = f"""WITH raw AS MATERIALIZED (
    SELECT *, {bytes_of("kind", "c.seq")} AS bytes FROM (
        SELECT * FROM sync_changes WHERE number > ?{{0}} ORDER BY number LIMIT ? + 1) AS c),
part AS MATERIALIZED (
    SELECT number, kind, namespace, seq, "key", created_at, writer FROM (
        SELECT *, sum(bytes) OVER w - bytes AS before, row_number() OVER w AS n FROM raw WINDOW w AS (ORDER BY number))
    WHERE before < ? AND n <= ?),
page AS MATERIALIZED (SELECT * FROM part{{1}})"""
_OF_NAMESPACES = " AND (namespace IN (SELECT value FROM json_each(?)) OR kind = 6)"
_YOUNG = f"""
    WHERE coalesce(CASE kind
        WHEN {EPISODE} THEN (SELECT started_at FROM episodes WHERE seq = part.seq)
        WHEN {STEP} THEN (SELECT e.started_at FROM steps AS s CROSS JOIN episodes AS e
            ON e.namespace = s.namespace AND e.id = s.episode_id WHERE s.seq = part.seq)
        WHEN {EMBEDDING} THEN (SELECT e.started_at FROM embeddings AS m CROSS JOIN episodes AS e ON e.seq = m.item_seq
            WHERE m.seq = part.seq AND m.owner_type <> 'pattern')
        WHEN {PLACE} THEN (SELECT e.started_at FROM spatiotemporal_index AS p CROSS JOIN episodes AS e
            ON e.seq = p.episode_seq WHERE p.seq = part.seq)
        WHEN {RELATIONSHIP} THEN (SELECT min(e.started_at) FROM relationships AS r CROSS JOIN episodes AS e
            ON e.namespace = r.namespace AND e.id IN (r.from_id, r.to_id) WHERE r.seq = part.seq)
        WHEN {CHECKPOINT} THEN (SELECT e.started_at FROM checkpoints AS c CROSS JOIN episodes AS e
            ON e.namespace = c.namespace AND e.id = c.episode_id WHERE c.seq = part.seq) END >= ?, true)"""


def _raw(is_partial: bool, is_young: bool) -> str:
    return _RAW.format(_OF_NAMESPACES if is_partial else "", _YOUNG if is_young else "")


@lru_cache(maxsize=4)
def _changes(is_partial: bool, is_young: bool) -> str:
    # The end of the page, the latest change, the log, and whether there is more.
    end = f"""json_array((SELECT max(number) FROM part), NULL, {_LAST}, (SELECT hex(epoch) FROM sync_state),
    (SELECT count(*) FROM raw) > (SELECT count(*) FROM part))"""
    return f"{_raw(is_partial, is_young)}\n{select_rows('page', end=(end, ''))}"


@lru_cache(maxsize=256)
def _vectors_of_changes(space: VectorSpace, is_partial: bool, is_young: bool) -> str:
    return f"""{_raw(is_partial, is_young)}
SELECT m.vector_seq, v.vector FROM page AS p CROSS JOIN embeddings AS m ON m.seq = p.seq
CROSS JOIN {space.table} AS v ON v.seq = m.vector_seq WHERE p.kind = {EMBEDDING} AND m.space = '{space.token}'"""


_LIKE_CHANGE = 'NULL AS namespace, NULL AS "key", NULL AS created_at, NULL AS writer'


def _snapshot_of_episodes(position: Position, namespaces: str | None, oldest: int, sizes: dict[str, int]) -> BatchStep:
    """Return the statement of the next page of episodes and steps, the newest first in each namespace."""
    started_at, seq, step = position.key
    of = "" if namespaces is None else "AND e.namespace IN (SELECT value FROM json_each(:namespaces))"
    end = f"""json_array(0, NULL, namespace, json_array(started_at, seq, step),
    (SELECT count(*) FROM running) > (SELECT count(*) FROM page) OR (SELECT count(*) FROM heads) = {_HEADS})"""
    last = """FROM (SELECT h.*, max(p.step, 0) AS step FROM page AS p CROSS JOIN heads AS h ON h.place = p.place
    ORDER BY p.place DESC, p.step DESC LIMIT 1)"""
    text = f"""WITH heads AS MATERIALIZED (
    SELECT e.seq, e.namespace, e.id, e.started_at,
        row_number() OVER (ORDER BY e.namespace DESC, e.started_at DESC, e.seq DESC) AS place
    FROM episodes AS e WHERE (e.namespace, e.started_at) <= (:namespace, :started_at) AND e.started_at >= :oldest
        AND NOT (e.namespace = :namespace AND e.started_at = :started_at AND e.seq > :seq) {of}
    ORDER BY e.namespace DESC, e.started_at DESC, e.seq DESC LIMIT {_HEADS}),
parts AS (
    SELECT place, -1 AS step, {EPISODE} AS kind, seq FROM heads WHERE seq <> :seq OR :step < 0
    UNION ALL
    SELECT h.place, s.step_number, {STEP}, s.seq FROM heads AS h
    CROSS JOIN steps AS s ON s.namespace = h.namespace AND s.episode_id = h.id
    WHERE h.seq <> :seq OR s.step_number > :step),
running AS MATERIALIZED (
    SELECT *, sum(bytes) OVER w - bytes AS before, row_number() OVER w AS n
    FROM (SELECT *, {bytes_of("kind", "parts.seq")} AS bytes FROM parts)
    WINDOW w AS (ORDER BY place, step)),
page AS MATERIALIZED (
    SELECT 0 AS number, kind, seq, {_LIKE_CHANGE}, place, step FROM running
    WHERE before < :page_bytes AND n <= :page_rows)
{select_rows("page", (EPISODE, STEP), tombstones=False, end=(end, last))}"""
    values = {"namespace": position.namespace, "started_at": started_at, "seq": seq, "step": step, "oldest": oldest}
    return _template(text).bind(**values, **sizes, namespaces=namespaces)


def _snapshot_of(
    position: Position,
    namespaces: str | None,
    oldest: int,  # noqa: ARG001 - see `rows`
    sizes: dict[str, int],
) -> BatchStep:
    """Return the statement of the next page of another kind, in the order of their keys."""
    kind = KINDS[position.kind]
    key = ", ".join(kind.key)
    marks = ", ".join(f":key{number}" for number in range(len(kind.key)))
    of = "" if namespaces is None else "AND namespace IN (SELECT value FROM json_each(:namespaces))"
    end = f"""json_array(0, NULL, namespace, json_array({key}),
    (SELECT count(*) FROM running) > (SELECT count(*) FROM page))"""
    last = "FROM running WHERE n = (SELECT max(n) FROM page)"
    text = f"""WITH raw AS MATERIALIZED (
    SELECT seq, namespace, {key}, {bytes_of(str(kind.number), "r.seq")} AS bytes
    FROM (SELECT * FROM {kind.table} WHERE (namespace, {key}) > (:namespace, {marks}) {of}
        ORDER BY namespace, {key} LIMIT :page_rows + 1) AS r),
running AS MATERIALIZED (
    SELECT *, sum(bytes) OVER w - bytes AS before, row_number() OVER w AS n
    FROM raw WINDOW w AS (ORDER BY namespace, {key})),
page AS MATERIALIZED (
    SELECT 0 AS number, {kind.number} AS kind, seq, {_LIKE_CHANGE}, n FROM running
    WHERE before < :page_bytes AND n <= :page_rows)
{select_rows("page", (kind.number,), tombstones=False, end=(end, last))}"""
    values = {f"key{number}": value for number, value in enumerate(position.key)}
    return _template(text).bind(namespace=position.namespace, namespaces=namespaces, **values, **sizes)


def _fetch(keys: str) -> BatchStep:
    """Return the statement that reads rows by their keys: a JSON array of [kind, namespace, key]."""
    parts = [
        f"SELECT {kind.number} AS kind, r.seq FROM json_each(?) CROSS JOIN {kind.table} AS r ON {is_named(kind)}\n"
        f"    WHERE value ->> 0 = {kind.number}"
        for kind in KINDS.values()
    ]
    sql = f"""WITH keyed AS MATERIALIZED ({" UNION ALL ".join(parts)}),
page AS MATERIALIZED (
    SELECT 0 AS number, k.kind, k.seq, NULL AS namespace, NULL AS "key", NULL AS created_at, c.writer
    FROM keyed AS k LEFT JOIN sync_changes AS c ON c.kind = k.kind AND c.seq = k.seq)
{select_rows("page", tombstones=False)}"""
    return BatchStep(sql, (keys,) * len(parts))


def _fetch_episodes(ids: str) -> BatchStep:
    """Return the statement that reads whole episodes by their names: a JSON array of [namespace, id]."""
    sql = f"""WITH heads AS MATERIALIZED (
    SELECT e.seq, e.namespace, e.id FROM json_each(?) CROSS JOIN episodes AS e
    ON e.namespace = value ->> 0 AND e.id = value ->> 1),
page AS MATERIALIZED (
    SELECT 0 AS number, kind, seq, {_LIKE_CHANGE} FROM (
        SELECT {EPISODE} AS kind, seq FROM heads
        UNION ALL SELECT {STEP}, s.seq FROM heads AS h
            CROSS JOIN steps AS s ON s.namespace = h.namespace AND s.episode_id = h.id
        UNION ALL SELECT {EMBEDDING}, m.seq FROM heads AS h CROSS JOIN embeddings AS m ON m.item_seq = h.seq
            AND m.owner_type IN ('episode', 'step')
        UNION ALL SELECT {PLACE}, p.seq FROM heads AS h CROSS JOIN spatiotemporal_index AS p ON p.episode_seq = h.seq
        UNION SELECT {RELATIONSHIP}, r.seq FROM heads AS h CROSS JOIN relationships AS r
            ON r.namespace = h.namespace AND r.from_id = h.id
        UNION SELECT {RELATIONSHIP}, r.seq FROM heads AS h CROSS JOIN relationships AS r
            ON r.namespace = h.namespace AND r.to_id = h.id
        UNION ALL SELECT {CHECKPOINT}, c.seq FROM heads AS h CROSS JOIN checkpoints AS c
            ON c.namespace = h.namespace AND c.episode_id = h.id))
{select_rows("page", (EPISODE, STEP, EMBEDDING, PLACE, RELATIONSHIP, CHECKPOINT), tombstones=False)}"""
    return BatchStep(sql, (ids,))


@lru_cache(maxsize=16)
def _template(text: str) -> SqlTemplate:
    return SqlTemplate(text)
