"""Validation of what no model checks: arguments, ids, storable text, and the limits of documents, steps and tags.

Each ValidationError names the field, and says what to pass.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar, cast
from uuid import UUID

from pydantic import BaseModel
from pydantic_core import to_json

from memory_storage._formatting import with_article
from memory_storage.embedders import Embedder
from memory_storage.errors import ValidationError
from memory_storage.models import Episode, EpisodeSummary, Interval, Step
from memory_storage.settings import Limits

T = TypeVar("T")

MAX_K = 1_000
"""The most results of one search."""

# SQLite ends text at a NUL, in its functions and in drivers that read C strings. UTF-8 has no lone surrogates.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")
REPLACEMENT = "\ufffd"

_NOT_IN_DOCUMENT = {"version", "created_at", "updated_at", "archived_at", "effectiveness"}
"""Fields that a stored document omits: they are columns, or rows of other tables."""


def flag(field: str, value: object) -> bool:
    """Return a boolean as it is."""
    if not isinstance(value, bool):
        raise ValidationError(field, "must be True or False", value)
    return value


def choice(field: str, value: object, choices: tuple[str, ...]) -> None:
    """ValidationError if a value is not one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValidationError(field, f"one of {', '.join(choices)}", value)


def instance(field: str, value: object, kind: type[T], example: str) -> T:
    """Return an instance of a class; the ValidationError shows an `example` of how to make one."""
    if not isinstance(value, kind):
        raise ValidationError(field, f"must be {with_article(kind.__name__)}, like {example}", value)
    return value


def function(field: str, value: object, example: str) -> None:
    """ValidationError, with an `example`, if a value is not callable."""
    if not callable(value):
        raise ValidationError(field, f"must be a function, like {example}", value)


def finite(field: str, value: Any) -> float:
    """Return a number that is neither infinite nor too large for a float."""
    try:
        is_finite = not isinstance(value, bool) and isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an int that is too large for a float
        is_finite = False
    if not is_finite:
        raise ValidationError(field, "a finite number", value)
    return float(value)


def checked_moment(field: str, moment: object) -> datetime:
    """Return an aware datetime, normalised as models do."""
    if not isinstance(moment, datetime):
        raise ValidationError(field, "must be an aware datetime, like datetime.now(timezone.utc)", moment)
    # The rules of a time, and its conversion from a named zone, are those of a field: aware, and of years 1 to 9999.
    try:
        return cast(datetime, Interval(starts_at=moment).starts_at)
    except ValidationError as error:
        raise ValidationError(field, f"{error.limit}, like datetime.now(timezone.utc)", moment) from error


def check_on_corrupt(on_corrupt: Any) -> None:
    """ValidationError if `on_corrupt` is neither None nor callable."""
    if on_corrupt is not None and not callable(on_corrupt):
        raise ValidationError("on_corrupt", "None, or a function that takes each CorruptDataError", on_corrupt)


def embedder(field: str, value: object) -> Embedder:
    """Return an embedder; ValidationError for a bare function, which has no model."""
    if not isinstance(value, Embedder):
        example = "FunctionEmbedder(function, model=...)" if callable(value) else "HashingEmbedder()"
        raise ValidationError(field, f"must be an embedder, with a model, embed and embed_query, like {example}", value)
    return value


def aware(clock: Callable[[], datetime]) -> datetime:
    """Return the time of the storage's clock; ValidationError if it is naive."""
    moment: object = clock()
    if not isinstance(moment, datetime) or moment.tzinfo is None:
        raise ValidationError("now", "the clock must give aware moments, like datetime.now(timezone.utc)", moment)
    return moment


def whole(field: str, value: int, *, least: int = 1) -> int:
    """Return an int from `least` to 2**31 - 1."""
    # Not isinstance: True is an int.
    if type(value) is not int or not least <= value < 2**31:
        raise ValidationError(field, f"a whole number from {least}", value)
    return value


def check_k(k: int) -> int:
    """Return the number of results of a search; ValidationError if it is not from 1 to 1,000."""
    if type(k) is not int or not 1 <= k <= MAX_K:
        raise ValidationError("k", f"a whole number from 1 to {MAX_K:,}", k)
    return k


def as_id(value: UUID | str, field: str = "id") -> str:
    """Return an id as stored: a lower-case UUID string; ValidationError if it is not a UUID."""
    if isinstance(value, UUID):
        return str(value)
    # UUID() takes upper case, braces and no hyphens too; ids are compared as text, so they need one spelling.
    try:
        return str(UUID(value))
    except (ValueError, TypeError, AttributeError) as error:
        raise ValidationError(field, "must be a UUID", value) from error


def to_list(items: Iterable[T], field: str, what: str = "must be a sequence") -> list[T]:
    """Return the items as a list; ValidationError if they are not iterable, or are one text.

    Args:
        items: The items.
        field: The name that an error gives them.
        what: What they have to be.
    """
    if isinstance(items, str | bytes):  # iterable, but who passes one has forgotten the brackets
        raise ValidationError(field, what, items)
    try:
        return list(items)
    except TypeError as error:
        raise ValidationError(field, what, items) from error


def is_storable(text: str) -> bool:
    """Return whether the database can store a text."""
    return "\0" not in text if text.isascii() else _UNSTORABLE.search(text) is None


def refuse_unstorable(field: str, value: Any) -> None:
    """ValidationError if `value` contains, at any depth, a string that the database cannot store."""
    error = unstorable_error(field, value)
    if error:
        raise error


def unstorable_error(field: str, value: Any) -> ValidationError | None:
    """Find the first string with a character that the database cannot store, in values and keys.

    Args:
        field: the path of the value, with which the error's `field` begins.
        value: a string, a model or a container; nested at any depth, also in itself.

    Returns:
        An error with the field and the character; None if there is none.
    """
    # A loop, because a value may be nested deeper than Python recurses. The last part is popped first: with the
    # parts in reverse, the error is about the first of several strings.
    pending, seen = [(field, value)], set()
    while pending:
        field, value = pending.pop()
        if isinstance(value, str):  # it has no parts
            if match := _UNSTORABLE.search(value):
                what = "the NUL character" if match[0] == "\0" else f"the lone surrogate U+{ord(match[0]):04X}"
                return ValidationError(field, f"text cannot hold {what}", value)
        elif id(value) not in seen:
            seen.add(id(value))
            pending += [(join_field(field, name), part) for name, part in reversed(parts_of(value))]
    return None


def replace_unstorable(value: Any) -> Any:
    """Return the value with U+FFFD instead of each character that the database cannot store, in values and keys."""
    if isinstance(value, str):
        return _UNSTORABLE.sub(REPLACEMENT, value)
    if isinstance(value, dict):
        content: dict[str, Any] = {}
        for key, inner in value.items():
            name = _UNSTORABLE.sub(REPLACEMENT, key)
            while name != key and (name in value or name in content):  # no other key's value is lost
                name += REPLACEMENT
            content[name] = replace_unstorable(inner)
        return content
    return [replace_unstorable(inner) for inner in value] if isinstance(value, list) else value


def parts_of(value: Any) -> list[tuple[str, Any]]:
    """Return the parts of a model or container, each with its name or index."""
    if isinstance(value, BaseModel):  # not by its fields: `model_construct` may leave some out
        return list(value.__dict__.items())
    if isinstance(value, dict):
        return [("a key", key) for key in value] + [(str(key), inner) for key, inner in value.items()]
    if isinstance(value, list | tuple):
        return [(str(index), inner) for index, inner in enumerate(value)]
    return []


def join_field(field: str, name: str) -> str:
    """Return the path of a field within another."""
    return f"{field}.{name}" if field and name else field or name


def size(text: str) -> int:
    """Return the length in bytes, as UTF-8."""
    # A string knows whether it is ASCII; encoding copies it, and a document may have megabytes.
    return len(text) if text.isascii() else len(text.encode())


def check_episode(
    episode: Episode,
    document: str,
    step_sizes: Mapping[int, int],
    limits: Limits,
    max_value_bytes: int | None = None,
    field: str = "",
) -> None:
    """Check the limits of an episode.

    Args:
        episode: The episode.
        document: Its document.
        step_sizes: The bytes of its steps, by their numbers.
        limits: The limits of the settings.
        max_value_bytes: The most bytes of a value that the database accepts; None for any number.
        field: The path that an error gives the episode.

    Raises:
        ValidationError: a limit is exceeded; names the field, the limit, the value and the setting.
    """
    check_text(
        join_field(field, "task_description"), episode.task_description, "task_description", limits.task_description
    )
    if episode.summary is not None:
        check_summary(join_field(field, "summary"), episode.summary, limits)
    check_tags(join_field(field, "tags"), episode.tags, limits)
    check_tags(join_field(field, "context.tags"), episode.context.tags, limits)
    last, most = len(step_sizes) - 1, limits.steps_per_episode
    if last >= most:
        raise limit_error(join_field(field, "steps"), "steps", most, last + 1, "steps_per_episode")
    if step_sizes and (number := max(step_sizes)) > most:
        name = join_field(field, f"steps.{last}.step_number")
        raise limit_error(name, "steps", most, number, "steps_per_episode")
    if sum(step_sizes.values()) > _small(limits, max_value_bytes):
        for index, found in enumerate(step_sizes.values()):
            name = join_field(field, f"steps.{index}")
            check_step(episode.steps[index], found, limits, name)
            check_value(name, found, max_value_bytes)
    if (found := size(document)) > most_bytes(limits, max_value_bytes):
        raise too_large(field, found, limits, max_value_bytes)


def check_document(field: str, model: BaseModel, document: str, limits: Limits, max_value_bytes: int | None) -> None:
    """Check the size of a document in its stored form.

    Args:
        field: The path that an error gives it. Default: "document".
        model: A pattern or a spatiotemporal entry.
        document: Its JSON, including fields that the stored document omits.
        limits: The limits of the settings.
        max_value_bytes: what the database takes, see `SessionProtocol`.

    Raises:
        ValidationError: it exceeds `document_bytes`, or what the database accepts.
    """
    # The JSON has fields more than what is stored: only if it is too large with them, it is serialised without.
    most = most_bytes(limits, max_value_bytes)
    if size(document) > most and (found := stored_bytes(model)) > most:
        raise too_large(field, found, limits, max_value_bytes)


def stored_bytes(model: BaseModel) -> int:
    """Return the size in bytes of the stored document of a pattern or an entry."""
    return size(model.model_dump_json(exclude=_NOT_IN_DOCUMENT))


def most_bytes(limits: Limits, max_value_bytes: int | None) -> int:
    """Return the largest size in bytes of a stored document."""
    return limits.document_bytes if max_value_bytes is None else min(limits.document_bytes, max_value_bytes)


def too_large(field: str, found: int, limits: Limits, max_value_bytes: int | None) -> ValidationError:
    """Return the error for a document larger than `most_bytes`."""
    if max_value_bytes is None or found > limits.document_bytes:
        return limit_error(field or "document", "bytes of JSON", limits.document_bytes, found, "document_bytes")
    return _too_large_for_a_server(field, found, max_value_bytes)


def check_value(field: str, found: int, limit: int | None) -> None:
    """ValidationError if a row has more bytes than the database accepts."""
    if limit is not None and found > limit:
        raise _too_large_for_a_server(field, found, limit)


def _too_large_for_a_server(field: str, found: int, limit: int) -> ValidationError:
    return ValidationError(field or "document", f"at most {limit:,} bytes of JSON on a server", found)


def check_step(step: Step, found: int, limits: Limits, field: str = "") -> None:
    """ValidationError if a part of a step, which has `found` bytes in all, exceeds `step_bytes`."""
    if found <= _small(limits):
        return
    for name in ("parameters", "result", "metadata"):
        size_ = len(to_json(getattr(step, name)))
        if size_ > limits.step_bytes:
            raise limit_error(join_field(field, name), "bytes of JSON", limits.step_bytes, size_, "step_bytes")


def _small(limits: Limits, max_value_bytes: int | None = None) -> int:
    """Return the bytes of text that exceed no limit of a step as JSON, where a byte may become six characters."""
    return min(limits.step_bytes // 6, limits.step_bytes if max_value_bytes is None else max_value_bytes)


def check_summary(field: str, summary: EpisodeSummary, limits: Limits) -> None:
    """ValidationError if the texts of a summary have more characters together than `limits.summary`."""
    characters = sum(map(len, (summary.text, summary.created_by, *summary.key_steps, *summary.key_concepts)))
    if characters > limits.summary:
        raise limit_error(field, "characters", limits.summary, characters, "summary")


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


def limit_error(field: str, unit: str, limit: int, actual: int, setting: str) -> ValidationError:
    """Return the error for a value above a limit of the settings."""
    return ValidationError(field, f"at most {limit:,} {unit}", actual, setting=f"limits.{setting}")
