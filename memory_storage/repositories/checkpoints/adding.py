"""Stores a checkpoint of an episode."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from uuid import UUID

from memory_storage.errors import NotFoundError, ValidationError
from memory_storage.models import Checkpoint
from memory_storage.sql.documents import encode, encode_value
from memory_storage.sql.session import SessionProtocol
from memory_storage.sql.statement import from_micros, to_micros
from memory_storage.sql.validation import check_document

from . import sql


def add_checkpoint(
    session: SessionProtocol, episode_id: str, label: str, state: Mapping[str, Any] | None, step_number: int | None
) -> Checkpoint:
    """Store a checkpoint, and return it.

    Args:
        session: Of the episode's namespace.
        episode_id: The ID of the episode.
        label: What it is called.
        state: What the agent needs to continue.
        step_number: The number of the last step before it; None: of the last step.
    """
    now = to_micros(session.now())
    number = 0 if step_number is None else step_number
    given = Checkpoint(
        episode_id=UUID(episode_id),
        label=label,
        state={} if state is None else state,
        step_number=number,
        created_at=from_micros(now),
    )
    document, checkpoint = encode(Checkpoint, given)
    check_document("", checkpoint, document, session.limits, session.max_value_bytes)
    key = {"namespace": session.namespace, "id": str(checkpoint.id)}
    add = sql.ADD.bind(
        episode_id=episode_id,
        step_number=step_number,
        label=checkpoint.label,
        now=now,
        document=encode_value("state", checkpoint.state),
        **key,
    )
    rows = session.write([add], again=sql.STEP_NUMBER.bind(**key))
    if rows:
        return checkpoint.model_copy(update={"step_number": rows[0][0]})
    if not session.read(sql.EPISODE.bind(namespace=session.namespace, episode_id=episode_id)):
        raise NotFoundError("episode", episode_id)
    raise ValidationError("step_number", "0, or the number of a step of the episode", step_number)
