"""An embedding: one vector of one owner by one model."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from ._model import Finite, Model, Moment

OwnerType = Literal["episode", "step", "pattern"]


class Embedding(Model):
    """A vector as it is stored: 32-bit floats, `dimension` of them."""

    owner_type: OwnerType
    owner_id: UUID
    model: Annotated[str, Field(min_length=1, max_length=200)]
    vector: Annotated[list[Finite], Field(min_length=1)]
    created_at: Moment | None = None
    updated_at: Moment | None = None

    @property
    def dimension(self) -> int:
        """How many numbers the vector has."""
        return len(self.vector)
