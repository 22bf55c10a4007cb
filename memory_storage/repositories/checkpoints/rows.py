"""Checkpoints and their rows."""

from __future__ import annotations

from uuid import UUID

from memory_storage.models import Checkpoint
from memory_storage.sql.documents import corrupt_error, decode_value
from memory_storage.sql.session import Row
from memory_storage.sql.statement import from_micros


def checkpoint_from_row(row: Row) -> Checkpoint:
    """Return the checkpoint of a row; CorruptDataError if it cannot be decoded."""
    key, episode_id, step_number, label, created_at, document = row
    state = decode_value(document, "checkpoints", key)
    try:
        checkpoint_id, owner_id = UUID(key), UUID(episode_id)
    except (ValueError, AttributeError) as error:
        raise corrupt_error("checkpoints", key) from error
    if not isinstance(state, dict) or type(step_number) is not int or type(label) is not str:
        raise corrupt_error("checkpoints", key)
    return Checkpoint.model_construct(
        id=checkpoint_id,
        episode_id=owner_id,
        step_number=step_number,
        label=label,
        state=state,
        created_at=from_micros(created_at),
    )
