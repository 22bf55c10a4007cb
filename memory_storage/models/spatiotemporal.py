"""A where-and-when of an episode or a step; and what is asked and answered about places and times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import Field, StrictBool, model_validator
from typing_extensions import Self

from memory_storage.errors import ValidationError

from .model import JsonObject, Model, Moment, new_id

T = TypeVar("T")

PlaceOwner = Literal["episode", "step"]
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90)]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180)]


class SpatiotemporalEntry(Model):
    """Where and when something happened: degrees (WGS 84), a half-open interval. Either half may be missing, not both.

    Without `ends_at` it is a moment; `ends_at` itself is not part of the interval. `ongoing` says that it began at
    `starts_at` and still goes on: it has no end yet.
    """

    id: UUID = Field(default_factory=new_id)
    owner_type: PlaceOwner
    owner_id: UUID
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    place_name: str | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    ongoing: StrictBool = False
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
        if self.ongoing and (self.starts_at is None or self.ends_at is not None):
            raise ValueError("what is ongoing has starts_at, and no ends_at")
        return self


class Point(Model):
    """A point on the earth, in degrees (WGS 84)."""

    latitude: Latitude
    longitude: Longitude


class Box(Model):
    """All points from `south` to `north` and from `west` eastwards to `east`, in degrees, the edges too.

    If `west` is greater than `east`, it crosses the antimeridian. The meridians -180 and 180 are the same. A box that
    touches a pole has the pole in it, whatever longitude is given for that.
    """

    south: Latitude
    west: Longitude
    north: Latitude
    east: Longitude

    @model_validator(mode="after")
    def _is_not_upside_down(self) -> Self:
        if self.south > self.north:
            raise ValidationError("north", f"from south ({self.south}) to 90", self.north)
        return self


class Interval(Model):
    """From `starts_at` on, until before `ends_at`. Without one of them it has no bound on that side."""

    starts_at: Moment | None = None
    ends_at: Moment | None = None

    @model_validator(mode="after")
    def _has_a_length(self) -> Self:
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValidationError("ends_at", f"after starts_at ({self.starts_at})", self.ends_at)
        return self


@dataclass(frozen=True, slots=True)
class Nearby(Generic[T]):
    """Something near a point, and how far from it: metres along a great circle of the mean earth (6,371,009 m)."""

    item: T
    distance_m: float
