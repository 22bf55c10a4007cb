"""How a search is planned: one statement that finds the best items, whatever the filters. Runs nothing.

The statement decides by itself, so a search is one round trip. It takes the candidates of an index (see `sources`) if
that is likely to have enough for which the filters hold: there are many vectors, few of them were removed, and of a
sample of them enough pass. What is not in the index yet is compared one by one. If the index had too few after all, or
if it was not taken, all vectors for which the filters hold are compared: what is not in the index counts for nothing
here, as it says nothing of what the index left out. Every hit's similarity is exact.

An index in this process is beside the statement, and asking twice costs no round trip: see `Attempt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memory_storage.schema.vector_tables import FEW, Space

from .candidates import DISKANN, OWN_SPACE, VECTOR, Source, last_seq

CANDIDATES_EACH = 2.5
"""So many candidates an index must have for each item that is wanted, or its recall falls."""

_BROAD = 4  # times as many items as are wanted are looked at, where nearly all of them pass

ENOUGH = 1.3
"""So many of the nearest few must be left for each item that is wanted."""

_SURE = 20  # of so many drawn one must pass at the least: fewer may be an accident

_OTHERS = """(EXISTS (SELECT 1 FROM embeddings WHERE namespace < :namespace)
        OR EXISTS (SELECT 1 FROM embeddings WHERE namespace > :namespace))"""

_DISTANCE = f"vector_distance_cos(v.vector, {VECTOR}) AS distance"


def _similarity(distance: str) -> str:
    return f"max(-1.0, min(1.0, 1 - min({distance}))) AS similarity"


_SIMILARITY = _similarity("distance")

FACTS = 9
"""How many columns `Search.facts` is."""

_VECTORS = "(SELECT vectors FROM vector_models WHERE token = :space)"

PLACE = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)."""


@dataclass(frozen=True)
class Items:
    """What is searched: a table, and what belongs to its rows."""

    table: str
    owners: str  # whose vectors are found as its rows
    words: str  # SQL that finds its rows by words: (seq, rank), the lower the better
    snippet: str  # SQL for where the words are in a row of `found`
    moment: str
    reward: str
    put_away: str = ""  # SQL for whether some of its rows are found only by those who ask for them


EPISODES = Items(
    table="episodes",
    owners="'episode', 'step'",
    words="""
    SELECT rowid AS seq, bm25(episodes_fts, 2.0, 1.0, 1.0, 1.5) AS rank FROM episodes_fts
        WHERE episodes_fts MATCH :words
    UNION ALL
    SELECT e.seq, bm25(steps_fts) FROM steps_fts CROSS JOIN steps AS s ON s.seq = steps_fts.rowid
        CROSS JOIN episodes AS e ON e.namespace = s.namespace AND e.id = s.episode_id
    WHERE steps_fts MATCH :words AND s.namespace = :namespace""",
    snippet="""coalesce(
    (SELECT snippet(episodes_fts, -1, '[', ']', '…', 16) FROM episodes_fts
        WHERE episodes_fts MATCH :words AND rowid = found.seq),
    (SELECT snippet(steps_fts, -1, '[', ']', '…', 16) FROM episodes AS e
        CROSS JOIN steps AS s ON s.namespace = e.namespace AND s.episode_id = e.id
        CROSS JOIN steps_fts ON steps_fts.rowid = s.seq
        WHERE e.seq = found.seq AND steps_fts MATCH :words ORDER BY s.step_number LIMIT 1))""",
    moment="started_at",
    reward="reward",
    put_away="""OR EXISTS (SELECT 1 FROM episodes INDEXED BY ix_episodes_archived
            WHERE namespace = :namespace AND archived_at IS NOT NULL)""",
)
PATTERNS = Items(
    table="patterns",
    owners="'pattern'",
    words="""
    SELECT rowid AS seq, bm25(patterns_fts, 2.0, 1.0, 1.5) AS rank FROM patterns_fts WHERE patterns_fts MATCH :words""",
    snippet="""(SELECT snippet(patterns_fts, -1, '[', ']', '…', 16) FROM patterns_fts
    WHERE patterns_fts MATCH :words AND rowid = found.seq)""",
    moment="updated_at",
    reward="success_rate",
)


@dataclass(frozen=True)
class Filters:
    """The same conditions in two shapes: for rows that are at hand, and to find rows."""

    at_hand: tuple[str, ...] = ()
    finding: tuple[str, ...] = ()
    are_broad: bool = True  # nothing but the namespace, and what is put away
    find_rows: bool = False  # one of `finding` has the rows' numbers: they are looked up, and no index is walked


_OWN_STATE = f"(SELECT token || ':' || dimension FROM vector_models WHERE token = {OWN_SPACE})"

NO_SPACE = Space("")
"""Of a search by vector in a namespace that has no vectors by the model."""

Attempt = Literal["all", "few", "scout", "index", "none"]
"""What a statement does: "all" decides by itself, and always finds what there is.

To plan that takes longer than to do it, where an index is in this process; so who searches may try less first, and
more if nothing is found. "few" looks at the nearest few candidates, "index" at all of them; they find nothing if those
are too few. "scout" compares all vectors for which the filters hold, but finds nothing where an index is the better
way: to ask that for many candidates is worth it only then. "none" is for a namespace without vectors by the model: it
mentions no table of vectors, since there may be none.
"""


@dataclass(frozen=True)
class Search:
    """The SQL of one kind of search. `found` is a common table of the best."""

    items: Items
    filters: Filters
    space: Space | None = None  # by vector
    source: Source = DISKANN
    attempt: Attempt = "all"
    has_words: bool = False
    has_floor: bool = False
    is_continued: bool = False
    is_followed: bool = False  # an index outside of the database has to know how far behind it is

    def facts(self, snippet_if: str = "true") -> str:
        """SQL for what is known of a row of `found`, beside its score and its place."""
        snippet = f"CASE WHEN {snippet_if} THEN {self.items.snippet} END" if self.has_words else "NULL"
        state = f"json_array({last_seq(self.space)}, {_VECTORS})" if self.space and self.is_followed else "NULL"
        last = f"(SELECT max(seq) FROM {self.items.table})"
        return f"found.similarity, by_vector, by_text, by_recency, by_reward, found.plan, {snippet}, {state}, {last}"

    def own_space(self, columns: int) -> str:
        """SQL for one more row, with `columns` columns after the facts: NULL, but for the space of the namespace.

        It is there whatever is found, and is told by its score, which is NULL.
        """
        if self.space is None or self.space == NO_SPACE:
            return ""
        return f"UNION ALL SELECT {'NULL, ' * (FACTS + 1)}{_OWN_STATE}{', NULL' * columns}"

    def common_tables(self) -> str:
        """Common table expressions; the last one is `found`. Name it once: the engine plans all of it each time."""
        parts = [*self._by_vector(), *self._by_words()]
        parts += self._fused() if self.has_words else self._nearest()
        return "WITH RECURSIVE " + ",\n".join(parts)

    def _owner(self) -> str:
        return f"m.model = :model AND +m.owner_type IN ({self.items.owners})"

    def _not_shown(self) -> str:
        return "seq NOT IN (SELECT value FROM json_each(:shown))" if self.is_continued else "true"

    def _by_vector(self) -> list[str]:
        if self.space is None:
            return []
        if self.attempt == "none":
            return ["similar (seq, similarity, plan) AS NOT MATERIALIZED (SELECT 0, 0.0, '' WHERE false)"]
        if self.attempt == "few":
            return [self._among_few(self.space)]
        ways = ["query (vector) AS MATERIALIZED (SELECT :vector)", *self._sample(), self._way()]  # it is sent once
        if self.attempt == "scout":
            needed = "SELECT 'exact' AS plan FROM way WHERE way = 'exact'"
            return [*ways, self._far(self.space, needed), f"similar AS NOT MATERIALIZED ({self._of_far()})"]
        return [*ways, *self._candidates(self.space), *self._similar(self.space)]

    def _among_few(self, space: Space) -> str:
        """For an index outside of the database, and no filters to speak of: what is near is likely to pass."""
        return f"""similar AS NOT MATERIALIZED (
    SELECT seq, similarity, '{self.source.plan}' AS plan
    FROM (SELECT m.item_seq AS seq, {_similarity("vector_distance_cos(v.vector, :vector)")},
            sum(max(known)) OVER () AS passing
        FROM (SELECT value AS seq, 1 AS known FROM json_each(:near)
            UNION ALL SELECT seq, 0 FROM {space.table} WHERE seq > :mark AND seq <= :mark + {FEW}) AS candidates
        CROSS JOIN {space.table} AS v ON v.seq = candidates.seq
        CROSS JOIN embeddings AS m ON m.vector_seq = v.seq AND m.namespace = :namespace AND {self._owner()}
        CROSS JOIN {self.items.table} AS i ON i.seq = m.item_seq
        WHERE {" AND ".join(self._conditions(self.filters.at_hand))} GROUP BY m.item_seq)
    WHERE passing >= :reach * {ENOUGH} AND {last_seq(space)} <= :mark + {FEW}
        {"AND similarity >= :floor" if self.has_floor else ""})"""

    def _candidates(self, space: Space) -> list[str]:
        where = " AND ".join(self._conditions(self.filters.at_hand))
        filtered = "" if self.filters.are_broad else f"AND sum(candidates) OVER () >= :reach * {CANDIDATES_EACH}"
        return [
            f"candidates (seq, known) AS MATERIALIZED ({self.source.candidates(space, self._depth())})",
            f"""near AS MATERIALIZED (
    SELECT m.item_seq AS seq, known, {_DISTANCE} FROM candidates CROSS JOIN {space.table} AS v ON v.seq = candidates.seq
    CROSS JOIN embeddings AS m ON m.vector_seq = v.seq AND m.namespace = :namespace AND {self._owner()})""",
            f"""compared AS MATERIALIZED (
    SELECT seq, {_SIMILARITY}, sum(known) AS candidates, sum(sum(known)) OVER () AS known FROM near GROUP BY seq
    {f"ORDER BY similarity DESC, seq LIMIT :reach * {_BROAD}" if self.filters.are_broad else ""})""",
            f"""passing AS MATERIALIZED (
    SELECT compared.seq, similarity, known >= :reach AND count(*) OVER () >= :reach {filtered} AS are_enough
    FROM compared CROSS JOIN {self.items.table} AS i ON i.seq = compared.seq WHERE {where})""",
        ]

    def _similar(self, space: Space) -> list[str]:
        """What the index has, if that is enough; else all."""
        similar = f"""
    SELECT seq, similarity, '{self.source.plan}' AS plan FROM passing WHERE are_enough
        {"AND similarity >= :floor" if self.has_floor else ""}"""
        if self.attempt == "index":
            return [f"similar AS NOT MATERIALIZED ({similar})"]
        needed = f"""
        SELECT CASE way WHEN 'index' THEN '{self.source.plan}, then exact' ELSE 'exact' END AS plan FROM way
        WHERE NOT EXISTS (SELECT 1 FROM passing WHERE are_enough)"""
        return [
            self._far(space, needed),
            f"similar AS NOT MATERIALIZED ({similar}\n    UNION ALL{self._of_far()})",
        ]

    def _far(self, space: Space, needed: str) -> str:
        """All for which the filters hold, if that is needed."""
        return f"""far AS NOT MATERIALIZED (
    SELECT m.item_seq AS seq, {_DISTANCE}, needed.plan
    FROM ({needed}) AS needed
    CROSS JOIN {self.items.table} AS i {"NOT INDEXED" if self.filters.find_rows else ""}
    CROSS JOIN embeddings AS m ON m.item_seq = i.seq AND {self._owner()}
    CROSS JOIN {space.table} AS v ON v.seq = m.vector_seq
    WHERE {" AND ".join(self._conditions(self.filters.finding))}
    LIMIT -1)"""  # it is not merged into what follows: vectors would be sorted, in place of their distances

    def _of_far(self) -> str:
        floor = "HAVING similarity >= :floor" if self.has_floor else ""
        return f"""
    SELECT seq, {_SIMILARITY}, plan FROM far GROUP BY seq {floor}"""

    def _depth(self) -> str:
        """How many candidates are asked of the index: all it has, unless nearly each one is an item that passes."""
        if not self.filters.are_broad:
            return str(self.source.most)
        return f"""CASE WHEN {_OTHERS}
        OR EXISTS (SELECT 1 FROM embeddings WHERE namespace = :namespace AND model = :model AND owner_type = 'step')
        {self.items.put_away} THEN {self.source.most} ELSE :reach * {self.source.over} END"""

    def _sample(self) -> list[str]:
        """How many of the vectors drawn at random have an item that passes the filters."""
        if self.space is None or self.filters.are_broad:
            return []
        table = self.space.table
        drawn = f"1 + abs(random() % (SELECT max(seq) FROM {table}))"
        return [
            f"""draws (number, at) AS (
    SELECT 1, {drawn} WHERE :mode = 'auto' AND :reach <= {self.source.deepest}
    UNION ALL SELECT number + 1, {drawn} FROM draws WHERE number < {self.source.sample})""",
            f"""drawn AS MATERIALIZED (
    SELECT count(*) AS passing FROM draws WHERE EXISTS (
        SELECT 1 FROM embeddings AS m CROSS JOIN {self.items.table} AS i ON i.seq = m.item_seq
        WHERE m.model = :model AND m.vector_seq = (SELECT seq FROM {table} WHERE seq >= draws.at ORDER BY seq LIMIT 1)
            AND m.owner_type IN ({self.items.owners}) AND {" AND ".join(self._conditions(self.filters.at_hand))}))""",
        ]

    def _way(self) -> str:
        # What of the candidates will pass is what of the sample did: at least CANDIDATES_EACH for each item wanted.
        if self.space is None:
            return ""
        source = self.source
        many = f"EXISTS (SELECT 1 FROM embeddings WHERE namespace = :namespace AND model = :model LIMIT 1 OFFSET {FEW})"
        share = f"passing * {source.asked} >= :reach * {CANDIDATES_EACH * source.sample}"
        sampled = f"(SELECT passing * {_SURE} >= {source.sample} AND {share} FROM drawn)"
        enough = f"(vectors > {FEW} AND NOT {_OTHERS} OR {many})" if self.filters.are_broad else sampled
        return f"""way AS MATERIALIZED (
    SELECT CASE WHEN :mode <> 'auto' THEN :mode
        WHEN :reach <= {source.deepest} AND {source.is_useful(self.space)} AND {enough} THEN 'index'
        ELSE 'exact' END AS way
    FROM vector_models WHERE token = :space)"""

    def _by_words(self) -> list[str]:
        if not self.has_words:
            return []
        return [
            f"matched AS MATERIALIZED ({self.items.words})",  # bm25() works where the words are matched, nowhere else
            f"""worded AS MATERIALIZED (
    SELECT w.seq, min(w.rank) AS rank FROM matched AS w
    CROSS JOIN {self.items.table} AS i ON i.seq = w.seq
    WHERE {" AND ".join(self._conditions(self.filters.at_hand))} GROUP BY w.seq)""",
        ]

    def _nearest(self) -> list[str]:
        return [
            f"""found AS MATERIALIZED (
    SELECT similarity AS score, seq, similarity, NULL AS by_vector, NULL AS by_text, NULL AS by_recency,
        NULL AS by_reward, plan
    FROM similar WHERE {self._not_shown()} ORDER BY similarity DESC, seq LIMIT :limit)"""
        ]

    def _fused(self) -> list[str]:
        """By reciprocal ranks: a first place is worth its weight, a place further down 61 / (60 + place) of it."""
        places = f"""
    SELECT seq, NULL AS similarity, '' AS plan, 0.0 AS by_vector,
        :text_weight * {PLACE + 1} / ({PLACE} + row_number() OVER (ORDER BY rank, seq)) AS by_text FROM (
            SELECT seq, rank FROM worded ORDER BY rank, seq {"LIMIT :depth" if self.space else ""})"""
        if self.space is not None:
            places += f"""
    UNION ALL
    SELECT seq, similarity, plan, :vector_weight * {PLACE + 1} / ({PLACE} + row_number() OVER (
            ORDER BY similarity DESC, seq)), 0.0 FROM (
            SELECT seq, similarity, plan FROM similar ORDER BY similarity DESC, seq LIMIT :depth)"""
        age = f"max(0, :now - i.{self.items.moment}) / 1e6"
        return [
            f"places AS MATERIALIZED ({places})",
            f"""parts AS MATERIALIZED (
    SELECT p.seq, max(p.similarity) AS similarity, max(max(p.plan)) OVER () AS plan,
        sum(p.by_vector) AS by_vector, sum(p.by_text) AS by_text,
        :recency_weight / (1 + {age} / :half_life) AS by_recency,
        :reward_weight * min(1.0, max(0.0, coalesce(i.{self.items.reward}, 0.0))) AS by_reward
    FROM places AS p CROSS JOIN {self.items.table} AS i ON i.seq = p.seq GROUP BY p.seq)""",
            f"""found AS MATERIALIZED (
    SELECT score, seq, similarity, by_vector, by_text, by_recency, by_reward, plan
    FROM (SELECT *, by_vector + by_text + by_recency + by_reward AS score FROM parts)
    WHERE {self._not_shown()} ORDER BY score DESC, seq LIMIT :limit)""",
        ]

    def _conditions(self, conditions: tuple[str, ...]) -> tuple[str, ...]:
        # What was written after the first page is left out here, before candidates are counted. `+`: by no index.
        as_at_first = ("+i.seq <= :last_seq",) if self.is_continued else ()
        return ("i.namespace = :namespace", *as_at_first, *conditions)
