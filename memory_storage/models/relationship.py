"""Relationships between episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, model_validator
from typing_extensions import Self

from memory_storage.errors import ValidationError

from .display import short_repr
from .model import JsonObject, Model, Timestamp, new_id

RelationshipKind = Literal["parent_child", "depends_on", "follows", "related_to", "blocks", "duplicates", "references"]
"""The kinds that this package knows. Any other name is a kind too."""

ACYCLIC = frozenset({"parent_child", "depends_on", "follows", "blocks"})
"""The acyclic kinds: an episode cannot be its own ancestor."""

EdgeDirection = Literal["outgoing", "incoming", "both"]
"""The relationships that begin at an episode, that end there, or both."""

_KIND = r"^[a-z0-9][a-z0-9_-]{1,99}$"


class Relationship(Model):
    """A relationship from one episode to another: an edge of a directed graph.

    `parent_child` leads from the parent to the child, `depends_on` to what is needed first, `follows` to the earlier
    episode, `blocks` to what has to wait, `duplicates` and `references` to the original; `related_to` has no order.
    The kinds `parent_child`, `depends_on`, `follows` and `blocks` are acyclic: a relationship that would close a cycle
    is refused.

    Attributes:
        id: a UUID of version 7 by default.
        from_id: the episode at which it begins.
        to_id: the episode at which it ends; another one than `from_id`.
        kind: one of the seven, or a name of 2 to 100 lower-case letters, digits, `-` and `_`.
        weight: its strength, from 0; None if that is unknown.
        metadata: further data, like a reason; a JSON object.
        created_at: when it was first saved.
    """

    id: UUID = Field(default_factory=new_id)
    from_id: UUID
    to_id: UUID
    kind: Annotated[str, Field(pattern=_KIND)]
    weight: Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)] | None = None
    metadata: JsonObject = Field(default_factory=dict)
    created_at: Timestamp | None = None

    def __repr__(self) -> str:
        values = self.__dict__
        facts = [f"{name}={str(values.get(name))!r}" for name in ("kind", "from_id", "to_id")]
        return short_repr("Relationship", values.get("id"), "", facts)

    __str__ = __repr__

    @model_validator(mode="after")
    def _check_ends(self) -> Self:
        if self.from_id == self.to_id:
            raise ValidationError("to_id", "another episode than from_id", str(self.to_id))
        return self


@dataclass(frozen=True, slots=True)
class RelatedEpisode:
    """An episode that relationships lead to or from.

    Attributes:
        episode_id: its ID.
        depth: the length of the shortest path; in a topological order of the longest one.
    """

    episode_id: UUID
    depth: int

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        """Yield the columns of a table of related episodes."""
        yield "episode_id", self.episode_id
        yield "depth", self.depth
