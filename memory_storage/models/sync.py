"""Reconciliation with a server: what a sync has done, how far a replica is behind, and conflicts."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

SyncMode = Literal["local_first", "write_through"]
ConflictPolicy = Literal["server_wins", "local_wins"]


@dataclass(frozen=True)
class SyncReport:
    """What a sync has done.

    Attributes:
        pushed: changes of this file that the server has stored.
        pulled: rows that came from the server.
        merged: rows that were changed on both sides, and merged without a conflict.
        conflicts: rows whose same field was changed on both sides; they are in `storage.conflicts`.
        deleted: rows that were deleted here because they were deleted at the server.
        erased: episodes and patterns that were erased here because they were erased at the server.
        waiting: changes that are not pushed yet: new ones, or those that the server cannot take.
        round_trips: requests to the server.
        bytes_sent: bytes that were sent, with their HTTP heads.
        bytes_received: bytes that were received, as they came: compressed, if the server compresses.
        seconds: how long it took.
        is_complete: whether this file has everything that the server had.
    """

    pushed: int = 0
    pulled: int = 0
    merged: int = 0
    conflicts: int = 0
    deleted: int = 0
    erased: int = 0
    waiting: int = 0
    round_trips: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0
    seconds: float = 0.0
    is_complete: bool = True


@dataclass(frozen=True)
class SyncStatus:
    """How far a replica is from its server.

    Attributes:
        waiting: changes that are not pushed yet.
        conflicts: conflicts that are not resolved.
        synced_at: when the latest sync ended; None before the first.
        is_complete: whether the first sync is over.
        last_error: class and message of the error that ended the latest attempt of this process, or None.
    """

    waiting: int
    conflicts: int
    synced_at: datetime | None
    is_complete: bool
    last_error: str | None = None


@dataclass(frozen=True)
class Conflict:
    """A row that was changed here and at the server in a way that cannot be merged. The server's version stands.

    Attributes:
        id: the id of the conflict.
        kind: "episode", "step", "pattern", "embedding", "place", "relationship" or "checkpoint".
        object_id: the id of the row; of an embedding, its owner's.
        episode_id: the episode of a step, a vector, a place or a checkpoint, or at which a relationship begins; else
            None.
        fields: the fields that both sides have changed; `deleted` if it was deleted at the server.
        base: the fields before both changes; None if that is not known.
        mine: the fields as they were here; an episode that was deleted there has its steps.
        theirs: the fields at the server; None if it was deleted there.
        my_writer: the name of this replica.
        their_writer: the name of the replica that wrote the server's version; None if it was written at the server.
        detected_at: when the conflict was found.
    """

    id: UUID
    kind: Literal["episode", "step", "pattern", "embedding", "place", "relationship", "checkpoint"]
    object_id: UUID
    episode_id: UUID | None
    fields: list[str]
    base: dict[str, Any] | None = field(repr=False)
    mine: dict[str, Any] | None = field(repr=False)
    theirs: dict[str, Any] | None = field(repr=False)
    my_writer: str | None
    their_writer: str | None
    detected_at: datetime

    def difference(self) -> dict[str, tuple[Any, Any, Any]]:
        """Return base, mine and theirs of each field in conflict, by the field's name."""
        names = self.fields
        if names == ["deleted"] or not self.theirs or not self.mine:
            names = [name for name in (self.mine or {}) if name not in ("version", "created_at", "updated_at")]
        elif names == [self.kind]:
            names = [name for name in self.mine if self.mine[name] != self.theirs.get(name)]
        sides = self.base, self.mine, self.theirs
        return {name: (_value(sides[0], name), _value(sides[1], name), _value(sides[2], name)) for name in names}


def _value(side: dict[str, Any] | None, name: str) -> Any:
    """Return the value at a path like `metadata.owner`; None if there is none."""
    if side is None:
        return None
    if name in side:
        return side[name]
    head, _, rest = name.partition(".")
    inner = side.get(head)
    return _value(inner, rest) if rest and isinstance(inner, dict) else None
