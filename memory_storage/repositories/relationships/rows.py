"""Relationships and their rows."""

from __future__ import annotations

from uuid import UUID

from memory_storage.models import Relationship
from memory_storage.sql.documents import corrupt_error, decode_value
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros


def relationship_from_row(row: Row) -> Relationship:
    """Return the relationship of a row."""
    key, from_id, to_id, kind, weight, created_at, document = row
    content = decode_value(document, "relationships", key)
    if not isinstance(content, dict) or not isinstance(content.get("metadata"), dict):
        raise corrupt_error("relationships", key)
    ids = {"id": UUID(key), "from_id": UUID(from_id), "to_id": UUID(to_id)}
    return Relationship.model_construct(
        **ids, kind=kind, weight=weight, metadata=content["metadata"], created_at=from_micros(created_at)
    )
