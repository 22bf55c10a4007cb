"""A where-and-when of an episode or a step."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, model_validator
from typing_extensions import Self

from ._model import JsonObject, Model, Moment, new_id

PlaceOwner = Literal["episode", "step"]


class SpatiotemporalEntry(Model):
    """Where and when something happened: degrees (WGS 84), a half-open interval. Either half may be missing, not both.

    Without `ends_at` it is a moment; `ends_at` itself is not part of the interval.
    """

    id: UUID = Field(default_factory=new_id)
    owner_type: PlaceOwner
    owner_id: UUID
    latitude: Annotated[float, Field(strict=True, ge=-90, le=90)] | None = None
    longitude: Annotated[float, Field(strict=True, ge=-180, le=180)] | None = None
    place_name: str | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    metadata: JsonObject = Field(default_factory=dict)
    created_at: Moment | None = None

    @model_validator(mode="after")
    def _is_somewhere_or_sometime(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude come together")
        if self.latitude is None and self.place_name is None and self.starts_at is None:
            raise ValueError("give a position, a place_name or starts_at")
        if self.ends_at is not None and (self.starts_at is None or self.ends_at <= self.starts_at):
            raise ValueError("ends_at comes after starts_at")
        return self
