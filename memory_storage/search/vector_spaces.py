"""The vector space in which a namespace has its vectors by a model: remembered, looked up, chosen. Stores no vector."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from memory_storage.errors import ValidationError
from memory_storage.schema.vector_tables import Space
from memory_storage.sql.documents import refuse_unstorable

from . import vector_sql as sql

if TYPE_CHECKING:
    from memory_storage.sql.session import Session

_REMEMBERED = 1_000


class KnownSpaces:
    """The spaces that were seen last, where they are not the first of their model. Threads may share it.

    It is a guess: another process may have deleted a namespace's vectors, and stored others. Every statement that uses
    a space says whether it is the namespace's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._variants: OrderedDict[tuple[str, str], Space] = OrderedDict()

    def guess(self, namespace: str, model: str) -> Space:
        """The space to try first."""
        return self._variants.get((namespace, model)) or Space(model)

    def learn(self, namespace: str, space: Space) -> None:
        """Remember the space of a namespace, in place of another of the same model."""
        key = namespace, space.model
        if space.variant is None and key not in self._variants:
            return
        with self._lock:
            self._variants.pop(key, None)
            if space.variant is not None:
                self._variants[key] = space
            if len(self._variants) > _REMEMBERED:
                self._variants.popitem(last=False)


class Stored(NamedTuple):
    """A space of a model, its dimension, and whether it is that of the namespace."""

    space: Space
    dimension: int
    is_own: bool


class Choice(NamedTuple):
    """The space for vectors to be stored in, and whether it is still to be created."""

    space: Space
    is_new: bool = False


def as_model_name(model: str) -> str:
    """The name of a model; ValidationError if that is no name."""
    if not isinstance(model, str) or not 1 <= len(model) <= 200:
        raise ValidationError("model", "a name of 1 to 200 characters", model)
    refuse_unstorable("model", model)
    return model


def stored_spaces(session: Session, model: str) -> list[Stored]:
    """The spaces of a model, in all namespaces together."""
    rows = session.read(sql.SPACES.step(namespace=session.namespace, model=model))
    return [Stored(Space.of(token, name, size), size, bool(is_own)) for token, name, size, is_own in rows]


def own_space(session: Session, model: str) -> Stored | None:
    """The space in which the namespace has its vectors by a model; None if it has none."""
    found = next((one for one in stored_spaces(session, model) if one.is_own), None)
    if found is not None:
        session.spaces.learn(session.namespace, found.space)
    return found


def choose_space(session: Session, model: str, dimension: int) -> Choice:
    """The space for vectors of a dimension.

    ValidationError if the namespace has vectors of another dimension by this model.
    """
    spaces = stored_spaces(session, model)
    for one in spaces:
        if one.is_own and one.dimension != dimension:
            raise wrong_dimension(model, one.dimension, dimension)
    for one in sorted(spaces, key=lambda one: not one.is_own):
        if one.dimension == dimension:
            return Choice(one.space)
    first = Space(model)
    is_taken = any(one.space == first for one in spaces)
    return Choice(Space(model, dimension) if is_taken else first, is_new=True)


def wrong_dimension(model: str, dimension: int, value: int) -> ValidationError:
    """The error about a vector of another dimension than those that are stored."""
    return ValidationError("vector", f"{dimension:,} numbers, as all vectors of {model!r} have", value)
