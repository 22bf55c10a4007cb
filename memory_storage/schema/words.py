"""The column `words`: the text of a row as the full-text index has it, where the spelling differs from the document.

It is JSON, with the text of each column of the index; a view takes a column that is missing there from the document.
So a row in ASCII has NULL in `words`, and costs nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import from_json, to_json

from .spelling import is_spelled_otherwise, spelled

_ESCAPES = (r"\\", r"\"", r"\n", r"\r", r"\t", r"\b", r"\f")
_OUTCOME = ("verdict", "reason", "error_details", "artifacts", "completed", "failed", "infeasibility_signals")
_REFLECTION = ("successes", "improvements", "insights")
_SUMMARY = ("text", "key_steps", "key_concepts")
_PLAYBOOK = ("name", "condition", "action", "tool", "parameters", "expected_result", "on_error")
_RULE = ("condition", "action", "error_type", "recommended_approach", "recovery_steps", "context_features", "tools")


def words_of_episode(document: str) -> str | None:
    """Return the column `words` of an episode: JSON, or None if the index has the text as written."""
    return _words(episode_texts(from_json(document))) if is_spelled_otherwise(document) else None


def words_of_step(document: str, output: str | None = None, tool: str = "") -> str | None:
    """Return the column `words` of a step. `output`, the text of its result, and `tool` are given if it lacks them."""
    if not any(map(is_spelled_otherwise, (document, output or "", tool))):
        return None
    step = _as_mapping(from_json(document))
    result = _as_mapping(step.get("result"))
    texts = {
        "tool": tool or _text(step.get("tool")),
        "action": _text(step.get("action")),
        "parameters": _text(step.get("parameters")),
        "output": output or _text(result.get("output") or result.get("message")),
    }
    return _words(texts)


def words_of_pattern(document: str) -> str | None:
    """Return the column `words` of a pattern. A playbook always has one: the view has no columns for its steps."""
    may_be_playbook = '"playbook"' in document
    if not may_be_playbook and not is_spelled_otherwise(document):
        return None
    pattern = _as_mapping(from_json(document))
    if may_be_playbook and pattern.get("kind") == "playbook":
        steps = pattern.get("steps")
        parts = map(_as_mapping, [pattern, *(steps if isinstance(steps, list) else ())])
        filled = [{name: value for name, value in part.items() if value} for part in parts]
        rule = " ".join(text for part in filled if (text := _joined(part, _PLAYBOOK)))
        words = _words({"description": _text(pattern.get("description"))}, pattern.get("tags"))
        return to_json({**from_json(words or "{}"), "rule": spelled(rule)}).decode()
    rule = _joined(pattern, _RULE)
    return _words({"description": _text(pattern.get("description")), "rule": rule}, pattern.get("tags"))


def words_of_ending(outcome: str | None, reflection: str | None) -> str:
    """Return how an outcome and a reflection change `words`, for `json_patch`, where null removes a text."""
    parts = (("outcome", outcome, _OUTCOME), ("reflection", reflection, _REFLECTION))
    texts = {name: _joined(from_json(part), fields) for name, part, fields in parts if part is not None}
    return to_json({name: _respelled(text) for name, text in texts.items()}).decode()


def words_of_summary(summary: str) -> str:
    """Return how a summary, or null, changes `words`, for `json_patch`."""
    return to_json({"summary": _respelled(_joined(from_json(summary), _SUMMARY))}).decode()


def with_words(document: str, words: str | None) -> str:
    """Return the JSON of an object with one more field, `words`."""
    return document if words is None else f'{document[:-1]},"words":{words}}}'


def episode_texts(document: Any) -> dict[str, str]:
    """Return the texts of an episode in the index, as they are written; the summary is in the column `reflection`."""
    episode = _as_mapping(document)
    return {
        "description": _text(episode.get("task_description")),
        "outcome": _joined(episode.get("outcome"), _OUTCOME),
        "reflection": _joined(episode.get("reflection"), _REFLECTION),
        "summary": _joined(episode.get("summary"), _SUMMARY),
        "tags": _text(episode.get("tags")),
    }


def _words(texts: Mapping[str, str], tags: object = None) -> str | None:
    changed: dict[str, Any] = {name: text for name, one in texts.items() if (text := _respelled(one)) is not None}
    if isinstance(tags, list) and _respelled(_text(tags)) is not None:
        changed["tags"] = sorted({spelled(str(tag)) for tag in tags})  # `merge` unites them
    return to_json(changed).decode() if changed else None


def _respelled(text: str) -> str | None:
    respelled = spelled(text)
    return None if respelled == text else respelled


def _joined(value: object, fields: Iterable[str]) -> str:
    mapping = _as_mapping(value)
    return " ".join(text for name in fields if (text := _text(mapping.get(name))))


def _text(value: object) -> str:
    """Return the text of a JSON value without escapes, which the tokenizer would join to the next word."""
    if value is None or isinstance(value, str):
        return value or ""
    text = to_json(value).decode()
    for escape in _ESCAPES:
        text = text.replace(escape, " ")
    return text


def _as_mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
