"""The place and time of an episode or step, and the areas and intervals of spatial queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Generic, Literal, TypeVar
from uuid import UUID

from pydantic import Field, StrictBool, model_validator
from typing_extensions import Self

from memory_storage.errors import ValidationError

from .model import JsonObject, Model, Timestamp, new_id

T = TypeVar("T")

PlaceOwner = Literal["episode", "step"]
Latitude = Annotated[float, Field(strict=True, ge=-90, le=90)]
Longitude = Annotated[float, Field(strict=True, ge=-180, le=180)]


class SpatiotemporalEntry(Model):
    """The place, the time, or both, of an episode or step.

    Attributes:
        id: a UUID of version 7 by default.
        owner_type: "episode" or "step".
        owner_id: the id of the owner.
        latitude: degrees (WGS 84), from -90 to 90; together with `longitude`.
        longitude: degrees (WGS 84), from -180 to 180.
        place_name: the name of the place.
        starts_at: the beginning, inclusive; required without a position and a `place_name`.
        ends_at: the end, exclusive; without it the entry is a point in time, unless it is `ongoing`.
        ongoing: True if it began at `starts_at` and has not ended; excludes `ends_at`.
        metadata: further data, a JSON object.
        created_at: when it was first saved.
    """

    id: UUID = Field(default_factory=new_id)
    owner_type: PlaceOwner
    owner_id: UUID
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    place_name: str | None = None
    starts_at: Timestamp | None = None
    ends_at: Timestamp | None = None
    ongoing: StrictBool = False
    metadata: JsonObject = Field(default_factory=dict)
    created_at: Timestamp | None = None

    @model_validator(mode="after")
    def _check_completeness(self) -> Self:
        if (self.latitude is None) != (self.longitude is None):
            raise ValueError("latitude and longitude must be given together")
        if self.latitude is None and self.place_name is None and self.starts_at is None:
            raise ValueError(
                "neither a place nor a time is given; give latitude and longitude, place_name or starts_at"
            )
        if self.ends_at is not None and (self.starts_at is None or self.ends_at <= self.starts_at):
            raise ValueError("ends_at must be after starts_at")
        if self.ongoing and (self.starts_at is None or self.ends_at is not None):
            raise ValueError("an ongoing entry must have starts_at, and no ends_at")
        return self


class Point(Model):
    """A point on the earth.

    Attributes:
        latitude: degrees (WGS 84), from -90 to 90.
        longitude: degrees (WGS 84), from -180 to 180.
    """

    latitude: Latitude
    longitude: Longitude


class Box(Model):
    """An area between two parallels and two meridians, in degrees, the edges included.

    A box whose `west` is greater than its `east` crosses the antimeridian; the meridians -180 and 180 are the same. A
    box that touches a pole contains it, at whatever longitude.

    Attributes:
        south: the southern edge, from -90 to 90.
        west: the western edge, from -180 to 180.
        north: the northern edge; not less than `south`.
        east: the eastern edge.
    """

    south: Latitude
    west: Longitude
    north: Latitude
    east: Longitude

    @model_validator(mode="after")
    def _check_latitudes(self) -> Self:
        if self.south > self.north:
            raise ValidationError("north", f"from south ({self.south}) to 90", self.north)
        return self


class Interval(Model):
    """A half-open interval of time.

    Attributes:
        starts_at: the beginning, inclusive; None: unbounded.
        ends_at: the end, exclusive, after `starts_at`; None: unbounded.
    """

    starts_at: Timestamp | None = None
    ends_at: Timestamp | None = None

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValidationError("ends_at", f"after starts_at ({self.starts_at})", self.ends_at)
        return self


@dataclass(frozen=True, slots=True)
class Nearby(Generic[T]):
    """An item with its distance from a point.

    Attributes:
        item: the item.
        distance_m: metres along a great circle of the mean earth (radius 6,371,009 m).
    """

    item: T
    distance_m: float
