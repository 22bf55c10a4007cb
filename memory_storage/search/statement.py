"""The SQL of a search: one statement that returns the best k rows under any filter.

The statement chooses its own plan, so a search costs one round trip. It uses the candidates of an index (see
`candidates`) if the index is likely to hold enough rows that pass the filters: there are many vectors, few were removed
from the index, and enough of a random sample pass. Rows that are not in the index yet are compared exactly. If too few
candidates pass after all, or the index was not used, all vectors whose rows pass the filters are compared (an exact
scan). Rows outside the index do not count as candidates: they say nothing about what the index missed. The similarity
of every hit is exact.

An in-process index lies outside the statement, and a second attempt costs no round trip: see `Attempt`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from memory_storage.schema.vector_tables import EXACT_SCAN_MAX, VectorSpace
from memory_storage.sql.indexing import NAMESPACE_BITS, PART_BITS, PARTS, RECENT, SEQ

from .candidates import EXACT, OWN_SPACE, VECTOR, Source, last_seq

CANDIDATES_PER_RESULT = 2.5
"""Candidates that an index must have for each requested row; with fewer, its recall falls."""

_OVERSCAN = 4  # rows examined for each requested row, where nearly all rows pass the filters

SHORTLIST_FACTOR = 1.3
"""Candidates of the shortlist that must pass the filters for each requested row."""

_MIN_SAMPLE_RATIO = 20  # at least one in 20 sampled vectors must pass; a smaller share may be chance

_OTHERS = """(EXISTS (SELECT 1 FROM embeddings WHERE namespace < :namespace)
        OR EXISTS (SELECT 1 FROM embeddings WHERE namespace > :namespace))"""

_DISTANCE = f"vector_distance_cos(v.vector, {VECTOR}) AS distance"


def _similarity(distance: str) -> str:
    return f"max(-1.0, min(1.0, 1 - min({distance}))) AS similarity"


_SIMILARITY = _similarity("distance")

N_FACT_COLUMNS = 9
"""The number of columns of `Search.facts`."""

_VECTORS = "(SELECT vectors FROM vector_models WHERE token = :space)"

RRF_K = 60
"""The constant of reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009)."""


TEXT_DEPTH = 4_000
"""Texts of the namespace, the newest, that are ranked for a search of words; fewer for each if there are many words."""

MIN_TEXT_DEPTH = 200
"""The least of them for each word."""

NEWEST = "the newest texts with a word"
"""In the plan of a search that has not ranked all texts with one of its words."""


@dataclass(frozen=True)
class SearchTarget:
    """A searched table: whose vectors lead to its rows, and its full text."""

    table: str
    owners: str  # the owner types whose vectors lead to rows of the table, as an SQL list
    full_text: str  # the full-text index
    texts: str  # the table of its texts; also the column of `namespaces` with their number
    titles: str  # the columns of the index whose words count twice
    timestamp_column: str
    reward_column: str
    has_recent: bool = False  # whether connections may have a temporary index of texts that are not indexed yet
    archived_exists: str = ""  # SQL for whether the namespace has archived rows, which a search leaves out by default


EPISODES = SearchTarget(
    table="episodes",
    owners="'episode', 'step'",
    full_text="episode_words",
    texts="episode_texts",
    titles="description tags",
    timestamp_column="started_at",
    reward_column="reward",
    has_recent=True,
    archived_exists="""OR EXISTS (SELECT 1 FROM episodes INDEXED BY ix_episodes_archived
            WHERE namespace = :namespace AND archived_at IS NOT NULL)""",
)
PATTERNS = SearchTarget(
    table="patterns",
    owners="'pattern'",
    full_text="pattern_words",
    texts="pattern_texts",
    titles="description tags",
    timestamp_column="updated_at",
    reward_column="success_rate",
)


@dataclass(frozen=True)
class Filters:
    """The conditions of a search, compiled in two shapes: to test a given row, and to find rows by an index."""

    at_hand: tuple[str, ...] = ()
    finding: tuple[str, ...] = ()
    are_broad: bool = True  # only the namespace and `archived`: nearly all rows pass
    find_rows: bool = False  # one of `finding` yields row numbers: rows are looked up by them, no index is scanned


_ANY_WORD = "(SELECT group_concat(match, ' OR ') FROM terms)"
_SNIPPET = "snippet({0}, -1, '[', ']', '…', 16)"
_FEW_MATCHES, _FEW_CONDITIONS = 1_000, 20
_OWN_STATE = f"(SELECT token || ':' || dimension FROM vector_models WHERE token = {OWN_SPACE})"

NO_SPACE = VectorSpace("")
"""The vector space of a search in a namespace that has no vectors of the model."""

Attempt = Literal["full", "shortlist", "probe_exact", "index_only", "none"]
"""What one statement tries. Planning the full statement takes longer than running it where an in-process index has
candidates, so a search may try less first, and more if that returns no row.

* "full": decides by itself between the index and an exact scan; always finds what there is.
* "shortlist": the nearest few candidates; returns nothing if too few of them pass the filters.
* "index_only": all candidates of the index; returns nothing if too few pass.
* "probe_exact": an exact scan of the rows that pass the filters; returns nothing where the sample favours the index,
  since asking the index for many candidates is worth it only then.
* "none": the namespace has no vectors of the model; the statement names no vector table, which may not exist.
"""


@dataclass(frozen=True)
class Search:
    """The SQL of one kind of search. Its common table `found` holds the best rows."""

    target: SearchTarget
    filters: Filters
    space: VectorSpace | None = None  # by vector
    source: Source = EXACT
    attempt: Attempt = "full"
    has_words: bool = False
    has_recent: bool = False  # words are also looked for in the temporary index of the connection
    has_floor: bool = False
    is_continued: bool = False  # it has a cursor: hits of earlier pages are left out
    reports_state: bool = False  # an in-process index needs to know how many rows it is behind

    def facts(self, snippet_if: str = "true") -> str:
        """Return SQL for the `N_FACT_COLUMNS` columns that describe a row of `found`, after its score and number.

        Args:
            snippet_if: SQL condition under which the matching passage is computed.
        """
        snippet = f"CASE WHEN {snippet_if} THEN {self._snippet()} END" if self.has_words else "NULL"
        state = f"json_array({last_seq(self.space)}, {_VECTORS})" if self.space and self.reports_state else "NULL"
        last = f"(SELECT max(seq) FROM {self.target.table})"
        return f"found.similarity, by_vector, by_text, by_recency, by_reward, found.plan, {snippet}, {state}, {last}"

    def about_search(self, columns: int) -> str:
        """Return SQL for one more row, with a NULL score, about the search itself.

        It says whether not all texts with one of the words were ranked, and names the namespace's own vector space.
        The row is present even if nothing is found: there may be rows of older texts, or vectors in another space.

        Args:
            columns: The number of columns after the facts, filled with NULL.
        """
        is_cut = "(SELECT max(is_cut) FROM frequencies)" if self.has_words else "NULL"
        own = "NULL" if self.space is None or self.space == NO_SPACE else _OWN_STATE
        if is_cut == own:
            return ""
        return f"UNION ALL SELECT NULL, {is_cut}, {'NULL, ' * (N_FACT_COLUMNS - 1)}{own}{', NULL' * columns}"

    def common_tables(self) -> str:
        """Return the common table expressions. Name `found` once: the engine plans it at each mention."""
        parts = [*self._by_vector(), *self._by_text()]
        parts += self._ranked_by_fusion() if self.has_words else self._ranked_by_similarity()
        if self._has_passages:
            parts.append(self._passages())
        return "WITH RECURSIVE " + ",\n".join(parts)

    def _owner(self) -> str:
        return f"m.model = :model AND +m.owner_type IN ({self.target.owners})"

    def _not_shown(self) -> str:
        return "seq NOT IN (SELECT value FROM json_each(:shown))" if self.is_continued else "true"

    def _by_vector(self) -> list[str]:
        if self.space is None:
            return []
        if self.attempt == "none":
            return ["similar (seq, similarity, plan) AS NOT MATERIALIZED (SELECT 0, 0.0, '' WHERE false)"]
        if self.attempt == "shortlist":
            return [self._shortlisted(self.space)]
        # The vector is bound once, however often it is compared: it may have 12 kB.
        tables = ["query (vector) AS MATERIALIZED (SELECT :vector)", *self._sample(), self._strategy()]
        if self.attempt == "probe_exact":
            needed = "SELECT 'exact' AS plan FROM strategy WHERE strategy = 'exact'"
            return [
                *tables,
                self._exact_scan(self.space, needed),
                f"similar AS NOT MATERIALIZED ({self._from_exact_scan()})",
            ]
        return [*tables, *self._candidates(self.space), *self._similar(self.space)]

    def _shortlisted(self, space: VectorSpace) -> str:
        """Return SQL for the shortlist of an in-process index; for broad filters, which nearly all neighbors pass."""
        # `passing` counts only rows that the index knows (`known`): those of the tail say nothing about its recall.
        # A longer tail than an exact scan is worth returns no row, and the next attempt decides.
        tail = f"seq > :mark AND seq <= :mark + {EXACT_SCAN_MAX}"  # rows after the index's mark
        return f"""similar AS NOT MATERIALIZED (
    SELECT seq, similarity, '{self.source.plan}' AS plan
    FROM (SELECT m.item_seq AS seq, {_similarity("vector_distance_cos(v.vector, :vector)")},
            sum(max(known)) OVER () AS passing
        FROM (SELECT value AS seq, 1 AS known FROM json_each(:neighbors)
            UNION ALL SELECT seq, 0 FROM {space.table} WHERE {tail}) AS candidates
        CROSS JOIN {space.table} AS v ON v.seq = candidates.seq
        CROSS JOIN embeddings AS m ON m.vector_seq = v.seq AND m.namespace = :namespace AND {self._owner()}
        CROSS JOIN {self.target.table} AS i ON i.seq = m.item_seq
        WHERE {" AND ".join(self._conditions(self.filters.at_hand))} GROUP BY m.item_seq)
    WHERE passing >= :reach * {SHORTLIST_FACTOR} AND {last_seq(space)} <= :mark + {EXACT_SCAN_MAX}
        {"AND similarity >= :floor" if self.has_floor else ""})"""

    def _candidates(self, space: VectorSpace) -> list[str]:
        # Each step is materialized, so that SQLite cannot merge it into the next and run the index query again for each
        # row. Similarities are computed before the filters are tested: a distance is cheaper than most conditions.
        # With broad filters only the best rows are filtered at all.
        where = " AND ".join(self._conditions(self.filters.at_hand))
        min_candidates = (
            "" if self.filters.are_broad else f"AND sum(candidates) OVER () >= :reach * {CANDIDATES_PER_RESULT}"
        )
        return [
            f"candidates (seq, known) AS MATERIALIZED ({self.source.candidates(space, self._depth())})",
            f"""candidate_rows AS MATERIALIZED (
    SELECT m.item_seq AS seq, known, {_DISTANCE} FROM candidates CROSS JOIN {space.table} AS v ON v.seq = candidates.seq
    CROSS JOIN embeddings AS m ON m.vector_seq = v.seq AND m.namespace = :namespace AND {self._owner()})""",
            f"""compared AS MATERIALIZED (
    SELECT seq, {_SIMILARITY}, sum(known) AS candidates, sum(sum(known)) OVER () AS known FROM candidate_rows
    GROUP BY seq {f"ORDER BY similarity DESC, seq LIMIT :reach * {_OVERSCAN}" if self.filters.are_broad else ""})""",
            f"""filtered AS MATERIALIZED (
    SELECT compared.seq, similarity, known >= :reach AND count(*) OVER () >= :reach {min_candidates} AS are_enough
    FROM compared CROSS JOIN {self.target.table} AS i ON i.seq = compared.seq WHERE {where})""",
        ]

    def _similar(self, space: VectorSpace) -> list[str]:
        """Return SQL for the index's rows if enough pass, else for those of an exact scan."""
        similar = f"""
    SELECT seq, similarity, '{self.source.plan}' AS plan FROM filtered WHERE are_enough
        {"AND similarity >= :floor" if self.has_floor else ""}"""
        if self.attempt == "index_only":
            return [f"similar AS NOT MATERIALIZED ({similar})"]
        # The exact scan joins `needed`, which is empty if the index had enough: then it reads no row.
        needed = f"""
        SELECT CASE strategy WHEN 'index' THEN '{self.source.plan}, then exact' ELSE 'exact' END AS plan FROM strategy
        WHERE NOT EXISTS (SELECT 1 FROM filtered WHERE are_enough)"""
        return [
            self._exact_scan(space, needed),
            f"similar AS NOT MATERIALIZED ({similar}\n    UNION ALL{self._from_exact_scan()})",
        ]

    def _exact_scan(self, space: VectorSpace, needed: str) -> str:
        """Return SQL for all rows that pass the filters, if `needed` has a row."""
        # CROSS JOIN fixes the order of the joins: rows that pass, their embeddings, their vectors. SQLite's planner
        # would start from the vectors. NOT INDEXED applies where a condition yields row numbers: they are looked up.
        return f"""exact_scan AS NOT MATERIALIZED (
    SELECT m.item_seq AS seq, {_DISTANCE}, needed.plan
    FROM ({needed}) AS needed
    CROSS JOIN {self.target.table} AS i {"NOT INDEXED" if self.filters.find_rows else ""}
    CROSS JOIN embeddings AS m ON m.item_seq = i.seq AND {self._owner()}
    CROSS JOIN {space.table} AS v ON v.seq = m.vector_seq
    WHERE {" AND ".join(self._conditions(self.filters.finding))}
    LIMIT -1)"""  # keeps SQLite from flattening it into its parent, which would sort vectors instead of distances

    def _from_exact_scan(self) -> str:
        floor = "HAVING similarity >= :floor" if self.has_floor else ""
        return f"""
    SELECT seq, {_SIMILARITY}, plan FROM exact_scan GROUP BY seq {floor}"""

    def _depth(self) -> str:
        """Return SQL for the number of candidates to request: all, unless nearly every one is a row that passes."""
        if not self.filters.are_broad:
            return str(self.source.max_candidates)
        return f"""CASE WHEN {_OTHERS}
        OR EXISTS (SELECT 1 FROM embeddings WHERE namespace = :namespace AND model = :model AND owner_type = 'step')
        {self.target.archived_exists} THEN {self.source.max_candidates} ELSE :reach * {self.source.oversampling} END"""

    def _sample(self) -> list[str]:
        """Return SQL that counts how many randomly drawn vectors belong to a row that passes the filters."""
        if self.space is None or self.filters.are_broad:
            return []
        # Row numbers have gaps where vectors were deleted, so a random number leads to the next existing row. A vector
        # after a gap is drawn more often; that bias is small compared with the variance of the sample.
        # `m.model = :model` without a namespace uses the index on (model, vector_seq); the namespace is a filter.
        table = self.space.table
        drawn = f"1 + abs(random() % (SELECT max(seq) FROM {table}))"
        return [
            f"""draws (number, at) AS (
    SELECT 1, {drawn} WHERE :mode = 'auto' AND :reach <= {self.source.max_k}
    UNION ALL SELECT number + 1, {drawn} FROM draws WHERE number < {self.source.sample_size})""",
            f"""sample_matches AS MATERIALIZED (
    SELECT count(*) AS passing FROM draws WHERE EXISTS (
        SELECT 1 FROM embeddings AS m CROSS JOIN {self.target.table} AS i ON i.seq = m.item_seq
        WHERE m.model = :model AND m.vector_seq = (SELECT seq FROM {table} WHERE seq >= draws.at ORDER BY seq LIMIT 1)
            AND m.owner_type IN ({self.target.owners}) AND {" AND ".join(self._conditions(self.filters.at_hand))}))""",
        ]

    def _strategy(self) -> str:
        # The candidates pass at the rate of the sample: at least CANDIDATES_PER_RESULT for each item wanted.
        # Few rows pass in a small namespace of a large table, so there the count of its own embeddings decides.
        if self.space is None:
            return ""
        source = self.source
        of_model = "SELECT 1 FROM embeddings WHERE namespace = :namespace AND model = :model"
        many = f"EXISTS ({of_model} LIMIT 1 OFFSET {EXACT_SCAN_MAX})"
        share = f"passing * {source.max_candidates_sql} >= :reach * {CANDIDATES_PER_RESULT * source.sample_size}"
        sampled = f"(SELECT passing * {_MIN_SAMPLE_RATIO} >= {source.sample_size} AND {share} FROM sample_matches)"
        enough = f"(vectors > {EXACT_SCAN_MAX} AND NOT {_OTHERS} OR {many})" if self.filters.are_broad else sampled
        return f"""strategy AS MATERIALIZED (
    SELECT CASE WHEN :mode <> 'auto' THEN :mode
        WHEN :reach <= {source.max_k} AND {source.is_fresh(self.space)} AND {enough} THEN 'index'
        ELSE 'exact' END AS strategy
    FROM vector_models WHERE token = :space)"""

    def _snippet(self) -> str:
        """Return SQL for the passage of a row of `found` that matches."""
        # A row has few texts, of which the first that has a word shows it: its head, or else its steps.
        indexed = self.target.full_text
        of_row = f"""rowid BETWEEN (SELECT first FROM span) | (found.seq << {PART_BITS})
            AND (SELECT first FROM span) | (found.seq << {PART_BITS}) | {PARTS}"""
        passages = [
            f"(SELECT {_SNIPPET.format(indexed)} FROM {indexed} WHERE {indexed} MATCH {_ANY_WORD} AND {of_row} LIMIT 1)"
        ]
        if self._has_passages:
            passages.insert(0, f"(SELECT passage FROM passages WHERE {SEQ.format('doc')} = found.seq)")
        if self.has_recent:
            passages.append(
                f"""(SELECT {_SNIPPET.format("recent_words")} FROM {RECENT}
            WHERE recent_words MATCH {_ANY_WORD} AND {of_row} LIMIT 1)"""
            )
        return f"coalesce({', '.join([*passages, 'NULL'])})"

    @property
    def _has_passages(self) -> bool:
        # It names `found` again: a server would compile it each time, and the engine refuses it with many conditions.
        return self.has_words and self.has_recent and len(self.filters.at_hand) <= _FEW_CONDITIONS

    def _passages(self) -> str:
        """Return SQL for the passages of all rows of `found` at once, if few texts have one of the words.

        FTS5 begins each query in all segments of its index, of which a large file has a dozen: one query for each row
        would be most of a search in a small namespace.
        """
        indexed, seq = self.target.full_text, SEQ.format("doc")
        return f"""passages AS MATERIALIZED (
    SELECT rowid AS doc, {_SNIPPET.format(indexed)} AS passage FROM {indexed}
    WHERE {indexed} MATCH {_ANY_WORD} AND rowid BETWEEN (SELECT first FROM span)
            AND (SELECT CASE WHEN (SELECT count(*) FROM matches) <= {_FEW_MATCHES} THEN last ELSE -1 END FROM span)
        AND +rowid IN (SELECT min(doc) FROM matches WHERE {seq} IN (SELECT seq FROM found) GROUP BY {seq}))"""

    def _by_text(self) -> list[str]:
        """Return SQL that ranks rows by the words of the newest texts that have them.

        As BM25 does, a word counts for more the fewer texts of the namespace have it, and the more texts of the row,
        but never without end; in a title it counts twice. Of a word that is in more than `:text_depth` texts only the
        newest are ranked: it says little, and its number of texts is estimated by their density.
        """
        if not self.has_words:
            return []
        words, texts = self.target.full_text, self.target.texts
        of_span = "BETWEEN (SELECT first FROM span) AND (SELECT last FROM span)"
        # Without a cut, the namespace does not have the word, and FTS5 takes NULL for no bound.
        indexed = f"""cuts CROSS JOIN {words}
        WHERE cut IS NOT NULL AND {words} MATCH {{0}} AND rowid BETWEEN cut AND (SELECT last FROM span)"""
        title = f"'{{{self.target.titles}}} : ' || match"
        matches = [
            f"SELECT key, rowid AS doc, 1 AS counts FROM {indexed.format('match')}",
            f"SELECT key, rowid, 0 FROM {indexed.format(title)}",
        ]
        if self.has_recent:
            recent = f"terms CROSS JOIN {RECENT} WHERE recent_words MATCH {{0}} AND recent_words.rowid {of_span}"
            matches += [
                f"SELECT key, recent_words.rowid, 1 FROM {recent.format('match')}",
                f"SELECT key, recent_words.rowid, 0 FROM {recent.format(title)}",
            ]
        return [
            f"""span AS MATERIALIZED (
    SELECT number << {NAMESPACE_BITS} AS first, (number + 1 << {NAMESPACE_BITS}) - 1 AS last, {texts} AS texts
    FROM namespaces WHERE name = :namespace)""",
            "terms AS MATERIALIZED (SELECT key, value AS match FROM json_each(:words))",
            f"""cuts AS MATERIALIZED (
    SELECT key, match, CASE WHEN (SELECT texts FROM span) <= :text_depth THEN (SELECT first FROM span)
        ELSE (SELECT min(doc) FROM (
            SELECT rowid AS doc FROM {words} WHERE {words} MATCH match AND rowid {of_span}
            ORDER BY rowid DESC LIMIT :text_depth)) END AS cut
    FROM terms)""",
            "matches AS MATERIALIZED (" + "\n    UNION ALL ".join(matches) + ")",
            f"""totals AS MATERIALIZED (
    SELECT coalesce((SELECT texts FROM span), 0){self._count_recent()} AS texts,
        (SELECT min(doc) FROM {texts} WHERE doc {of_span}) AS oldest,
        (SELECT max(doc) FROM {texts} WHERE doc {of_span}) AS newest)""",
            """frequencies AS MATERIALIZED (
    SELECT key, is_cut, ln(1 + (max(texts, n) - n + 0.5) / (n + 0.5)) AS weight FROM (
        SELECT key, texts, n >= :text_depth AS is_cut, CASE WHEN n < :text_depth THEN n ELSE
            n * (1.0 + newest - oldest) / (1.0 + newest - (SELECT cut FROM cuts WHERE cuts.key = counted.key)) END AS n
        FROM (SELECT key, sum(counts) AS n FROM matches GROUP BY key) AS counted CROSS JOIN totals))""",
            f"""text_matches AS MATERIALIZED (
    SELECT w.seq, -sum(weight * n / (n + 1.0)) AS rank, max(is_cut) AS is_cut FROM (
        SELECT key, {SEQ.format("doc")} AS seq, count(*) AS n FROM matches GROUP BY 1, 2) AS w
    CROSS JOIN frequencies ON frequencies.key = w.key
    CROSS JOIN {self.target.table} AS i ON i.seq = w.seq
    WHERE {" AND ".join(self._conditions(self.filters.at_hand))} GROUP BY w.seq)""",
        ]

    def _count_recent(self) -> str:
        if not self.has_recent:
            return ""
        return f"""
        + (SELECT count(*) FROM {RECENT}_docsize
            WHERE id BETWEEN (SELECT first FROM span) AND (SELECT last FROM span))"""

    def _ranked_by_similarity(self) -> list[str]:
        return [
            f"""found AS MATERIALIZED (
    SELECT similarity AS score, seq, similarity, NULL AS by_vector, NULL AS by_text, NULL AS by_recency,
        NULL AS by_reward, plan
    FROM similar WHERE {self._not_shown()} ORDER BY similarity DESC, seq LIMIT :limit)"""
        ]

    def _ranked_by_fusion(self) -> list[str]:
        """Return SQL for weighted reciprocal rank fusion: rank r scores 61 / (60 + r) of the full weight."""
        # Both lists are cut at :depth. A row that is only in one of them scores 0 for the other. Ranks are fused rather
        # than scores: those of words and cosine similarity have no common scale.
        ranks = f"""
    SELECT seq, NULL AS similarity, '' AS plan, 0.0 AS by_vector,
        :text_weight * {RRF_K + 1} / ({RRF_K} + row_number() OVER (ORDER BY rank, seq)) AS by_text FROM (
            SELECT seq, rank FROM text_matches ORDER BY rank, seq {"LIMIT :depth" if self.space else ""})"""
        if self.space is not None:
            ranks += f"""
    UNION ALL
    SELECT seq, similarity, plan, :vector_weight * {RRF_K + 1} / ({RRF_K} + row_number() OVER (
            ORDER BY similarity DESC, seq)), 0.0 FROM (
            SELECT seq, similarity, plan FROM similar ORDER BY similarity DESC, seq LIMIT :depth)"""
        # Recency halves with each half-life of age, hyperbolically; a timestamp in the future counts as age 0.
        age = f"max(0, :now - i.{self.target.timestamp_column}) / 1e6"
        return [
            f"ranks AS MATERIALIZED ({ranks})",
            f"""parts AS MATERIALIZED (
    SELECT p.seq, max(p.similarity) AS similarity, max(max(p.plan)) OVER () AS plan,
        sum(p.by_vector) AS by_vector, sum(p.by_text) AS by_text,
        :recency_weight / (1 + {age} / :half_life) AS by_recency,
        :reward_weight * min(1.0, max(0.0, coalesce(i.{self.target.reward_column}, 0.0))) AS by_reward
    FROM ranks AS p CROSS JOIN {self.target.table} AS i ON i.seq = p.seq GROUP BY p.seq)""",
            f"""found AS MATERIALIZED (
    SELECT score, seq, similarity, by_vector, by_text, by_recency, by_reward,
        CASE WHEN (SELECT max(is_cut) FROM frequencies) THEN ltrim(plan || ', {NEWEST}', ', ') ELSE plan END AS plan
    FROM (SELECT *, by_vector + by_text + by_recency + by_reward AS score FROM parts)
    WHERE {self._not_shown()} ORDER BY score DESC, seq LIMIT :limit)""",
        ]

    def _conditions(self, conditions: tuple[str, ...]) -> tuple[str, ...]:
        # Rows written after the first page are excluded before candidates are counted. The `+` keeps SQLite from using
        # an index for this condition.
        as_at_first = ("+i.seq <= :last_seq",) if self.is_continued else ()
        return ("i.namespace = :namespace", *as_at_first, *conditions)
