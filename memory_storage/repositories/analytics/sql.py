"""The statements of the analytics repository. Each selects the episodes by the filters first, then aggregates.

Success is one of two SQL expressions, which are NULL for an episode that cannot be judged.
"""

from __future__ import annotations

from functools import lru_cache

from memory_storage.sql.document_filters import readable
from memory_storage.sql.facets import recalled_by, tags_of
from memory_storage.sql.filters import Conditions
from memory_storage.sql.indexing import CHANGED, LOGGED
from memory_storage.sql.statement import SqlTemplate, columns

from .error_signature import MESSAGE_LENGTH

# NULL for an episode that cannot be judged: count() and sum() ignore it.
SUCCESS_BY_OUTCOME = "CASE WHEN outcome IS NOT NULL THEN outcome = 'success' END"
SUCCESS_BY_REWARD = "reward >= :success_reward"

# One period without bounds, so that all statements have the same shape.
_ALL_TIME = "SELECT 0, NULL, NULL"
_PERIODS = "SELECT key, value ->> '$[0]', value ->> '$[1]' FROM json_each(:periods)"
_FACTS = "number, success, reward, duration"
_SELECTED_STEPS = "selected CROSS JOIN steps AS s ON s.namespace = :namespace AND s.episode_id = selected.id"
# One branch for each dimension. DISTINCT: an episode counts once for a tool, however often it called it.
_GROUPED: dict[str | None, str] = {
    None: f"SELECT NULL, {_FACTS} FROM selected",
    "stage": f"SELECT ntile(:stages) OVER (ORDER BY started_at, seq), {_FACTS} FROM selected",
    "tool": f"SELECT tool, {_FACTS} FROM (SELECT DISTINCT s.tool, selected.seq, {_FACTS} FROM {_SELECTED_STEPS})",
    # Those of changed episodes may be in their documents only.
    "tag": f"""SELECT value, {_FACTS} FROM facets CROSS JOIN selected ON selected.seq = owner_seq
        WHERE facets.owner_type = 'episode' AND facets.namespace = :namespace AND facets.name = 'tag'
            AND owner_seq NOT IN ({LOGGED})
        UNION ALL SELECT atom, {_FACTS} FROM (
            SELECT DISTINCT atom, e.seq FROM {CHANGED}
            CROSS JOIN {tags_of("e.")}) AS changed
        CROSS JOIN selected ON selected.seq = changed.seq""",
    **{
        name: f"SELECT {name}, {_FACTS} FROM selected"
        for name in ("task_type", "domain", "language", "framework", "complexity")
    },
}


# SQLite hears no interrupt while it sorts. To sort 400,000 rows by a text takes half a second, or a twentieth of that
# if they are in order. So each distinct text gets a number, and the rows are read in the order of the numbers, by an
# automatic index, which is built row by row. json_each() returns one row, but the planner expects 25: it assumes that
# a namespace has ten episodes, and would leave out the index.
_ONE_ROW = "CROSS JOIN (SELECT 1 FROM json_each('[0]'))"
_INDEXED = f"{_ONE_ROW} {_ONE_ROW}"


def _numbered(source: str, names: str) -> str:
    """Return the table `names`: a number for each distinct value of columns of `source`."""
    return f"""names AS MATERIALIZED (
    SELECT row_number() OVER () AS name_number, {names} FROM (SELECT DISTINCT {names} FROM {source}))"""


# Materialized: the filters are evaluated once, and each statement reads the result several times. CROSS JOIN makes the
# periods the outer loop, so that the index on started_at gives each its episodes.
def _selected(where: Conditions, success_sql: str, *, in_periods: bool = False) -> str:
    within = ("started_at >= from_at", "started_at < to_at") if in_periods else ()
    return f"""
WITH period (number, from_at, to_at) AS ({_PERIODS if in_periods else _ALL_TIME}),
selected AS MATERIALIZED (
    SELECT number, seq, id, task_type, domain, language, framework, complexity, started_at,
        {success_sql} AS success, reward, (completed_at - started_at) / 1000000.0 AS duration
    FROM period CROSS JOIN episodes WHERE {" AND ".join(("namespace = :namespace", *within, *where))})"""


def finite(number: str) -> str:
    """Return an expression that is NULL if `number` is too large for a float: a server cannot even send infinity."""
    return f"nullif(nullif({number}, 9e999), -9e999)"


# Squares are of the differences from the mean: sums of large numbers would lose what matters.
@lru_cache(maxsize=256)
def figures(where: Conditions, success_sql: str, by: str | None, *, in_periods: bool) -> SqlTemplate:
    """Return the statement for periods and groups: counts, then count, mean and squares of rewards and durations."""
    # A period and a stage are numbers, and in order.
    grouped, numbered, rows, group = _GROUPED[by], "", "grouped", "number, name"
    if by not in (None, "stage"):
        grouped = f"SELECT facts.* FROM ({grouped}) AS facts {_INDEXED}"
        numbered, group = f"\n{_numbered('grouped', 'number, name')},", "name_number"
        rows = """(SELECT names.*, success, reward, duration
        FROM names CROSS JOIN grouped ON grouped.number = names.number AND grouped.name IS names.name)"""
    return SqlTemplate(f"""{_selected(where, success_sql, in_periods=in_periods)},
grouped (name, {_FACTS}) AS MATERIALIZED ({grouped}),{numbered}
measured AS (
    SELECT *, avg(reward) OVER of_group AS mean_reward, avg(duration) OVER of_group AS mean_duration
    FROM {rows} WINDOW of_group AS (PARTITION BY {group}))
SELECT number, name, count(*), count(success), coalesce(sum(success), 0),
    count(reward), {finite("max(mean_reward)")}, {finite("sum((reward - mean_reward) * (reward - mean_reward))")},
    count(duration), max(mean_duration), sum((duration - mean_duration) * (duration - mean_duration))
FROM measured GROUP BY {group}
""")


# Latency 0 means that none was measured. Ranks are counted from above, because NULLs sort first.
@lru_cache(maxsize=256)
def tools(where: Conditions) -> SqlTemplate:
    """Return the statement for tools: steps, results, errors, timeouts, then the count and latencies of measured steps.

    A percentile is the nearest rank: the smallest latency that at least that share of the steps does not exceed.
    """

    def percentile(percent: int) -> str:
        return f"max(CASE WHEN latency_rank = (measured * {percent} + 99) / 100 THEN latency_ms END)"

    return SqlTemplate(f"""{_selected(where, SUCCESS_BY_OUTCOME)},
used AS MATERIALIZED (
    SELECT s.tool, nullif(s.latency_ms, 0) AS latency_ms, s.status FROM {_SELECTED_STEPS} {_INDEXED}),
{_numbered("used", "tool")},
counted AS (
    SELECT names.*, latency_ms, status,
        row_number() OVER (PARTITION BY name_number ORDER BY latency_ms DESC) AS from_above,
        count(latency_ms) OVER (PARTITION BY name_number) AS measured
    FROM names CROSS JOIN used ON used.tool = names.tool),
ranked AS (SELECT *, measured + 1 - from_above AS latency_rank FROM counted)
SELECT tool, count(*), count(status), sum(status IS 'error'), sum(status IS 'timeout'), count(latency_ms),
    avg(latency_ms), {percentile(50)}, {percentile(95)}, {percentile(99)}
FROM ranked GROUP BY name_number
""")


# Numbered in the order in which they are read, so that sorting by the number finds them in order.
_PLACED = """placed AS (SELECT *, row_number() OVER () AS place FROM selected WHERE success IS NOT NULL)"""
_PLACED_STEPS = _SELECTED_STEPS.replace("selected", "placed")


# lead() instead of a self-join for each position: one pass over the steps, whatever the length.
def _windows(where: Conditions, success_sql: str, longest: int) -> str:
    leads = "".join(f", lead(s.tool, {n}) OVER of_episode AS tool_{n}" for n in range(1, longest))
    spent = "".join(f", lead(s.latency_ms, {n}) OVER of_episode AS ms_{n}" for n in range(1, longest))
    return f"""{_selected(where, success_sql)},
{_PLACED},
windows AS MATERIALIZED (
    SELECT placed.place, placed.success, s.tool AS tool_0, s.latency_ms AS ms_0{leads}{spent}
    FROM {_PLACED_STEPS} WINDOW of_episode AS (PARTITION BY placed.place ORDER BY s.step_number))"""


def _of_length(length: int, columns: str) -> str:
    names = ", ".join(f"tool_{n}" for n in range(length))
    spent = " + ".join(f"1.0 * ms_{n}" for n in range(length))
    return f"""SELECT {columns}, json_array({names}), {spent}
        FROM windows WHERE tool_{length - 1} IS NOT NULL"""


# by_episode: a sequence that occurs several times in an episode counts once, with its mean latency.
@lru_cache(maxsize=256)
def sequences(where: Conditions, success_sql: str, shortest: int, longest: int) -> SqlTemplate:
    """Return the statement for sequences in enough episodes: tools as JSON, number of episodes, number of successes.

    Then the mean duration, and over all episodes the numbers of judged and successful ones.
    """
    union = "\n    UNION ALL ".join(_of_length(length, "place, success") for length in range(shortest, longest + 1))
    return SqlTemplate(f"""{_windows(where, success_sql, longest)},
totals AS (SELECT count(success) AS judged, sum(success) AS successes FROM selected),
occurrences (place, success, tools, ms) AS ({union}),
by_episode AS MATERIALIZED (
    SELECT tools, success, avg(ms) AS ms FROM occurrences {_INDEXED} GROUP BY place, tools),
{_numbered("by_episode", "tools")}
SELECT names.tools, count(*), sum(success), avg(ms), max(totals.judged), max(totals.successes)
FROM names CROSS JOIN by_episode ON by_episode.tools = names.tools CROSS JOIN totals
GROUP BY name_number HAVING count(*) >= :least
""")


# Grouped by the beginning of the message here, and by its class in Python: SQL cannot compute the class.
@lru_cache(maxsize=256)
def failures(where: Conditions, success_sql: str) -> SqlTemplate:
    """Return the statement for failed steps: episodes and failed episodes by number, tool and message."""
    return SqlTemplate(f"""{_selected(where, success_sql)}
SELECT s.step_number, s.tool, s.status, substr(coalesce(s.output, ''), 1, {MESSAGE_LENGTH}),
    count(*), count(CASE WHEN selected.success = 0 THEN 1 END)
FROM {_SELECTED_STEPS} WHERE s.status IN ('error', 'timeout') GROUP BY 1, 2, 3, 4
""")


# Days from the mean start keep the sums of squares small enough for floats.
@lru_cache(maxsize=256)
def trend(where: Conditions) -> SqlTemplate:
    """Return the statement for the trend: number and mean of rewards, sums of squares and products; times in days."""
    return SqlTemplate(f"""{_selected(where, SUCCESS_BY_OUTCOME)},
centred AS (
    SELECT reward, (started_at - avg(started_at) OVER ()) / 86400000000.0 AS day, reward - avg(reward) OVER () AS above
    FROM selected WHERE reward IS NOT NULL)
SELECT count(*), {finite("avg(reward)")}, sum(day * day), {finite("sum(day * above)")}, {finite("sum(above * above)")}
FROM centred
""")


@lru_cache(maxsize=256)
def span(where: Conditions) -> SqlTemplate:
    """Return the statement for the number of episodes, and the first and last start."""
    return SqlTemplate(f"""
SELECT count(*), min(started_at), max(started_at) FROM episodes WHERE {" AND ".join(("namespace = :namespace", *where))}
""")


# `Pattern.title`: of a playbook, its name and its purpose.
_NAME, _PURPOSE = "document ->> '$.name'", "document ->> '$.description'"
_TITLE = f"""CASE WHEN kind <> 'playbook' OR instr({_PURPOSE}, {_NAME}) = 1 THEN {_PURPOSE}
    WHEN {_PURPOSE} = '' THEN {_NAME} ELSE ({_NAME}) || ': ' || ({_PURPOSE}) END"""


@lru_cache(maxsize=256)
def patterns(where: Conditions) -> SqlTemplate:
    """Return the statement for the counters of patterns."""
    return SqlTemplate(f"""
SELECT id, kind, {_TITLE}, times_retrieved, times_applied, success_when_applied, avg_reward_delta,
    last_used_at, coalesce(last_used_at, created_at)
FROM patterns WHERE {" AND ".join(("namespace = :namespace", *where))}
""")


# A record is in a receipt once; whether it was used is found in the text of the list, which is not parsed for each.
# Kinds are counted once for an episode, however many records of a kind it was shown.
_ATTRIBUTED: dict[str | None, tuple[str, str]] = {
    None: ("NULL", ""),
    "kind": ("shown.kind", ""),
    "record": ("shown.id", ""),
    "pattern_kind": ("p.kind", "CROSS JOIN patterns AS p ON p.namespace = :namespace AND p.id = shown.id"),
}
_OF_USED, _OF_UNUSED = (f"CASE WHEN used = {use} THEN success END" for use in (1, 0))
_COUNTS = {
    "known": "count(used)",
    "used": "coalesce(sum(used), 0)",
    "judged": "count(success)",
    "successes": "coalesce(sum(success), 0)",
    "judged_used": f"count({_OF_USED})",
    "successes_used": f"coalesce(sum({_OF_USED}), 0)",
    "judged_unused": f"count({_OF_UNUSED})",
    "successes_unused": f"coalesce(sum({_OF_UNUSED}), 0)",
    "ratings": "count(rating)",
    "rating_sum": "coalesce(sum(rating), 0)",
    "rating_squares": "coalesce(sum(rating * rating), 0)",
}
_ATTRIBUTED_COUNTS = ", ".join(f"{sql} AS {name}" for name, sql in _COUNTS.items())
_WITHOUT = {name: _COUNTS[name] for name in ("judged", "successes")}
_DESCRIPTION_LENGTH = 200
_DESCRIPTION = f"""substr(CASE kind WHEN 'pattern' THEN (
        SELECT document ->> '$.description' FROM patterns WHERE namespace = :namespace AND id = name) ELSE (
        SELECT document ->> '$.task_description' FROM episodes WHERE namespace = :namespace AND id = name)
    END, 1, {_DESCRIPTION_LENGTH})"""


# The facets lead to the episodes with a receipt. Those of changed episodes may be in their documents only.
@lru_cache(maxsize=256)
def attribution(where: Conditions, success_sql: str, by: str | None, *, in_periods: bool) -> SqlTemplate:
    """Return the statement for recalled records: period, group, kind and description, then counts.

    The counts are those of `AttributionCounts`. A row without a number of episodes is about those of a period that were
    shown nothing.
    """
    name, joined = _ATTRIBUTED[by]
    description = _DESCRIPTION if by == "record" else "NULL"
    return SqlTemplate(f"""{_selected(where, success_sql, in_periods=in_periods)},
documents AS (
    SELECT selected.number, selected.seq, selected.success, {readable("e.document")} -> '$.recalled' AS receipt
    FROM (
        SELECT owner_seq AS seq FROM facets
        WHERE namespace = :namespace AND owner_type = 'episode' AND name = 'recalled'
        UNION SELECT e.seq FROM {CHANGED} CROSS JOIN {recalled_by("e.")} AND e.namespace = :namespace) AS shown
    CROSS JOIN selected ON selected.seq = shown.seq CROSS JOIN episodes AS e ON e.seq = shown.seq),
receipts AS MATERIALIZED (
    SELECT number, seq, success, receipt -> '$.items' AS items, receipt ->> '$.rating' AS rating,
        CASE json_type(receipt, '$.used') WHEN 'array' THEN receipt ->> '$.used' END AS used_ids
    FROM documents),
shown AS (
    SELECT number, seq, success, rating, item.value ->> 0 AS kind, item.value ->> 1 AS id,
        instr(used_ids, item.value -> 1) > 0 AS used
    FROM receipts CROSS JOIN json_each(items) AS item),
by_episode AS (
    SELECT shown.number, {name} AS name, min(shown.kind) AS kind, min(shown.kind) = max(shown.kind) AS is_one_kind,
        success, rating, max(used) AS used
    FROM shown {joined} GROUP BY shown.number, shown.seq, {name}),
counted AS (
    SELECT number, name, CASE WHEN min(is_one_kind) AND min(kind) = max(kind) THEN min(kind) END AS kind,
        count(*) AS episodes, {_ATTRIBUTED_COUNTS}
    FROM by_episode GROUP BY number, name ORDER BY episodes DESC, used DESC, number, name LIMIT :limit)
SELECT number, name, kind, {description}, episodes, {columns(_COUNTS)} FROM counted
UNION ALL
SELECT number, NULL, NULL, NULL, NULL, {", ".join(_WITHOUT.get(name, "0") for name in _COUNTS)}
FROM selected WHERE seq NOT IN (SELECT seq FROM receipts) GROUP BY number
""")


UNUSED = "coalesce(last_used_at, created_at) < :unused_since"
