"""The vector space in which each namespace was last seen to store its vectors of a model."""

from __future__ import annotations

import threading
from collections import OrderedDict

from memory_storage.schema.vector_tables import VectorSpace
from memory_storage.sql.session import SessionProtocol

from .vector_spaces import Stored, stored_spaces

_REMEMBERED = 1_000


class KnownSpaces:
    """A cache of the vector space of each namespace and model, where it is not the model's first. Thread-safe.

    An entry is a guess: another process may have deleted a namespace's vectors and stored others. Each statement that
    uses a space reports whether it is the namespace's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._variants: OrderedDict[tuple[str, str], VectorSpace] = OrderedDict()

    def guess(self, namespace: str, model: str) -> VectorSpace:
        """Return the space to try first."""
        return self._variants.get((namespace, model)) or VectorSpace(model)

    def look_up(self, session: SessionProtocol, model: str) -> Stored | None:
        """Read the space of the vectors of a model in the session's namespace, and learn it; None if it has none."""
        found = next((one for one in stored_spaces(session, model) if one.is_own), None)
        if found is not None:
            self.learn(session.namespace, found.space)
        return found

    def learn(self, namespace: str, space: VectorSpace) -> None:
        """Store the space of a namespace, replacing that of the same model."""
        key = namespace, space.model
        if space.variant is None and key not in self._variants:
            return
        with self._lock:
            self._variants.pop(key, None)
            if space.variant is not None:
                self._variants[key] = space
            if len(self._variants) > _REMEMBERED:
                self._variants.popitem(last=False)
