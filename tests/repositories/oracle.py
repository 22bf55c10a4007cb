"""The expected results of the repositories, computed in plain Python over lists of episodes and patterns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any

from hypothesis import strategies as st

import memory_storage as ms

WORDS = ("alpha", "bravo", "kilo", "zulu", "q7", "http", "500")
"""Words that the stemmer leaves alone, and that do not begin with each other."""


def same_json(one: Any, other: Any) -> bool:
    """Equal as JSON: 5 is 5.0, but not "5" and not true."""
    are_numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (one, other))
    return (are_numbers or type(one) is type(other)) and one == other


ABSENT = object()


def look_up(document: dict[str, Any], key: str) -> Any:
    """The value of a key: that of the literal key, else that of the path; `ABSENT` if there is neither."""
    if key in document:
        return document[key]
    marks = {"\\\\": "\0", "\\.": "\1"}  # no key of a test contains them
    for escape, mark in marks.items():
        key = key.replace(escape, mark)
    key = key.removeprefix("\\") if key.startswith("\\$") else key
    parts = [part.replace("\0", "\\").replace("\1", ".") for part in key.split(".")]
    value: Any = document
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def _are_ordered(one: Any, other: Any) -> bool:
    return type(one) is type(other) is str or all(type(value) in (int, float) for value in (one, other))


_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "$eq": same_json,
    "$ne": lambda v, wanted: not same_json(v, wanted),
    "$gt": lambda v, wanted: _are_ordered(v, wanted) and v > wanted,
    "$gte": lambda v, wanted: _are_ordered(v, wanted) and v >= wanted,
    "$lt": lambda v, wanted: _are_ordered(v, wanted) and v < wanted,
    "$lte": lambda v, wanted: _are_ordered(v, wanted) and v <= wanted,
    "$in": lambda v, wanted: any(same_json(v, one) for one in wanted),
    "$nin": lambda v, wanted: not any(same_json(v, one) for one in wanted),
    "$exists": lambda v, wanted: (v is not ABSENT) == wanted,
    "$contains": lambda v, wanted: isinstance(v, list) and any(same_json(one, wanted) for one in v),
    "$not": lambda v, wanted: not _passes(v, wanted),
}


def _passes(value: Any, expression: dict[str, Any]) -> bool:
    return all(_OPERATORS[name](value, operand) for name, operand in expression.items())


def matches(document: dict[str, Any], document_filter: dict[str, Any]) -> bool:
    """Whether a document passes a filter with operators, paths and logic."""
    return all(_matches_key(document, key, wanted) for key, wanted in document_filter.items())


def _matches_key(document: dict[str, Any], key: str, wanted: Any) -> bool:
    if key == "$not":
        return not matches(document, wanted)
    if key in ("$and", "$or"):
        return (all if key == "$and" else any)([matches(document, one) for one in wanted])
    value = look_up(document, key)
    return _passes(value, wanted) if isinstance(wanted, dict) else same_json(value, wanted)


def tags_of(thing: Any) -> set[str]:
    """The tags that a filter finds: its own, and those of its context."""
    return {*thing.tags, *thing.context.tags}


def words_of(*texts: Any) -> set[str]:
    return {word for text in texts if text for word in re.findall(r"[a-z0-9]+", str(text).lower())}


def _words_of_episode(episode: ms.Episode) -> set[str]:
    outcome = episode.outcome.model_dump(exclude={"kind", "stopped_at_step"}) if episode.outcome else {}
    reflection = episode.reflection.model_dump(exclude={"generated_at"}) if episode.reflection else {}
    head = words_of(episode.task_description, *episode.tags, *map(json.dumps, outcome.values()), *reflection.values())
    return head.union(*map(_words_of_step, episode.steps))


def _words_of_step(step: ms.Step) -> set[str]:
    result = step.result
    reported = result.output if isinstance(result, ms.StepOk) else getattr(result, "message", "")
    return words_of(step.tool, step.action, json.dumps(step.parameters), reported)


def _has_text(episode: ms.Episode, text: str) -> bool:
    wanted = words_of(text)
    return bool(wanted) and wanted <= _words_of_episode(episode)


_EPISODE: dict[str, Callable[[ms.Episode, Any], bool]] = {
    "task_type": lambda e, v: e.task_type == v,
    "domain": lambda e, v: e.context.domain == v,
    "language": lambda e, v: e.context.language == v,
    "framework": lambda e, v: e.context.framework == v,
    "complexity": lambda e, v: e.context.complexity == v,
    "outcome": lambda e, v: e.outcome is not None and e.outcome.kind == v,
    "completed": lambda e, v: e.is_complete == v,
    "tags_any": lambda e, v: bool(set(v) & tags_of(e)),
    "tags_all": lambda e, v: set(v) <= tags_of(e),
    "metadata": lambda e, v: matches(e.metadata, v),
    "min_reward": lambda e, v: e.reward is not None and e.reward.total >= v,
    "max_reward": lambda e, v: e.reward is not None and e.reward.total <= v,
    "since": lambda e, v: e.started_at >= v,
    "until": lambda e, v: e.started_at < v,
    "completed_since": lambda e, v: e.completed_at is not None and e.completed_at >= v,
    "completed_until": lambda e, v: e.completed_at is not None and e.completed_at < v,
    "recalled": lambda e, v: e.recalled is not None and v in {one for _, one in e.recalled.items},
    "used": lambda e, v: e.recalled is not None and v in (e.recalled.used or []),
    "archived": lambda e, v: (e.archived_at is not None) == v,
    "child_of": lambda e, v: str(v) in e.metadata.get("parents", ()),  # the test stores relationships to them
    "text": _has_text,
}

_PATTERN: dict[str, Callable[[Any, Any], bool]] = {
    "kind": lambda p, v: p.kind == v,
    "domain": lambda p, v: p.context.domain == v,
    "domain_or_general": lambda p, v: p.context.domain in (v, "general"),
    "language": lambda p, v: p.context.language == v,
    "tags_any": lambda p, v: bool(set(v) & tags_of(p)),
    "tags_all": lambda p, v: set(v) <= tags_of(p),
    "min_success_rate": lambda p, v: p.success_rate >= v,
    "min_occurrences": lambda p, v: p.occurrence_count >= v,
}


def _holds(rules: dict[str, Callable[[Any, Any], bool]], row: Any, filters: dict[str, Any]) -> bool:
    return all(value in (None, [], {}) or rules[name](row, value) for name, value in filters.items())


def episodes(rows: Iterable[ms.Episode], *, newest_first: bool = True, **filters: Any) -> list[ms.Episode]:
    """The answer to a query; `rows` in the order in which they were first saved."""
    kept = [row for row in rows if _holds(_EPISODE, row, {"archived": False, **filters})]
    ordered = sorted(kept, key=lambda row: row.started_at)  # stable: what began at once stays in the order of saving
    return ordered[::-1] if newest_first else ordered


def patterns(rows: Iterable[Any], **filters: Any) -> list[Any]:
    """The answer to a query; `rows` in the order in which they were first saved."""
    kept = [row for row in rows if _holds(_PATTERN, row, filters)]
    return sorted(kept, key=lambda row: row.success_rate)[::-1]


def some(**all_filters: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Some of the filters, alone or together."""
    names = st.lists(st.sampled_from(sorted(all_filters)), unique=True, min_size=1, max_size=4)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: all_filters[name] for name in chosen}))
