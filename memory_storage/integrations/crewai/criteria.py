"""What selects records: CrewAI's scopes, categories and metadata as a filter of items."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from memory_storage.errors import ValidationError
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import to_list

_AFTER_SLASH = chr(ord("/") + 1)


@dataclass(frozen=True)
class Criteria:
    """A selection of records.

    Attributes:
        conditions: What the database tests, as a filter of items; None for every record.
        checks: Keys of the metadata and their values, lists and objects, which SQL cannot compare.
    """

    conditions: dict[str, Any] | None
    checks: Mapping[str, Any]

    def passes(self, document: Any) -> bool:
        """Return whether a document that the database returned is selected."""
        return all(document["metadata"].get(key) == value for key, value in self.checks.items())


def criteria(
    scope_prefix: str | None = None,
    *,
    categories: Sequence[str] | None = None,
    older_than: datetime | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Criteria:
    """Return the selection of the records that meet all of these.

    Args:
        scope_prefix: A scope, with those below it; None, or the root, for all.
        categories: A record has at least one of them; None or an empty list for any record.
        older_than: A record was created before; in UTC if it is naive.
        metadata: Keys of the metadata, and their values. None equals an absent key.

    Returns:
        The selection.

    Raises:
        ValidationError: An argument is invalid.
    """
    conditions: list[dict[str, Any]] = []
    checks: dict[str, Any] = {}
    if (path := scope_path("scope_prefix", "/" if scope_prefix is None else scope_prefix)) != "/":
        conditions.append({"scope_path": {"$gte": path, "$lt": path[:-1] + _AFTER_SLASH}})
    if names := _names("categories", categories):
        conditions.append({"$or": [{"categories": {"$contains": name}} for name in names]})
    if older_than is not None:
        conditions.append({"created": {"$lt": micros("older_than", older_than)}})
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValidationError("metadata_filter", "a dictionary of keys and values", metadata)
    for key, value in (metadata or {}).items():
        conditions.append(_metadata_condition(key, value))
        if isinstance(value, dict | list | tuple):
            checks[key] = value
    return Criteria({"$and": conditions} if conditions else None, checks)


def scope_path(field: str, scope: Any) -> str:
    """Return a scope with a slash at both ends of each label, so that paths below it begin with it.

    Args:
        field: The name that an error gives it.
        scope: A scope as CrewAI has it, like "/crew/research"; slashes that are missing or doubled do not matter.

    Raises:
        ValidationError: It is no text.
    """
    if not isinstance(scope, str):
        raise ValidationError(field, 'a scope, like "/crew/research"', scope)
    return "/" + "".join(f"{label}/" for label in scope.split("/") if label)


def micros(field: str, moment: Any) -> int:
    """Return microseconds since the epoch. CrewAI's moments are naive, in UTC.

    Args:
        field: The name that an error gives it.
        moment: The moment.

    Raises:
        ValidationError: It is no datetime.
    """
    if not isinstance(moment, datetime):
        raise ValidationError(field, "a datetime", moment)
    return to_micros(moment if moment.tzinfo is not None else moment.replace(tzinfo=timezone.utc))


def naive(moment: datetime) -> datetime:
    """Return an aware moment as CrewAI has its own: naive, in UTC."""
    return moment.astimezone(timezone.utc).replace(tzinfo=None)


def _names(field: str, names: Sequence[str] | None) -> list[str]:
    return [] if names is None else to_list(names, field, "a list of names")


def _metadata_condition(key: Any, value: Any) -> dict[str, Any]:
    if not isinstance(key, str):
        raise ValidationError("metadata_filter", "keys that are texts", key)
    name = "metadata." + key.replace("\\", "\\\\").replace(".", "\\.")
    if value is None:
        return {"$or": [{name: None}, {name: {"$exists": False}}]}
    if isinstance(value, dict | list | tuple):  # `Criteria.passes` compares it
        return {name: {"$exists": True}}
    return {name: value}
