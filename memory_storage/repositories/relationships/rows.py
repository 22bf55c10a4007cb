"""Relationships and their rows."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from memory_storage.models import Relationship
from memory_storage.sql.documents import corrupt_error, decode_value
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros


def relationship_from_row(row: Row) -> Relationship:
    """Return the relationship of a row; CorruptDataError if it cannot be decoded."""
    key, from_id, to_id, kind, weight, created_at, document = row
    try:
        ids = [UUID(one) for one in (key, from_id, to_id)]
    except (ValueError, AttributeError) as error:
        raise corrupt_error("relationships", key) from error
    return Relationship.model_construct(
        id=ids[0],
        from_id=ids[1],
        to_id=ids[2],
        kind=kind,
        weight=weight,
        metadata=decode_metadata(document, key),
        created_at=from_micros(created_at),
    )


def decode_metadata(document: str | bytes, key: str) -> dict[str, Any]:
    """Return the metadata of a stored document; CorruptDataError, with the key of its row, if it has none."""
    content = decode_value(document, "relationships", key)
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise corrupt_error("relationships", key)
    metadata: dict[str, Any] = content["metadata"]
    return metadata
