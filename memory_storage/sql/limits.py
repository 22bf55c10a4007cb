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
"""Fields that a stored document omits: they are columns, or rows of other tables."""


def check_episode(
    episode: Episode, document: str, limits: Limits, max_value_bytes: int | None = None, field: str = ""
) -> None:
    """Check the limits of an episode.

    Args:
        episode: The episode.
        document: Its JSON.
        limits: The limits of the settings.
        value_bytes: The most bytes of a value that the database accepts; None for any number.
        field: The path that an error gives the episode.

    Raises:
        ValidationError: a limit is exceeded; names the field, the limit, the value and the setting.
    """
    check_text(
        join_field(field, "task_description"), episode.task_description, "task_description", limits.task_description
    )
    check_tags(join_field(field, "tags"), episode.tags, limits)
    check_tags(join_field(field, "context.tags"), episode.context.tags, limits)
    if len(episode.steps) > limits.steps_per_episode:
        raise limit_error(
            join_field(field, "steps"), "steps", limits.steps_per_episode, len(episode.steps), "steps_per_episode"
        )
    for step in episode.steps[-1:]:  # numbers ascend: the last one is the highest
        _check_number(step, limits, join_field(field, f"steps.{len(episode.steps) - 1}"))
    # Measuring each step serialises it again, so it is done only if the whole document is large enough to hold one that
    # exceeds the limit.
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
    """Check the size of a document in its stored form.

    Args:
        field: The path that an error gives it. Default: "document".
        model: An episode, a pattern or a spatiotemporal entry.
        document: Its JSON, including fields that the stored document omits.
        limits: The limits of the settings.
        max_value_bytes: what the database takes, see `SessionProtocol`.

    Raises:
        ValidationError: it exceeds `document_bytes`, or what the database accepts.
    """
    most = most_bytes(limits, max_value_bytes)
    if size(document) > most and (found := stored_bytes(model)) > most:
        raise too_large(field, found, limits, max_value_bytes)


def stored_bytes(model: BaseModel) -> int:
    """Return the size in bytes of the stored document of an episode, a pattern or an entry."""
    return size(model.model_dump_json(exclude=_NOT_IN_DOCUMENT))


def most_bytes(limits: Limits, max_value_bytes: int | None) -> int:
    """Return the largest size in bytes of a stored document."""
    return limits.document_bytes if max_value_bytes is None else min(limits.document_bytes, max_value_bytes)


def too_large(field: str, found: int, limits: Limits, max_value_bytes: int | None) -> ValidationError:
    """Return the error for a document larger than `most_bytes`."""
    if max_value_bytes is None or found > limits.document_bytes:
        return limit_error(field or "document", "bytes of JSON", limits.document_bytes, found, "document_bytes")
    return _too_large_for_a_server(field, found, max_value_bytes)


def check_value(field: str, document: str, limit: int | None) -> None:
    """ValidationError if a document is larger than the database accepts."""
    if limit is not None and size(document) > limit:
        raise _too_large_for_a_server(field, size(document), limit)


def _too_large_for_a_server(field: str, found: int, limit: int) -> ValidationError:
    return ValidationError(field or "document", f"at most {limit:,} bytes of JSON on a server", found)


def check_step(step: Step, document: str, limits: Limits, field: str = "") -> None:
    """ValidationError if a part of a step exceeds `step_bytes`; `document` is JSON that contains the step."""
    if not _may_be_large(document, limits):
        return
    for name in ("parameters", "result", "metadata"):
        found = len(to_json(getattr(step, name)))
        if found > limits.step_bytes:
            raise limit_error(join_field(field, name), "bytes of JSON", limits.step_bytes, found, "step_bytes")


def _may_be_large(document: str, limits: Limits) -> bool:
    return 4 * len(document) > limits.step_bytes  # a character has at most four bytes


def _check_number(step: Step, limits: Limits, field: str) -> None:
    number, limit = step.step_number or 0, limits.steps_per_episode
    if number > limit:
        raise limit_error(join_field(field, "step_number"), "steps", limit, number, "steps_per_episode")


def check_tags(field: str, tags: Sequence[str], limits: Limits) -> None:
    """ValidationError for too many tags, a tag too short or too long, or a duplicate."""
    if len(tags) > limits.tags:
        raise limit_error(field, "tags", limits.tags, len(tags), "tags")
    for index, tag in enumerate(tags):
        if not limits.tag_min_length <= len(tag) <= limits.tag_max_length:
            limit = f"{limits.tag_min_length} to {limits.tag_max_length} characters"
            raise ValidationError(f"{field}.{index}", limit, tag, setting="limits.tag_min_length, tag_max_length")
    if len(set(tags)) != len(tags):
        raise ValidationError(field, "each tag once", list(tags))


def check_text(field: str, text: str, setting: str, limit: int) -> None:
    """ValidationError if a string is longer than its limit."""
    if len(text) > limit:
        raise limit_error(field, "characters", limit, len(text), setting)


def refuse_unstorable(field: str, value: Any) -> None:
    """ValidationError if `value` contains, at any depth, a string that the database cannot store."""
    error = unstorable_error(field, value)
    if error:
        raise error


def limit_error(field: str, unit: str, limit: int, actual: int, setting: str) -> ValidationError:
    """Return the error for a value above a limit of the settings."""
    return ValidationError(field, f"at most {limit:,} {unit}", actual, setting=f"limits.{setting}")
