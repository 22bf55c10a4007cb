"""Filters as SQL conditions. The text of the conditions depends only on which filters are set; values are bound."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple
from uuid import UUID

from pydantic_core import to_json

from memory_storage.models import EpisodeFilter, MetadataValue, PatternFilter, TaskContext

from .document_filters import Comparison, Negation, bind, equal_numbers, is_number, parse_filter, row_test
from .document_filters import Condition as DocumentCondition
from .documents import is_exact_in_json
from .facets import FACET_LENGTH, SCALAR, recalled_by, tags_of, used_by
from .fulltext import each_word
from .indexing import CHANGED, FIRST, OF_NAMESPACE, PARTS, RECENT, SEQ
from .statement import to_micros
from .validation import refuse_unstorable

_BROAD = {"archived", "since", "until"}  # filters that a page by facets tests by itself
_MOST_LEADING = 8  # facets of which a page is read: each is a part of the statement
_METADATA = "$.metadata"

Conditions = tuple[str, ...]
"""SQL with `:names`. It depends on which filters are set, never on their values."""

Condition = tuple[str, str]
"""A condition in both forms: to find rows by an index, and to test a row at hand by itself."""

# By the index of relationships, then by `seq`: by its ID the planner would look for a child among all of the namespace.
IS_CHILD = """seq IN (SELECT child.seq FROM relationships AS r CROSS JOIN episodes AS child
            ON child.namespace = r.namespace AND child.id = r.to_id
            WHERE r.namespace = :namespace AND r.from_id = :child_of AND r.kind = 'parent_child')"""
# Comparisons of one column with one value. Ranges of time are half-open, so adjacent ranges share no row.
_PLAIN = {
    **{name: f"{name} = :{name}" for name in ("task_type", "domain", "language", "framework", "complexity", "kind")},
    # Two ranges of one index.
    "domain_or_general": f"domain IN (:domain_or_general, '{TaskContext().domain}')",
    "outcome": "outcome = :outcome",
    "min_reward": "reward >= :min_reward",
    "max_reward": "reward <= :max_reward",
    "since": "started_at >= :since",
    "until": "started_at < :until",
    "completed_since": "completed_at >= :completed_since",
    "completed_until": "completed_at < :completed_until",
    "child_of": IS_CHILD,
    "min_success_rate": "success_rate >= :min_success_rate",
    "min_occurrences": "occurrence_count >= :min_occurrences",
}
# Conditions without a value: partial indexes only match the literal text of their condition.
_FLAGS = {
    ("completed", True): "outcome IS NOT NULL",
    ("completed", False): "outcome IS NULL",
    ("archived", True): "archived_at IS NOT NULL",
    ("archived", False): "archived_at IS NULL",
}
# Tags and metadata are facets: rows (owner, name, value), so each is found by an index whatever its key.
_FACETS = "SELECT owner_seq FROM facets WHERE namespace = :namespace AND owner_type = :owner_type AND name"
# Those of changed episodes may be in their documents only. A file has up to 256 changes in the log, a server one, and
# each is tested in microseconds.
_CHANGED = f"""
        UNION ALL SELECT e.seq FROM {CHANGED}
            WHERE e.namespace = :namespace AND """
_GIVEN = "IN (SELECT value FROM json_each(:{name}))"
# A row has all words if each of them is in one of its texts. Found by the index: those that have as many words as were
# asked for. At hand: the texts of the row are a range of the index.
_HAS_WORDS = f"""seq IN (SELECT seq FROM (
        SELECT word.key, {SEQ.format("episode_words.rowid")} AS seq FROM json_each(:text) AS word
        CROSS JOIN episode_words WHERE episode_words MATCH word.value AND episode_words.rowid {OF_NAMESPACE}{{recent}})
    GROUP BY seq HAVING count(DISTINCT key) = json_array_length(:text))"""
_FOUND_RECENTLY = f"""
        UNION ALL SELECT word.key, {SEQ.format("recent_words.rowid")} FROM json_each(:text) AS word
        CROSS JOIN {RECENT} WHERE recent_words MATCH word.value AND recent_words.rowid {OF_NAMESPACE}"""
_IN_TEXTS = f"""EXISTS (SELECT 1 FROM {{words}} MATCH word.value AND rowid BETWEEN
            {FIRST.format(":namespace", "{seq}")}
            AND {FIRST.format(":namespace", "{seq}")} | {PARTS})"""
_TEXTS, _RECENT_TEXTS = "episode_words WHERE episode_words", f"{RECENT} WHERE recent_words"


class Shape(NamedTuple):
    """The form of the conditions.

    Args:
        prefix: The name of the table, with a dot.
        by_row: Test each row by itself, which suits few of many rows; else a condition may find its rows by an index.
    """

    prefix: str = ""
    by_row: bool = False


PLAIN = Shape()


class CompiledFilters(NamedTuple):
    """The conditions of the filters that are set, in both forms, and the values to bind."""

    finding: Conditions
    at_hand: Conditions
    values: dict[str, Any]


def conditions(
    asked: EpisodeFilter | PatternFilter, owner_type: str, shape: Shape = PLAIN, *, has_recent: bool = True
) -> tuple[Conditions, dict[str, Any]]:
    """Return the conditions of the filters that are set, in one form, and the values to bind: see `compile_filters`."""
    compiled = compile_filters(asked, owner_type, shape.prefix, has_recent=has_recent)
    return compiled.at_hand if shape.by_row else compiled.finding, compiled.values


def compile_filters(
    asked: EpisodeFilter | PatternFilter, owner_type: str, prefix: str = "", *, has_recent: bool
) -> CompiledFilters:
    """Return the conditions of the filters that are set, in both forms.

    Args:
        asked: The filters.
        owner_type: "episode" or "pattern".
        prefix: The name of the table, with a dot.
        has_recent: Look for words in the temporary index of the connection too: `SessionProtocol.has_recent_words`.

    Raises:
        ValidationError: a filter cannot be compared with what is stored.
    """
    compiled: list[Condition] = []
    values: dict[str, Any] = {"owner_type": owner_type}
    for name, value in active_filters(asked).items():
        refuse_unstorable(name, value)
        if name == "text":
            values["text"] = each_word(value)
            compiled.append(_text(prefix, has_recent=has_recent))
        else:
            compiled += _READERS.get(name, _plain)(name, value, values, prefix)
    # Both forms in one pass: a search needs both, and reads each value (its tags, its numbers) once for them.
    return CompiledFilters(tuple([one[0] for one in compiled]), tuple([one[1] for one in compiled]), values)


def leading_facets(asked: EpisodeFilter, values: dict[str, Any]) -> Conditions:
    """Return conditions on facets, of which an episode that passes has at least one; () if they should not lead.

    The facets of one value are in the order of time, so that a page can be read from them. They lead where no other
    filter may be narrower.

    Args:
        asked: The filters.
        values: The values of their conditions; those of the facets are added.
    """
    active = active_filters(asked)
    narrow = active.keys() - _BROAD
    if len(narrow) != 1:
        return ()
    if tags := active.get("tags_any") or active.get("tags_all", [])[:1]:
        names = [f"leading_{number}" for number in range(len(tags))]
        values.update(zip(names, tags, strict=True))
        return tuple([f"name = 'tag' AND value = :{name}" for name in names]) if len(names) <= _MOST_LEADING else ()
    if receipt := narrow & {"recalled", "used"}:
        name = receipt.pop()
        return (f"name = '{name}' AND value = :{name}",)
    for condition in parse_filter(active.get("metadata", {}), "metadata"):
        if isinstance(condition, Comparison) and len(condition.paths) == 1 and _is_of_top_level(condition):
            ((key,),) = condition.paths
            named = f"name = 'metadata.' || {bind(values, key)}"
            facets = [f"{named} AND value = {value}" for value in _facet_values(condition.operands, values)]
            return tuple(facets) if len(facets) <= _MOST_LEADING else ()
    return ()


def active_filters(asked: EpisodeFilter | PatternFilter) -> dict[str, Any]:
    """Return the filters that exclude rows."""
    return {name: value for name, value in asked.__dict__.items() if value is not None and value not in ([], {})}


def _plain(name: str, value: Any, values: dict[str, Any], prefix: str) -> list[Condition]:
    values[name] = str(value) if isinstance(value, str | UUID) else value
    return [(prefix + _PLAIN[name],) * 2]


def _moment(name: str, value: Any, values: dict[str, Any], prefix: str) -> list[Condition]:
    values[name] = to_micros(value)
    return [(prefix + _PLAIN[name],) * 2]


def _flag(name: str, value: bool, values: dict[str, Any], prefix: str) -> list[Condition]:  # noqa: ARG001 - one signature
    return [(prefix + _FLAGS[name, value],) * 2]


def _tags(name: str, value: list[str], values: dict[str, Any], prefix: str) -> list[Condition]:
    # The number of tags is bound, so one statement serves any number of tags and its plan is cached once.
    wanted = sorted(set(value))
    values[name] = json.dumps(wanted)
    values[f"{name}_count"] = len(wanted)
    given = _GIVEN.format(name=name)
    # A facet has a tag once, so they are counted; in the document, a tag may be in two lists.
    found, counted = f"{_FACETS} = 'tag' AND value {given}", f"= :{name}_count"

    def of_row(prefix: str) -> str:
        row_tags = f"FROM {tags_of(prefix)} AND atom {given}"
        if name == "tags_any":
            return f"EXISTS (SELECT 1 {row_tags})"
        return f"(SELECT count(DISTINCT atom) {row_tags}) {counted}"

    if name == "tags_all":
        found += f" GROUP BY owner_seq HAVING count(*) {counted}"
    return [_found(found, of_row, values, prefix)]


def _of_receipt(name: str, value: Any, values: dict[str, Any], prefix: str) -> list[Condition]:
    values[name] = str(value)

    def of_row(prefix: str) -> str:
        rows = recalled_by(prefix) if name == "recalled" else used_by(prefix)
        return f"EXISTS (SELECT 1 FROM {rows} AND atom = :{name})"

    return [_found(f"{_FACETS} = '{name}' AND value = :{name}", of_row, values, prefix)]


def _metadata_condition(condition: DocumentCondition, values: dict[str, Any], prefix: str) -> Condition:
    test = row_test(condition, _METADATA, values)

    def of_row(prefix: str) -> str:
        return test(f"{prefix}document")

    found = _facets_of(condition, values)
    if not found:
        return (of_row(prefix),) * 2
    # The engine looks a row up in the list of those with a facet before it parses the document.
    by_facet, at_hand = _found("\n        UNION ALL ".join(found), of_row, values, prefix)
    return (by_facet if _is_in_facets(condition) else f"{by_facet} AND {at_hand}"), at_hand


def _facets_of(condition: DocumentCondition, values: dict[str, Any]) -> list[str]:
    """Return SQL for the facets of which a row that passes has at least one; [] if its facets do not tell."""
    if isinstance(condition, Negation):
        return []
    if isinstance(condition, Comparison):
        return _facets_of_value(condition, values) if _is_of_top_level(condition) else []
    # Of all conditions, one that has facets is enough; of alternatives, each must have them.
    found = [_facets_of(one, values) for one in condition.conditions]
    if condition.word == "AND":
        return next(filter(None, found), [])
    return [facets for one in found for facets in one] if all(found) else []


def _is_of_top_level(comparison: Comparison) -> bool:
    return comparison.operator == "$in" and all(len(path) == 1 for path in comparison.paths)


def _is_in_facets(condition: DocumentCondition) -> bool:
    """Return whether every row with one of the facets passes."""
    if not isinstance(condition, Comparison) or len(condition.paths) > 1:
        return False
    # The facet of a long string holds only its beginning, and that of a number 15 digits of what SQLite parsed.
    return not any(isinstance(form, float) for one in condition.operands for form in _forms(one)) and not any(
        isinstance(one, str) and 6 * len(one) + 2 > FACET_LENGTH for one in condition.operands
    )


def _facets_of_value(comparison: Comparison, values: dict[str, Any]) -> list[str]:
    names = [f"'metadata.' || {bind(values, key)}" for (key,) in comparison.paths]
    source = f"{_FACETS} IN ({', '.join(names)}) AND value"
    numbers = [one for one in comparison.operands if is_number(one)]
    others = [one for one in comparison.operands if not is_number(one)]
    if len(others) > _MOST_LEADING:  # one statement serves any number of them
        listed = bind(values, to_json(others).decode())
        facets = [f"{source} IN (SELECT {SCALAR} FROM json_each({listed}))"]
    else:
        facets = [f"{source} = {one}" for one in _facet_values(others, values)]
    if numbers:
        facets.append(f"{source} IN ({', '.join(_facet_values(numbers, values))})")
    return facets or [f"{source} IS NULL"]  # none of no values: no facet


def _facet_values(operands: Iterable[MetadataValue], values: dict[str, Any]) -> list[str]:
    """Return SQL for the values of the facets that the operands may have."""
    facets = []
    for wanted in operands:
        if is_number(wanted):
            # SQLite parses some decimals as an adjacent float. The adjacent floats are looked up too, and then the
            # numerals in the documents are compared.
            forms = _forms(wanted)
            read_as = [*forms, *(near for form in forms for near in _neighbours(form))]
            facets += [f"json_quote({bind(values, one)})" for one in read_as]
        elif isinstance(wanted, str):
            facets.append(f"substr(json_quote({bind(values, wanted)}), 1, {FACET_LENGTH})")
        else:
            facets.append(bind(values, to_json(wanted).decode()))
    return facets


def _forms(operand: MetadataValue) -> list[int | float]:
    return equal_numbers(operand) if is_number(operand) else []


def _neighbours(form: int | float) -> list[float]:
    """Return the adjacent floats, as which SQLite may parse a number."""
    if isinstance(form, int) or is_exact_in_json(form):
        return []
    return [near for end in (-math.inf, math.inf) if math.isfinite(near := math.nextafter(form, end))]


def _found(found: str, of_row: Callable[[str], str], values: dict[str, Any], prefix: str) -> Condition:
    # An episode that comes twice, by a facet and by the log, is one `seq`.
    changed = _CHANGED + of_row("e.") if values["owner_type"] == "episode" else ""
    return f"{prefix}seq IN ({found}{changed})", of_row(prefix)


@lru_cache(maxsize=16)
def _text(prefix: str, *, has_recent: bool) -> Condition:
    found = prefix + _HAS_WORDS.format(recent=_FOUND_RECENTLY if has_recent else "")
    texts = (_TEXTS, _RECENT_TEXTS) if has_recent else (_TEXTS,)
    in_texts = " OR ".join(_IN_TEXTS.format(words=words, seq=f"{prefix}seq") for words in texts)
    return found, f"NOT EXISTS (SELECT 1 FROM json_each(:text) AS word WHERE NOT ({in_texts}))"


_READERS: dict[str, Callable[[str, Any, dict[str, Any], str], list[Condition]]] = {
    "completed": _flag,
    "archived": _flag,
    "recalled": _of_receipt,
    "used": _of_receipt,
    "since": _moment,
    "until": _moment,
    "completed_since": _moment,
    "completed_until": _moment,
    "tags_any": _tags,
    "tags_all": _tags,
    "metadata": lambda name, value, values, prefix: [
        _metadata_condition(one, values, prefix) for one in parse_filter(value, name)
    ],
}
