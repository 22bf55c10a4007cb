"""Limits of documents, steps, tags and texts: sizes and counts that a setting allows or the database takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from memory_storage.errors import ValidationError
from memory_storage.models import Episode, Step
from memory_storage.models.storable_text import join_field, unstorable_error
from memory_storage.settings import Limits

from .chunks import size

_NOT_IN_DOCUMENT = {"steps", "version", "created_at", "updated_at", "archived_at", "effectiveness"}
"""The fields that a stored document lacks: they are columns, or rows of their own."""


def check_episode(
    episode: Episode, document: str, limits: Limits, max_value_bytes: int | None = None, field: str = ""
) -> None:
    """ValidationError for what is over a limit, or larger than the database takes; `document` is its JSON."""
    check_text(
        join_field(field, "task_description"), episode.task_description, "task_description", limits.task_description
    )
    check_tags(join_field(field, "tags"), episode.tags, limits)
    check_tags(join_field(field, "context.tags"), episode.context.tags, limits)
    if len(episode.steps) > limits.steps_per_episode:
        raise limit_error(
            join_field(field, "steps"), "steps", limits.steps_per_episode, len(episode.steps), "steps_per_episode"
        )
    for step in episode.steps[-1:]:  # their numbers grow
        _check_number(step, limits, join_field(field, f"steps.{len(episode.steps) - 1}"))
    if _may_be_large(document, limits):
        for number, step in enumerate(episode.steps):
            check_step(step, document, limits, join_field(field, f"steps.{number}"))
    check_document(field, episode, document, limits, max_value_bytes)
    if max_value_bytes is not None and size(document) > max_value_bytes:
        for number, step in enumerate(episode.steps):
            # Without its number, as `append_step` measures it.
            as_appended = step.model_copy(update={"step_number": None}).model_dump_json()
            check_value(join_field(field, f"steps.{number}"), as_appended, max_value_bytes)


def check_document(field: str, model: BaseModel, document: str, limits: Limits, max_value_bytes: int | None) -> None:
    """Refuse a document that has too many bytes in the form in which it is stored.

    Args:
        field: what the error names; "document" if it is empty.
        model: an episode, a pattern or a place.
        document: its JSON, with what is stored beside the document.
        limits: `document_bytes`.
        max_value_bytes: what the database takes, see `SessionProtocol`.

    Raises:
        ValidationError: it is over the limit, or larger than the database takes.
    """
    most = most_bytes(limits, max_value_bytes)
    if size(document) > most and (found := stored_bytes(model)) > most:
        raise too_large(field, found, limits, max_value_bytes)


def stored_bytes(model: BaseModel) -> int:
    """How many bytes the stored document of an episode, a pattern or a place has."""
    return size(model.model_dump_json(exclude=_NOT_IN_DOCUMENT))


def most_bytes(limits: Limits, max_value_bytes: int | None) -> int:
    """How many bytes a stored document may have."""
    return limits.document_bytes if max_value_bytes is None else min(limits.document_bytes, max_value_bytes)


def too_large(field: str, found: int, limits: Limits, max_value_bytes: int | None) -> ValidationError:
    """The error for a document of more than `most_bytes`."""
    if max_value_bytes is None or found > limits.document_bytes:
        return limit_error(field or "document", "bytes of JSON", limits.document_bytes, found, "document_bytes")
    return _too_large_for_a_server(field, found, max_value_bytes)


def check_value(field: str, document: str, limit: int | None) -> None:
    """ValidationError if a document is larger than the database takes."""
    if limit is not None and size(document) > limit:
        raise _too_large_for_a_server(field, size(document), limit)


def _too_large_for_a_server(field: str, found: int, limit: int) -> ValidationError:
    return ValidationError(field or "document", f"at most {limit:,} bytes of JSON on a server", found)


def check_step(step: Step, document: str, limits: Limits, field: str = "") -> None:
    """ValidationError for what is over a limit; `document` is JSON that has the step in it."""
    if not _may_be_large(document, limits):
        return
    for name in ("parameters", "result", "metadata"):
        found = len(to_json(getattr(step, name)))
        if found > limits.step_bytes:
            raise limit_error(join_field(field, name), "bytes of JSON", limits.step_bytes, found, "step_bytes")


def _may_be_large(document: str, limits: Limits) -> bool:
    return 4 * len(document) > limits.step_bytes  # no character has more than four bytes


def _check_number(step: Step, limits: Limits, field: str) -> None:
    number, limit = step.step_number or 0, limits.steps_per_episode
    if number > limit:
        raise limit_error(join_field(field, "step_number"), "steps", limit, number, "steps_per_episode")


def check_tags(field: str, tags: Sequence[str], limits: Limits) -> None:
    """ValidationError for too many tags, a tag too short or long, or one given twice."""
    if len(tags) > limits.tags:
        raise limit_error(field, "tags", limits.tags, len(tags), "tags")
    for index, tag in enumerate(tags):
        if not limits.tag_min_length <= len(tag) <= limits.tag_max_length:
            limit = f"{limits.tag_min_length} to {limits.tag_max_length} characters"
            raise ValidationError(f"{field}.{index}", limit, tag, setting="limits.tag_min_length, tag_max_length")
    if len(set(tags)) != len(tags):
        raise ValidationError(field, "each tag once", list(tags))


def check_text(field: str, text: str, setting: str, limit: int) -> None:
    """ValidationError for a text over its limit."""
    if len(text) > limit:
        raise limit_error(field, "characters", limit, len(text), setting)


def refuse_unstorable(field: str, value: Any) -> None:
    """ValidationError for a text, at any place in `value`, that the database cannot hold."""
    error = unstorable_error(field, value)
    if error:
        raise error


def limit_error(field: str, unit: str, limit: int, actual: int, setting: str) -> ValidationError:
    """The error for too much of something."""
    return ValidationError(field, f"at most {limit:,} {unit}", actual, setting=f"limits.{setting}")
