"""The latest recalls of a process, so that an episode can be completed with the ID of one."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

from memory_storage.errors import ValidationError
from memory_storage.models import Recall, RecallReceipt
from memory_storage.search.session import SearchSession
from memory_storage.sql.validation import as_id

REMEMBERED = 1_000
"""The receipts that are kept in memory, of all namespaces."""


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

    def receipt(self, recalled: Recall | UUID | str, namespace: str) -> RecallReceipt:
        """Return the receipt of a recall of a namespace.

        Args:
            recalled: The recall, or its ID.
            namespace: The namespace of the episode that is completed.

        Returns:
            The receipt.

        Raises:
            ValidationError: The ID is none of the latest recalls, or the recall is of another namespace.
        """
        if isinstance(recalled, Recall):
            owner, receipt = recalled.namespace, recalled.receipt
        else:
            key = as_id(recalled, "recalled")
            stored = self._receipts.get(UUID(key))
            if stored is None:
                limit = f"the ID of one of the latest {REMEMBERED:,} recalls of this process; or pass the Recall itself"
                raise ValidationError("recalled", limit, key)
            owner, receipt = stored
        if owner != namespace:
            raise ValidationError("recalled", f"a recall of the namespace {namespace!r}, as the episode is", owner)
        return receipt


class EpisodeSession(SearchSession, Protocol):
    """A session that knows the latest recalls."""

    @property
    def recalls(self) -> RecentRecalls:
        """The receipts of the latest recalls of this process."""
        ...
