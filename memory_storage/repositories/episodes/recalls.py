"""Receipts of recalls, so that an episode can be completed with the ID of one: those of a process, and kept ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from uuid import UUID

from pydantic_core import to_json

from memory_storage.errors import ValidationError
from memory_storage.models import Recall, RecallReceipt
from memory_storage.search.session import SearchSession
from memory_storage.sql.session import SessionProtocol, ids_as_json
from memory_storage.sql.statement import to_micros
from memory_storage.sql.validation import as_id, to_list

from . import sql

REMEMBERED = 1_000
"""The receipts that are kept in memory, of all namespaces."""

KEPT = 10_000
"""The receipts of a namespace that are kept in the database."""


@dataclass(frozen=True)
class RecallUse:
    """The recall that an episode is completed with, and what is known of its use.

    Attributes:
        receipt: what is known of it here.
        is_kept: whether only the database can know what it showed: the receipt has no other items than those used.
    """

    receipt: RecallReceipt
    is_kept: bool = False

    @property
    def used(self) -> str | None:
        """The IDs of what was used, as JSON; None if that is not known."""
        used = self.receipt.used
        return None if used is None else ids_as_json([str(one) for one in used])

    @property
    def pattern_ids(self) -> list[str]:
        """The IDs of the patterns that it showed, if it is known here."""
        return [str(one) for kind, one in self.receipt.items if kind == "pattern"]

    @property
    def document(self) -> str:
        """What is stored on the episode, or added to what the database knows of the recall."""
        return self.receipt.model_dump_json(exclude={"items"} if self.is_kept else None)


@dataclass(frozen=True)
class RecentRecalls:
    """The receipts of the latest 1,000 recalls, shared by all namespaces of a storage. Thread-safe."""

    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)
    _receipts: OrderedDict[UUID, tuple[str, RecallReceipt]] = field(init=False, default_factory=OrderedDict)

    def add(self, recall: Recall) -> None:
        """Remember the receipt of a recall, instead of the oldest one if there are too many."""
        with self._lock:
            self._receipts[recall.id] = recall.namespace, recall.receipt
            if len(self._receipts) > REMEMBERED:
                self._receipts.popitem(last=False)

    def use(self, recalled: Recall | UUID | str, namespace: str, used: Any = None, rating: Any = None) -> RecallUse:
        """Return a recall of a namespace, and what is known of its use.

        Args:
            recalled: The recall, or its ID.
            namespace: The namespace of the episode that is completed.
            used: The IDs of the records that were used; None if that is not known.
            rating: From 1 to 5; None if that is not known.

        Returns:
            The recall and its use.

        Raises:
            ValidationError: The recall is of another namespace, something else was used than it showed, or the rating
                is invalid.
        """
        listed = None if used is None else to_list(used, "used", "a sequence of IDs, not one ID")
        ids = None if listed is None else [UUID(as_id(one, "used")) for one in listed]
        if isinstance(recalled, Recall):
            stored = recalled.namespace, recalled.receipt
        else:
            key = UUID(as_id(recalled, "recalled"))
            found = self._receipts.get(key)
            if found is None:  # another process may have kept it: the database knows what it showed
                items: Any = [("pattern", one) for one in ids or ()]
                return RecallUse(RecallReceipt(id=key, items=items, used=ids, rating=rating), is_kept=True)
            stored = found
        owner, receipt = stored
        if owner != namespace:
            raise ValidationError("recalled", f"a recall of the namespace {namespace!r}, as the episode is", owner)
        return RecallUse(RecallReceipt(id=receipt.id, items=receipt.items, used=ids, rating=rating))


def keep(session: SessionProtocol, recall: Recall) -> None:
    """Store the receipt of a recall, and remove the oldest ones of the namespace if there are too many."""
    # Not the task: it is in the episode, and erasure has to find every copy of it.
    document = to_json({"items": recall.receipt.items}).decode()
    values: dict[str, Any] = {"namespace": session.namespace, "id": str(recall.id), "document": document}
    insert = sql.KEEP_RECALL.bind(now=to_micros(session.now()), **values)
    session.write([insert, sql.DROP_OLD_RECALLS.bind(namespace=session.namespace, most=KEPT)])


def unknown_recall_error(recall_id: UUID) -> ValidationError:
    """Return the error of an ID whose receipt is nowhere."""
    limit = (
        f"the ID of one of the latest {REMEMBERED:,} recalls of this process, or of one with keep=True; "
        "or pass the Recall itself"
    )
    return ValidationError("recalled", limit, str(recall_id))


def unknown_use_error(used: Sequence[UUID] | None) -> ValidationError:
    """Return the error of IDs that the recall did not show."""
    return ValidationError("used", "IDs of what was recalled", [str(one) for one in used or ()])


class EpisodeSession(SearchSession, Protocol):
    """A session that knows the latest recalls."""

    @property
    def recalls(self) -> RecentRecalls:
        """The receipts of the latest recalls of this process."""
        ...
